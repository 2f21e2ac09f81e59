"""``python -m trio_run supervise --listen NAME=WHERE -- COMMAND``: workers of any program that
takes its sockets as systemd hands them over.

Decides what the options mean. What is done with the sockets and at signals is decided in _parent.
How workers are started, replaced and ended is decided in _workers.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._arguments import (
    REFUSED,
    Refused,
    add_log_config,
    add_status_port,
    add_times,
    add_uds_mode,
    add_workers,
    set_up_logging,
)
from ._errors import CannotStart
from ._listeners._tcp import TCPEndpoint
from ._listeners._unix import UnixEndpoint
from ._parent import Doors, HandedOver, run_workers
from ._systemd import inherited_sockets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._listeners._bind import Endpoint

_HOST = "127.0.0.1"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
_PORT = re.compile(r"(?:(?P<host>\*|\[[^]]+\]|[^][:]+):)?(?P<port>[0-9]{1,5})")


def main(arguments: Sequence[str]) -> int:
    """Supervise until stopped. Returns the exit code of run(), or 2 if that could not begin."""
    parser = _parser()
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    options, command = parser.parse_args(words[:at]), words[at + 1 :]
    if not command:
        parser.error("there is no command: it comes last, after --, as in -- python -m shop")
    try:
        set_up_logging(options.log_config)
        if shutil.which(command[0]) is None:
            raise Refused(f"there is no program {command[0]!r}")
        return run_workers(
            Path(command[0]).name if options.name is None else options.name,
            Doors(_endpoints(options), options.lame_duck),
            command,
            options.workers,
            notify=options.notify,
            grace=options.grace,
            ready_within=options.ready_within,
            stuck_after=options.stuck_after,
            status_port=options.status_port,
        )
    except (Refused, CannotStart) as exc:
        sys.stderr.write(f"{exc}\n")
        return REFUSED


def _endpoints(options: argparse.Namespace) -> dict[str, list[Endpoint]]:
    """By name: those that were handed over, and those that are to be opened beside them."""
    given = inherited_sockets().items()
    endpoints: dict[str, list[Endpoint]] = {
        name: [HandedOver([each]) for each in sockets] for name, sockets in given
    }
    handed_over = frozenset(endpoints)
    for text in options.listen:
        name, equals, where = text.partition("=")
        if not (equals and _NAME.fullmatch(name)):
            raise Refused(
                f"--listen {text!r} has no name: write NAME=PORT, NAME=HOST:PORT or NAME=unix:PATH"
            )
        endpoint = _endpoint(where, options.uds_mode)
        if name not in handed_over:
            endpoints.setdefault(name, []).append(endpoint)
    return endpoints


def _endpoint(where: str, mode: int) -> Endpoint:
    try:
        if where.startswith("unix:"):
            return UnixEndpoint("supervise", where.removeprefix("unix:"), None, mode=mode)
        found = _PORT.fullmatch(where)
        if found is None:
            raise ValueError(f"{where!r} is neither PORT, HOST:PORT nor unix:PATH")
        host = None if found["host"] == "*" else (found["host"] or _HOST).strip("[]")
        return TCPEndpoint("supervise", host, int(found["port"]), None, reuse_port=False)
    except ValueError as exc:
        raise Refused(f"--listen: {exc}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_run supervise",
        allow_abbrev=False,
        usage="%(prog)s --listen NAME=WHERE [OPTION ...] -- COMMAND ...",
        description="Run workers of any program that takes its sockets as from systemd, begin anew "
        "those that end, and replace all without losing a request.",
        epilog="SIGHUP replaces one worker after the other, each when the new one is ready. "
        "SIGTTIN and SIGTTOU: one more, one fewer. SIGTERM and SIGINT stop all. Sockets that "
        "systemd hands over (LISTEN_FDS) are the workers' by their names, and a --listen of such a "
        "name is left out.",
    )
    option = parser.add_argument
    option(
        "--listen",
        action="append",
        metavar="NAME=WHERE",
        default=[],
        help="a socket that they get by this name (LISTEN_FDNAMES); any number of times. WHERE is "
        f"PORT (of {_HOST}), HOST:PORT (* is every interface), or unix:PATH",
    )
    add_uds_mode(option)
    add_workers(option, about="how many there are (as many as cores that we may use)")
    add_times(option, lame_duck="for how long COMMAND goes on serving at SIGTERM (0)")
    add_status_port(option)
    add_log_config(option)
    option(
        "--no-notify",
        dest="notify",
        action="store_false",
        help="COMMAND does not say READY=1 (NOTIFY_SOCKET): it is ready when it runs",
    )
    option("--name", help="what it is called in the log (the program's name)")
    return parser
