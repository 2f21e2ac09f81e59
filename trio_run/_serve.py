"""``python -m trio_run serve MODULE:APP``: an ASGI app on a port, a Unix socket, or on what a
service manager hands over.

Decides which app is meant, and what the options mean. How it is served, and how it stops, is
decided by HTTPListener and run().
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import CannotStart
from ._group import Group
from ._listeners._bind import format_address
from ._listeners._http._listener import HTTPListener
from ._run import run
from ._systemd import inherited_sockets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._journal import Event

_logger = logging.getLogger("trio_run")

_HOST, _PORT = "127.0.0.1", 8000
_REFUSED = 2  # the exit code, as argparse has it


class _Refused(Exception):
    """A sentence that says what can't be done, and what can."""


def main(arguments: Sequence[str]) -> int:
    """Serve until stopped. Returns the exit code of run(), or 2 if that could not begin."""
    options = _parser().parse_args(arguments)
    try:
        listener = _listener(_load(options.app, options.app_dir, factory=options.factory), options)
    except (_Refused, CannotStart) as exc:
        sys.stderr.write(f"{exc}\n")
        return _REFUSED
    if not options.access_log:
        logging.getLogger("trio_run.access").setLevel(logging.WARNING)
    group = Group(name=options.app, grace=options.grace, lame_duck=options.lame_duck)
    group.add(listener)
    scheme = "http" if options.ssl_certfile is None else "https"

    def say_where(event: Event) -> None:
        if event.kind == "ready" and event.actor is None:
            where = ", ".join(f"{scheme}://{format_address(each)}" for each in listener.addresses)
            _logger.info("%s: serving at %s", options.app, where)

    group.on_event(say_where)
    return run(group, stuck_after=options.stuck_after)


def _load(where: str, directory: str, *, factory: bool) -> Any:
    """The app that MODULE:APP names.

    Raises:
      _Refused: if there is none. What the module itself raises goes on its way.
    """
    name, colon, path = where.partition(":")
    if not (name and colon and path):
        raise _Refused(f"{where!r} names no app: write MODULE:APP, as in shop.web:app")
    here = str(Path(directory).resolve())
    sys.path.insert(0, here)
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise  # it is another that the module looks for
        raise _Refused(
            f"there is no module {exc.name!r} in {here}: --app-dir says where to look"
        ) from None
    app: Any = found
    for part in path.split("."):
        if not hasattr(app, part):
            raise _Refused(f"the module {name!r} has no {path!r}")
        app = getattr(app, part)
    if factory:
        if not callable(app):
            raise _Refused(f"{where} is no factory: it can't be called")
        app = app()
    if not callable(app):
        raise _Refused(f"{where} is no ASGI app: it can't be called")
    return app


def _listener(app: Any, options: argparse.Namespace) -> HTTPListener:
    """Where it is served: where the options say, or else on what was handed over."""
    given: dict[str, Any] = {}
    handed_over = [each for sockets in inherited_sockets().values() for each in sockets]
    if options.uds is not None:
        if options.port is not None or options.host is not None:
            raise _Refused("--uds takes the place of --host and --port: give it alone")
        given = {"path": options.uds, "mode": options.uds_mode}
    elif options.port is None and options.host is None and handed_over:
        given = {"sockets": handed_over}
    else:
        given = {
            "host": _HOST if options.host is None else options.host,
            "port": _PORT if options.port is None else options.port,
        }
    try:
        return HTTPListener(
            app,
            **given,
            ssl_context=_ssl_context(options),
            idle_timeout=options.timeout_keep_alive,
            max_connections=options.max_connections,
            backlog=options.backlog,
        )
    except (ImportError, ValueError) as exc:
        raise _Refused(str(exc)) from None


def _ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.ssl_certfile is None:
        if options.ssl_keyfile is not None:
            raise _Refused("--ssl-keyfile goes with --ssl-certfile")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
    except OSError as exc:  # an SSLError is one
        files = " and ".join(filter(None, (options.ssl_certfile, options.ssl_keyfile)))
        raise _Refused(f"no certificate can be read from {files}: {exc}") from None
    return context


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_run serve",
        description="Serve an ASGI app over HTTP/1.1 and WebSocket, and lose no request at a stop.",
        epilog="Sockets that systemd hands over (LISTEN_FDS) are used where nothing else is said.",
    )
    option = parser.add_argument
    option("app", metavar="MODULE:APP", help="the app, as in shop.web:app")
    option("--host", help=f"where to listen ({_HOST}); 0.0.0.0 is every IPv4 interface")
    option("--port", type=int, help=f"at which port ({_PORT}); 0 lets the kernel choose")
    option("--uds", metavar="PATH", help="listen on a Unix socket there instead")
    option(
        "--uds-mode", type=_mode, metavar="MODE", default=0o600, help="its permissions, octal (600)"
    )
    option("--app-dir", metavar="DIR", default=".", help="where the module is looked for (.)")
    option("--factory", action="store_true", help="APP is a function that returns the app")
    seconds: dict[str, Any] = {"type": _seconds, "metavar": "SECONDS"}
    option(
        *("--grace", "--timeout-graceful-shutdown"),
        **seconds,
        default=30.0,
        help="how long a stop may take (30); inf is for ever",
    )
    option(
        "--lame-duck",
        **seconds,
        default=0.0,
        help="how long to go on serving at a stop, so that balancers move away (0)",
    )
    option("--stuck-after", **seconds, default=None, help="end a program that hangs for so long")
    option(
        "--timeout-keep-alive",
        **seconds,
        default=75.0,
        help="how long a client may be silent (75)",
    )
    option("--max-connections", type=int, help="how many at once; more wait (no limit)")
    option("--backlog", type=int, help="how many may wait to be accepted (the kernel's limit)")
    option("--ssl-certfile", metavar="FILE", help="serve TLS with this certificate")
    option("--ssl-keyfile", metavar="FILE", help="and this key, if it is in a file of its own")
    option(
        "--access-log",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a line for each request",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no permissions: 660, say") from None
