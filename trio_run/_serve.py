"""``python -m trio_run serve MODULE:APP``: an ASGI app on a port, a Unix socket, or on what a
service manager hands over.

Decides what the options mean. How the app is served, and how that stops, is decided by HTTPListener
and run().
"""

from __future__ import annotations

import argparse
import getopt
import logging
import math
import os
import signal
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

from ._arguments import (
    REFUSED,
    Refused,
    add_log_config,
    add_status_port,
    add_times,
    add_uds_mode,
    add_workers,
    count,
    port,
    set_up_logging,
    some_seconds,
)
from ._asgi import load_app, mount, without_our_frames
from ._errors import CannotStart, cannot_start
from ._group import Group, supervisor_of
from ._listeners._http._listener import HTTPListener
from ._listeners._tcp import TCPEndpoint
from ._listeners._unix import UnixEndpoint
from ._parent import Doors, endpoint_of, run_parent, run_workers, say_where
from ._reload import Reload
from ._run import run
from ._signals import SignalReceiver
from ._status._listener import StatusPage
from ._systemd import inherited_sockets
from ._terminal import has_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._listeners._bind import Endpoint

logger = logging.getLogger("trio_run")

_HOST, _PORT = "127.0.0.1", 8000
_PYTHONS_LETTERS = "bBc:dEhiIm:OPqRsStuvVW:xX:?"
_LEVELS = ("critical", "error", "warning", "info", "debug")


def main(arguments: Sequence[str]) -> int:
    """Serve until stopped. Returns the exit code of run(), or 2 if that could not begin."""
    options = _parser().parse_args(arguments)
    try:
        _set_up_logging(options)
        if options.workers is None and not options.reload:
            return _serve(options)
        _, others = _parents_parser().parse_known_args(arguments)
        at = others.index("--") if "--" in others else len(others)  # no option comes after that
        others[at:at] = ["--worker", "--lame-duck", "0"] if options.reload else ["--worker"]
        command = [sys.executable, *_interpreter_options(), "-m", "trio_run", "serve", *others]
        return _serve_by_others(options, command)
    except (Refused, CannotStart) as exc:
        sys.stderr.write(f"{exc}\n")
        return REFUSED


def _interpreter_options() -> list[str]:
    """Those of this Python, as in ``python -X dev -m trio_run``."""
    words = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # without the program's own
    options, _ = getopt.getopt(words, _PYTHONS_LETTERS, ["check-hash-based-pycs="])
    given = (option for option in options if option[0] not in ("-c", "-m"))
    return [word for option in given for word in option if word]


def _serve_by_others(options: argparse.Namespace, command: list[str]) -> int:
    """Serve by processes that get their sockets from this one.

    Raises:
      Refused, CannotStart: if something is not as it must be.
    """
    doors = Doors({"serve": _endpoints(options)}, options.lame_duck)
    if not options.reload:
        return run_workers(
            options.app,
            doors,
            command,
            options.workers,
            backlog=options.backlog,
            grace=options.grace,
            ready_within=options.ready_within,
            # A worker that can still write its stacks has done that by then.
            stuck_after=None if options.stuck_after is None else 2 * options.stuck_after,
            status_port=options.status_port,
            scheme=_scheme(options),
        )
    if options.workers is not None:
        raise Refused("--reload is for one process: leave --workers out")
    doors.lame_duck = 0.0
    with doors.opened(options.backlog):
        reload = Reload(
            command,
            doors.sockets,
            directories=options.reload_dir or [options.app_dir],
            patterns=options.reload_include,
            ssl_context=_ssl_context(options),
            grace=options.grace,
        )
        return run_parent(
            options.app,
            doors,
            reload,
            {"SIGHUP": reload.again},
            grace=options.grace,
            status_port=options.status_port,
            scheme=_scheme(options),
        )


def _set_up_logging(options: argparse.Namespace) -> None:
    set_up_logging(options.log_config)
    if options.log_level is not None:
        logger.setLevel(options.log_level.upper())
    if not options.access_log:
        logging.getLogger("trio_run.access").setLevel(logging.WARNING)


def _serve(options: argparse.Namespace) -> int:
    """Serve in this process.

    Raises:
      Refused, CannotStart: if something is not as it must be.
    """
    name = f"{options.app}[{os.getpid()}]" if options.worker else options.app
    try:
        group = Group(name=name, grace=options.grace, lame_duck=options.lame_duck)
    except ValueError as exc:
        raise Refused(str(exc)) from None
    signals = _stop_signals(group, options)
    try:
        app = load_app(options.app, options.app_dir, factory=options.factory)
    except (Refused, CannotStart):
        raise
    except Exception as exc:
        sys.excepthook(type(exc), without_our_frames(exc), exc.__traceback__)
        return 1
    ssl_context = _ssl_context(options)
    if options.root_path:
        app = mount(app, options.root_path)
    try:
        listener = HTTPListener(
            app,
            **_where(options),
            ssl_context=ssl_context,
            proxy_protocol=options.proxy_protocol,
            forwarded_allow_ips=options.forwarded_allow_ips,
            idle_timeout=options.timeout_keep_alive,
            max_message_size=options.ws_max_size,
            max_connections=options.max_connections,
            max_age=options.max_age,
            max_requests=options.max_requests,
            backlog=options.backlog,
        )
        if options.status_port is not None:
            group.add(StatusPage(options.status_port))
    except (ImportError, TypeError, ValueError) as exc:
        raise Refused(str(exc)) from None
    group.add(listener)
    if options.worker:
        supervisor_of(group).journal.is_of_a_worker = True
    else:
        say_where(group, listener, _scheme(options))
    code = run(group, stuck_after=options.stuck_after, signals=signals)
    return REFUSED if code == 1 and cannot_start(group.report.cause.error) else code


def _stop_signals(group: Group, options: argparse.Namespace) -> tuple[signal.Signals, ...]:
    """At what run() is to stop it, and have SIGHUP do from now on what is meant by it.

    In a terminal it comes when that is closed. A service gets it for a reload: its only process has
    nothing to reload, and a worker gets what is meant for its parent.
    """
    usual = (signal.SIGINT, signal.SIGTERM)
    if not hasattr(signal, "SIGHUP"):  # pragma: no cover - tested on Linux
        return usual
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as nohup has it
    if not options.worker and not is_ignored and has_terminal():
        return (*usual, signal.SIGHUP)
    # Nothing, also while the app is loaded. SIG_IGN would be handed on to what it starts.
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    if options.worker:
        return usual

    def nothing() -> None:
        logger.info("%s: there is nothing to reload without --workers", options.app)

    group.add(SignalReceiver(handlers={signal.SIGHUP: nothing}))  # and it stops at the usual ones
    return ()


def _scheme(options: argparse.Namespace) -> str:
    return "http" if options.ssl_certfile is None else "https"


def _where(options: argparse.Namespace) -> dict[str, Any]:
    """Where it is served, as an HTTPListener takes it."""
    handed_over = [each for sockets in inherited_sockets().values() for each in sockets]
    at_port = options.port is not None or options.host is not None
    if at_port + (options.uds is not None) + (options.fd is not None) > 1:
        raise Refused("--host and --port, --uds and --fd say where to listen: give one of them")
    if options.uds is not None:
        return {"path": options.uds, "mode": options.uds_mode}
    if options.fd is not None:
        return {"sockets": [_socket_at(options.fd)]}
    if handed_over and not at_port:
        return {"sockets": handed_over}
    return {
        "host": _HOST if options.host is None else options.host,
        "port": _PORT if options.port is None else options.port,
    }


def _endpoints(options: argparse.Namespace) -> list[Endpoint]:
    """The same for a parent."""
    where = _where(options)
    try:
        if "sockets" in where:
            return [endpoint_of(each) for each in where["sockets"]]
        if "path" in where:
            return [UnixEndpoint("serve", where["path"], None, mode=where["mode"])]
        return [TCPEndpoint("serve", where["host"], where["port"], None, reuse_port=False)]
    except ValueError as exc:
        raise Refused(str(exc)) from None


def _socket_at(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as exc:
        raise Refused(f"--fd {descriptor} is no socket of this process: {exc.strerror}") from None


def _ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.ssl_certfile is None:
        for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
            if getattr(options, name) is not None:
                raise Refused(f"--{name.replace('_', '-')} goes with --ssl-certfile")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # With a password, if only an empty one, OpenSSL does not stop to ask for it.
        context.load_cert_chain(
            options.ssl_certfile, options.ssl_keyfile, password=options.ssl_keyfile_password or ""
        )
    except OSError as exc:  # an SSLError is one
        files = " and ".join(filter(None, (options.ssl_certfile, options.ssl_keyfile)))
        raise Refused(f"no certificate can be read from {files}: {exc}") from None
    if options.ssl_ca_certs is not None:
        try:
            context.load_verify_locations(options.ssl_ca_certs)
        except OSError as exc:
            raise Refused(
                f"no certificates can be read from {options.ssl_ca_certs}: {exc}"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_run serve",
        allow_abbrev=False,
        parents=[_parents_parser()],
        description="Serve an ASGI app over HTTP/1.1 and WebSocket, and lose no request at a stop.",
        epilog="Sockets that systemd hands over (LISTEN_FDS) are used where nothing else is said. "
        "With --workers SIGHUP replaces one after the other, each when the new one is ready, and "
        "SIGTTIN and SIGTTOU are for one more and one fewer.",
    )
    option = parser.add_argument
    option("app", metavar="MODULE:APP", help="the app, as in shop.web:app")
    option("--worker", action="store_true", help=argparse.SUPPRESS)  # a parent says so
    option("--app-dir", metavar="DIR", default=".", help="where the module is looked for (.)")
    option("--factory", action="store_true", help="APP is a function that returns the app")
    option(
        "--root-path",
        metavar="PATH",
        default="",
        help="the path that a proxy takes off what it passes on, as in /shop",
    )
    add_times(option, lame_duck="for how long to go on serving, so that balancers move away (0)")
    option(
        "--timeout-keep-alive",
        type=some_seconds,
        metavar="SECONDS",
        default=75.0,
        help="how long a client may be silent (75)",
    )
    option("--max-connections", type=count, metavar="N", help="so many at once; more wait")
    option(
        "--max-age",
        type=some_seconds,
        metavar="SECONDS",
        default=math.inf,
        help="a connection so old ends, after the response that is under way (no limit)",
    )
    option(
        "--max-requests",
        type=count,
        metavar="N",
        help="a connection ends with so many requests (no limit)",
    )
    option("--backlog", type=count, metavar="N", help="so many may wait (the kernel's limit)")
    option(
        "--ws-max-size",
        type=count,
        metavar="BYTES",
        default=2**24,
        help="the longest WebSocket message (16777216)",
    )
    option(
        "--access-log",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a line for each request",
    )
    add_log_config(option)
    option("--log-level", choices=_LEVELS, metavar="LEVEL", help=f"{', '.join(_LEVELS)} (info)")
    proxy = parser.add_argument_group("behind a proxy").add_argument
    proxy(
        "--forwarded-allow-ips",
        metavar="LIST",
        default=os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1"),
        help="which proxies are believed what X-Forwarded-For and -Proto say: addresses and "
        "networks with commas, * for all ($FORWARDED_ALLOW_IPS, or else 127.0.0.1)",
    )
    proxy(
        "--proxy-protocol",
        action="store_true",
        help="each connection begins with the header of a proxy (PROXY protocol, 1 or 2)",
    )
    tls = parser.add_argument_group("TLS").add_argument
    tls("--ssl-certfile", metavar="FILE", help="serve TLS with this certificate")
    tls("--ssl-keyfile", metavar="FILE", help="and this key, if it is in a file of its own")
    tls("--ssl-keyfile-password", metavar="TEXT", help="what the key is encrypted with")
    tls(
        "--ssl-ca-certs",
        metavar="FILE",
        help="only for clients with a certificate that one of these has signed",
    )
    return parser


def _parents_parser() -> argparse.ArgumentParser:
    """What is not for workers: where to listen, and by how many processes it is served."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    where = parser.add_argument_group("where").add_argument
    where("--host", help=f"where to listen ({_HOST}); 0.0.0.0 is every IPv4 interface")
    where("--port", type=port, help=f"at which port ({_PORT}); 0 lets the kernel choose")
    where("--uds", metavar="PATH", help="listen on a Unix socket there instead")
    add_uds_mode(where)
    where("--fd", type=int, metavar="N", help="listen on the socket that is descriptor N instead")
    add_status_port(where)
    how = parser.add_argument_group("processes").add_argument
    add_workers(how, about="so many processes that serve, and one that looks after them")
    how("--reload", action="store_true", help="for development: begin anew when a file changes")
    how(
        "--reload-dir",
        action="append",
        metavar="DIR",
        help="where files of Python are watched, with all below (--app-dir); any number of times",
    )
    how(
        "--reload-include",
        action="append",
        metavar="PATTERN",
        default=[],
        help="watch these too, as in *.html; any number of times",
    )
    return parser
