"""Servers that are replaced under load, and what was lost of the requests meanwhile.

Decides when each is replaced, and what counts as lost. What a client does is decided in _requests,
what the proxies do in _proxies, and how each peer is started in _command_lines.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from ._command_lines import command_line
from ._proxies import count_repeated, haproxy, nginx
from ._requests import METHODS, Outcome, send_requests
from ._server import Server, free_port
from ._turn import Sample, Turn

_CLIENTS = 50
_WORKERS = 2
_SERVERS = 3  # behind a proxy
_FIRST = 0.5  # seconds until the first is replaced
_EVERY = 3.0  # seconds from one SIGHUP to the next
_PAUSE = 0.5  # seconds from the end of one restart to the next one
_PATIENCE = 30.0


class _Ledger:
    """What the app began, and what it has done: see servers/rolling.py."""

    def __init__(self, path: Path, requests: int) -> None:
        self.path = path
        with path.open("wb") as file:
            file.truncate(2 * requests)

    def lost_or_twice(self, failed: set[int]) -> int:
        """Requests that were begun and not done, done without an answer, or begun again."""
        entries = self.path.read_bytes()
        begun, done = entries[::2], entries[1::2]
        wrong = {number for number in failed if begun[number]}
        for number, pair in enumerate(zip(begun, done, strict=True)):
            if pair not in ((0, 0), (1, 1)):
                wrong.add(number)
        return len(wrong)


class _Servers:
    """The servers of a turn, each at a port. All are ended at the end of the block."""

    def __init__(self, turn: Turn, ledger: _Ledger) -> None:
        self._turn = turn
        self._environment = {**os.environ, "LEDGER": str(ledger.path)}
        self._running: dict[int, Server] = {}

    def start(self, port: int, workers: int | None = None) -> Server:
        command = command_line(self._turn.peer, "rolling", port, workers)
        server = Server(command, port=port, environment=self._environment)
        self._turn.servers.append(server)
        self._running[port] = server.__enter__()
        return server

    def stop(self, port: int) -> None:
        server = self._running[port]
        server.terminate()
        ended, _, _ = select.select([server.ended], [], [], _PATIENCE)
        del self._running[port]
        server.__exit__(None, None, None)
        if not ended:
            raise RuntimeError(f"{self._turn.peer} runs {_PATIENCE:g} s after SIGTERM")

    def __enter__(self) -> _Servers:
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._running.values():
            server.__exit__(None, None, None)


class _Replacing:
    """Replace, again and again, in a thread: ``with _Replacing(replace, every):``."""

    def __init__(self, replace: Callable[[int], None], every: float) -> None:
        self._replace, self._every = replace, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: Exception | None = None
        self.times = 0

    def _run(self) -> None:
        wait = _FIRST
        try:
            while not self._over.wait(wait):
                self._replace(self.times)
                self.times += 1
                wait = self._every
        except Exception as exc:
            self._error = exc

    def __enter__(self) -> _Replacing:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


def roll_workers(turn: Turn) -> Sample:
    """One server with several workers, which are replaced at SIGHUP."""
    ledger = _Ledger(turn.scratch / "ledger", turn.count)
    with _Servers(turn, ledger) as servers:
        port = free_port()
        server = servers.start(port, _WORKERS)
        with _Replacing(lambda _: os.kill(server.pid, signal.SIGHUP), _EVERY) as replacing:
            outcome = send_requests(port, _CLIENTS, turn.count)
        servers.stop(port)
    return _sample(outcome, outcome.not_at_once, ledger, replacing)


def roll_haproxy(turn: Turn) -> Sample:
    return _roll_behind(turn, haproxy)


def roll_nginx(turn: Turn) -> Sample:
    return _roll_behind(turn, nginx)


def _roll_behind(
    turn: Turn,
    proxy: Callable[[Sequence[int], Path], AbstractContextManager[int]],
) -> Sample:
    """Several servers behind a proxy, which are restarted in turn."""
    ledger = _Ledger(turn.scratch / "ledger", turn.count)
    with _Servers(turn, ledger) as servers:
        ports = [free_port() for _ in range(_SERVERS)]
        for each in ports:
            servers.start(each)

        def restart(times: int) -> None:
            port = ports[times % _SERVERS]
            servers.stop(port)
            servers.start(port)

        with proxy(ports, turn.scratch) as front:
            with _Replacing(restart, _PAUSE) as replacing:
                outcome = send_requests(front, _CLIENTS, turn.count)
        for each in ports:
            servers.stop(each)
    not_at_once = count_repeated(turn.scratch) if proxy is nginx else outcome.not_at_once
    return _sample(outcome, not_at_once, ledger, replacing)


def _sample(
    outcome: Outcome, not_at_once: Counter[str], ledger: _Ledger, replacing: _Replacing
) -> Sample:
    get, post = METHODS
    return {
        "failed": len(outcome.failed),
        "get": not_at_once[get],
        "post": not_at_once[post],
        "lost": ledger.lost_or_twice(outcome.failed),
        "replaced": replacing.times,
        "rate": outcome.answered / outcome.seconds,
    }
