"""main: what the program is made of, its command line, and what it says.

What happens to a line is decided in intake.py and store.py; when and how it all stops, by trio_run.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trio_run import Group, TCPListener, run

from .intake import serve_client
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the log collector as this process; its exit code is returned."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        group = _group(options)
    except ValueError as exc:  # a port of 70000, a lame duck longer than the grace
        parser.error(str(exc))
    return run(group)


def _group(options: argparse.Namespace) -> Group:
    """Who runs, and who needs whom: the store is ready before the first client, and stops after the last."""
    group = Group(name="collector", grace=options.grace, lame_duck=options.lame_duck)
    store = Store(options.dir)
    intake = TCPListener(
        partial(serve_client, store),
        options.port,
        host=options.host,
        max_connections=options.max_connections,
        name="intake",
    )
    storing = group.add(store)
    listening = group.add(intake, needs=[storing])
    group.add(
        partial(_greet, intake, store), name="greeting", needs=[listening], on_return="ignore"
    )
    return group


async def _greet(intake: TCPListener, store: Store) -> None:
    """Say where it listens, now that it does, and how to try it."""
    host, port = intake.addresses[0][:2]
    address = ipaddress.ip_address(host)
    logger.info("listening on %s port %d, storing in %s", host, port, store.path)
    if address.is_unspecified:  # every interface: this one is at hand
        host = "127.0.0.1" if address.version == 4 else "::1"
    logger.info("send it a line: echo hello | nc -N %s %d", host, port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_run",
        description="A small log collector: stores each line that it gets over TCP in SQLite, "
        "and then answers it with 'ok <id>'. Ctrl-C stops it gracefully.",
    )
    option = parser.add_argument
    option(
        "--host",
        default="127.0.0.1",
        help="the address or name to listen on (default: %(default)s)",
    )
    option(
        "--port",
        type=int,
        default=7000,
        help="the port to listen on; 0 takes a free one (default: %(default)s)",
    )
    option(
        "--dir",
        type=Path,
        default=Path("trio-run-data"),
        help="where the database is, lines.db; made if there is none (default: %(default)s)",
    )
    option(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long a stop may take; what still runs then is cut (default: %(default)s)",
    )
    option(
        "--lame-duck",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long to go on serving once asked to stop; part of the grace (default: %(default)s)",
    )
    option(
        "--max-connections",
        type=int,
        metavar="N",
        help="how many clients to serve at once; more wait their turn (default: no limit)",
    )
    option("--verbose", action="store_true", help="log details as well")
    return parser
