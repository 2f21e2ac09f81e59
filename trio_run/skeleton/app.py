"""main: what the program is made of, in what order it starts and stops, and what it says at the
start.

What happens to a line is decided in intake.py and store.py, what can be set in config.py; how it
all stops, by trio_run.

The order. Each of these needs the next, so it starts after it, and stops before it:

    the doors (TCP, TLS, Unix, UDP)  ->  web  ->  tail, counts, retention, check  ->  store

A stop begins at the doors: they take no more clients, and finish with those that they have. The web
goes after them, so that for as long as they drain whoever looks at the page sees what is going on.
Who follows the tail then gets the last line before goodbye. The store stops last, when nobody is
left who could give it a line, or ask for one.

The status page is a daemon: it answers probes, Prometheus and browsers before all the others are
there, and until all of them have gone. The look for damage is begun anew if it fails itself: that
is no reason to store no lines.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import shlex
import shutil
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from trio_run import (
    CannotStart,
    Group,
    HTTPListener,
    Restarting,
    SignalReceiver,
    StatusPage,
    TCPListener,
    UDPListener,
    UnixListener,
    WebSocketListener,
    every,
    run,
)

from . import damage, limits
from .config import Config, ConfigError, read_config
from .counts import Counts
from .hosts import Hosts
from .intake import serve_client, serve_datagram
from .logfile import LogFile
from .store import Store
from .tail import Tail
from .web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Listener = (
        TCPListener | UDPListener | UnixListener | WebSocketListener | HTTPListener | StatusPage
    )

logger = logging.getLogger(__name__)

_PROGRAM = f"python -m {__name__.partition('.')[0]}"
_MB = 1_000_000.0  # bytes
_DAY = 24 * 60 * 60.0  # seconds
_LOOK_EVERY = 60.0  # seconds: which lines are old
_DOORS_SHARE = 0.7  # of the grace; the others need some of it after them
_GOODBYE = 5.0  # seconds for who follows the tail to close: a phone that sleeps never does


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the log collector as this process; its exit code is returned."""
    try:
        config = read_config(_PROGRAM, arguments, os.environ)
        group = make_group(config, _set_up_logging(config))
    except ConfigError as exc:
        print(f"{_PROGRAM}: error: {exc}", file=sys.stderr)
        return 2
    except (CannotStart, ImportError) as exc:  # the log can't be written, an extra is not installed
        print(exc, file=sys.stderr)
        return 1
    return run(group, signals=())  # it has a receiver of its own, which knows SIGHUP too


def make_group(config: Config, log_file: LogFile | None = None) -> Group:
    """Who runs, and who needs whom.

    Raises:
      ConfigError: if the certificate is none.
      ImportError: if an extra is not installed.
    """
    group = Group(name="collector", grace=config.grace, lame_duck=config.lame_duck)
    group.add(SignalReceiver(handlers=_at_sighup(log_file)))

    hosts = Hosts({*config.names, config.host})
    counts = Counts()
    tail = Tail(hosts)
    store = Store(config.dir, max_size=config.max_size * _MB, publish=[counts.add, tail.publish])
    ws = WebSocketListener(
        tail.serve,
        config.tail_port,
        host=config.host,
        max_connections=limits.VIEWERS,
        name="tail",
        grace=_GOODBYE,
    )
    web = Web(group, store, counts, tail, ws, hosts)
    http = HTTPListener(
        web, config.web_port, host=config.host, max_connections=limits.VIEWERS, name="web"
    )
    health = StatusPage(
        config.health_port,
        host=config.host,
        name="health",
        check=lambda: store.damage and f"the database is damaged: {store.damage}",
        names=config.names,
    )
    doors = _doors(config, store)
    old = config.retention * _DAY

    group.add(health)
    storing = group.add(store)
    behind = [
        group.add(counts, needs=[storing]),
        group.add(Restarting(partial(damage.watch, store), name="check"), needs=[storing]),
        group.add(ws, needs=[storing]),
    ]
    if math.isfinite(old):
        ticker = every(max(1.0, min(_LOOK_EVERY, old)), store.delete_older_than, old)
        behind.append(group.add(ticker, name="retention", needs=[storing]))
    serving = group.add(http, needs=behind)
    opened = [group.add(door, needs=[serving]) for door in doors]
    ways = {
        **doors,
        http: "see the lines: http://{at}/",
        ws: f"follow them: {shlex.quote(sys.executable)} -m websockets ws://{{at}}/",
        health: "see how it is: http://{at}/" + _with("curl", ", or curl {at}/readyz", ""),
    }
    greet = partial(_greet, store, ways)
    group.add(greet, name="greeting", needs=opened, on_return="ignore")
    return group


def _doors(config: Config, store: Store) -> dict[Listener, str]:
    """Where lines come in, and how to try it."""
    serve = partial(serve_client, store, idle_timeout=config.idle_timeout)
    host = config.host
    ports = 1 + (config.cert is not None) + (config.unix is not None)
    most = config.max_connections or limits.clients_at_a_port(ports)
    # A client that does not read its answers is cut before the rest of the stop has lost its time.
    grace = _DOORS_SHARE * (config.grace - config.lame_duck)
    tcp = TCPListener(serve, config.port, host=host, max_connections=most, name="tcp", grace=grace)
    udp = UDPListener(
        partial(serve_datagram, store), config.udp_port, host=host, name="udp", grace=grace
    )
    doors: dict[Listener, str] = {
        tcp: "send it a line: " + _with("nc", "echo hello | nc -N {host} {port}"),
        udp: "over UDP: " + _with("nc", "echo hello | nc -u -w 1 {host} {port}"),
    }
    context = config.tls_context()
    if context is not None:
        tls = TCPListener(
            serve,
            config.tls_port,
            host=host,
            ssl_context=context,
            max_connections=most,
            name="tls",
            grace=grace,
        )
        openssl = _with("openssl", "openssl s_client -quiet -connect {at}")
        doors[tls] = f"over TLS, typed: {openssl}"
    if config.unix is not None:
        unix = UnixListener(serve, config.unix, max_connections=most, name="unix", grace=grace)
        doors[unix] = "over the Unix socket: " + _with("nc", "echo hello | nc -NU {path}", "{path}")
    return doors


def _with(program: str, how: str, otherwise: str = "at {at}") -> str:
    """How to try something with a program, if that is on this machine."""
    return how if shutil.which(program) else otherwise


async def _greet(store: Store, ways: Mapping[Listener, str]) -> None:
    """Say where it listens, now that it does, and how to try it."""
    logger.info("lines are stored in %s", store.path)
    for listener, how in ways.items():
        logger.info("%s", how.format(**_place(listener.addresses[0])))
    logger.info("stop it: Ctrl-C, or kill -TERM %d", os.getpid())


def _place(address: Any) -> dict[str, object]:
    """An address, for commands to paste."""
    if not isinstance(address, tuple):
        return {"path": address}
    host, port = address[:2]
    ip = ipaddress.ip_address(host)
    if ip.is_unspecified:  # every interface: this one is at hand
        host = "127.0.0.1" if ip.version == 4 else "::1"
    return {
        "host": host,
        "port": port,
        "at": f"{host}:{port}" if ip.version == 4 else f"[{host}]:{port}",
    }


def _set_up_logging(config: Config) -> LogFile | None:
    """To stderr, or to a file."""
    log_file = LogFile(config.log_file) if config.log_file else None
    logging.basicConfig(
        level=logging.DEBUG if config.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S" if log_file else "%H:%M:%S",
        handlers=[log_file or logging.StreamHandler()],
    )
    if not config.verbose:  # a page that is open asks every few seconds
        logging.getLogger("trio_run.access").setLevel(logging.WARNING)
    return log_file


def _at_sighup(log_file: LogFile | None) -> dict[signal.Signals, Callable[[], None]]:
    """What SIGHUP does, on a platform that has it: without us, it would end the process."""

    def reopen() -> None:
        if log_file is None:
            logger.info("there is no log file to reopen")
        else:
            log_file.reopen()

    return {signum: reopen for signum in signal.Signals if signum.name == "SIGHUP"}
