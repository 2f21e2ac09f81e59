"""One server's turn: how the server of a peer is started, and the figures of its stop.

What is done with it is decided in _measures.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ._client import Stop
from ._server import LeftOut, Server, python

# The peers that speak HTTP, ours first.
HTTP_PEERS = (
    "trio-run",
    "hypercorn-trio",
    "hypercorn-asyncio",
    "uvicorn-h11",
    "uvicorn-standard",
    "granian",
    "go-http",
)

Sample = dict[str, float | None]


@dataclass
class Turn:
    """One server's turn: its scenario measures this peer, with so many connections."""

    peer: str
    count: int
    seconds: float  # where something is done for some time
    scratch: Path
    random: random.Random
    timeline: list[tuple[float, int]] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)  # that were started

    def server(self, what: str, *arguments: str) -> Server:
        server = Server([*_command(self.peer, self.scratch), what, *arguments])
        self.servers.append(server)
        return server

    def stopped(self, server: Server, stop: Stop, *, after: float = 0.0, **more: object) -> Sample:
        """The figures of a stop that is over.

        Its times are counted from so many seconds after the signal.
        """
        self.timeline[:] = stop.timeline
        times = {"first_end": stop.first_end, "last_end": stop.last_end, "exit": stop.exit}
        return {
            **{name: None if when is None else when - after for name, when in times.items()},
            "refused": stop.refused,
            "resets": stop.resets,
            "cpu": server.cpu - stop.cpu_before,
            "peak": server.peak,
            **more,  # type: ignore[dict-item]
        }


_PYTHON = {
    "trio-run": ("trio_run",),
    "status-page": ("trio_run", "status-page"),
    "plain-trio": ("plain_trio",),
    "asyncio": ("asyncio_streams", "asyncio"),
    "uvloop": ("asyncio_streams", "uvloop"),
    "close-loop": ("close_loop",),
    "trio-websocket": ("websocket", "trio-websocket"),
    "websockets": ("websocket", "websockets"),
    "hypercorn-trio": ("http", "hypercorn-trio"),
    "hypercorn-asyncio": ("http", "hypercorn-asyncio"),
    "uvicorn-h11": ("http", "uvicorn-h11"),
    "uvicorn-standard": ("http", "uvicorn-standard"),
    "granian": ("http", "granian"),
}
_GO = {"go-oklog": "oklog", "go-http": "nethttp"}


def _command(peer: str, scratch: Path) -> list[str]:
    return [str(_build_go(_GO[peer], scratch))] if peer in _GO else python(*_PYTHON[peer])


@functools.cache
def _build_go(name: str, scratch: Path) -> Path:
    go = shutil.which("go")
    if go is None:
        raise LeftOut("Go is not installed (Debian: golang-go and golang-github-oklog-run-dev)")
    source = Path(__file__).parent / "servers" / name / "main.go"
    built = subprocess.run(
        [go, "build", "-o", scratch / name, source],
        env={
            "GOCACHE": str(Path(tempfile.gettempdir()) / "trio-run-benchmarks-go"),
            **os.environ,
            "GO111MODULE": "off",
            "GOPATH": "/usr/share/gocode",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise LeftOut(f"it does not build: {built.stderr.strip().splitlines()[-1]}")
    return scratch / name
