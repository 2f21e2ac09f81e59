"""The scenarios: what is measured, of whom, with how many connections; and the targets.

What is done in one turn is decided in _measures, whose turn it is in _run, what the figures mean
side by side in _results.
"""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable
from dataclasses import dataclass

from . import _client, _measures, _rolling, _scaling
from ._command_lines import PEERS as COMMAND_LINES
from ._turn import HTTP_PEERS, Sample, Turn


@dataclass(frozen=True)
class Figure:
    """One kind of number."""

    title: str
    unit: str  # "s", "B", "/s", "%", "ratio", or "" for a count
    more_is_better: bool = False


FIGURES = {
    "exit": Figure("SIGTERM to exit", "s"),
    "refused": Figure("refused", "s"),
    "first_end": Figure("first end", "s"),
    "last_end": Figure("last end", "s"),
    "resets": Figure("reset", ""),
    "lost": Figure("lost", ""),
    "cpu": Figure("CPU", "s"),
    "peak": Figure("peak", "B"),
    "each": Figure("memory of one", "B"),
    "rate": Figure("rate", "/s", more_is_better=True),
    "cpu_each": Figure("CPU for one", "s"),
    "share": Figure("server's core in use", "%"),
    "time": Figure("time", "s"),
    "start": Figure("of it to start", "s"),
    "rest": Figure("CPU of a second at rest", "s"),
    "failed": Figure("failed", ""),
    "get": Figure("GET, tried once", ""),
    "post": Figure("POST, tried once", ""),
    "gain": Figure("against one", "ratio", more_is_better=True),
    "replaced": Figure("restarts", "", more_is_better=True),
}


LARGEST = _client.largest(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
_STREAMS = ("trio-run", "plain-trio", "asyncio", "uvloop")
_OF_A_STOP = ("exit", "refused", "first_end", "last_end", "resets", "lost", "cpu", "peak", "each")
_OF_A_RATE = ("rate", "cpu_each", "share")
_OF_A_TRANSFER = ("time", "cpu", "peak")
_OF_A_ROLL = ("failed", "get", "post", "lost", "replaced", "rate")
_LOST = "requests that the app began, and that were lost or begun twice"


@dataclass(frozen=True)
class Scenario:
    """Something to measure.

    The first of the peers is ours. The first of the figures is what it is about.
    """

    name: str
    about: str
    measure: Callable[[Turn], Sample]
    peers: tuple[str, ...]
    counts: tuple[int, ...]  # of what, is ``unit``
    quick: tuple[int, ...]
    figures: tuple[str, ...] = _OF_A_STOP
    unit: str = "connections"
    lost: str = ""  # what is
    most_rounds: int | None = None  # None: as many as there are


SCENARIOS = (
    Scenario(
        "idle-tcp",
        "idle TCP connections",
        _measures.stop_idle,
        (*_STREAMS, "go-oklog", "close-loop"),
        tuple(count for count in (100, 1000, 10_000, LARGEST) if count <= LARGEST),
        (1000, 5000),
    ),
    Scenario(
        "mid-request",
        "a request in work on every connection, 100 ms of it left",
        _measures.stop_working,
        (*_STREAMS, "go-oklog"),
        (100, 1000),
        (1000,),
        lost="replies",
    ),
    Scenario(
        "grace",
        "handlers that never leave, from the end of their grace on",
        _measures.stop_held,
        ("trio-run", "plain-trio"),
        (1000, 10_000),
        (1000,),
    ),
    Scenario(
        "idle-tls",
        "idle TLS connections",
        _measures.stop_tls,
        _STREAMS,
        (1000,),
        (500,),
        lost="clients without a close_notify",
    ),
    Scenario(
        "idle-unix",
        "idle connections on a Unix socket",
        _measures.stop_unix,
        _STREAMS,
        (10_000,),
        (1000,),
    ),
    Scenario(
        "udp",
        "a full queue of datagrams",
        _measures.stop_udp,
        _STREAMS,
        (250,),  # the kernel's default has room for some 270
        (250,),
        figures=("lost", "exit", "cpu", "peak"),
        unit="datagrams",
        lost="datagrams without a reply",
    ),
    Scenario(
        "websocket",
        "open WebSockets",
        _measures.stop_websocket,
        ("trio-run", "trio-websocket", "websockets"),
        (1000,),
        (500,),
        lost="clients that were not told 1001",
    ),
    Scenario(
        "http-idle",
        "keep-alive connections at rest",
        _measures.stop_http,
        HTTP_PEERS,
        (1000,),
        (500,),
    ),
    Scenario(
        "http-memory",
        "memory of a keep-alive connection at rest",
        _measures.stop_http,
        HTTP_PEERS,
        (2000,),
        (1000,),
        figures=("each", "peak"),
    ),
    Scenario(
        "http-load",
        "HTTP clients in a request loop, half of them slow",
        _measures.stop_loaded_http,
        HTTP_PEERS,
        (40,),
        (40,),
        lost="requests begun and not answered whole",
    ),
    Scenario(
        "http-rate",
        "HTTP requests per second, a two-byte reply (wrk)",
        _measures.measure_http,
        HTTP_PEERS,
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "http-10k",
        "HTTP requests per second, a reply of 10 kB (wrk)",
        functools.partial(_measures.measure_http, path="/10k"),
        HTTP_PEERS,
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "http-post",
        "HTTP requests per second, 10 kB sent with each (wrk)",
        _measures.measure_posts,
        HTTP_PEERS,
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "http-tls",
        "HTTP requests per second over TLS, a two-byte reply (wrk)",
        _measures.measure_https,
        HTTP_PEERS,
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "http-download",
        "one big reply, which the app sends in parts of 1 MB",
        _measures.measure_download,
        HTTP_PEERS,
        (500,),
        (50,),
        figures=_OF_A_TRANSFER,
        unit="MB",
    ),
    Scenario(
        "http-upload",
        "one big request, which the client sends in parts of 1 MB",
        _measures.measure_upload,
        HTTP_PEERS,
        (500,),
        (50,),
        figures=_OF_A_TRANSFER,
        unit="MB",
    ),
    Scenario(
        "websocket-echo",
        "WebSocket messages per second, there and back, 64 bytes",
        _measures.measure_messages,
        (
            "trio-run",
            "hypercorn-trio",
            "uvicorn-standard",
            "granian",
            "trio-websocket",
            "websockets",
        ),
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "echo",
        "round trips per second, 64 bytes",
        _measures.measure_echo,
        (*_STREAMS, "go-oklog"),
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "status",
        "a status page at which nobody looks, beside none",
        _measures.measure_status,
        ("status-page", "trio-run"),
        (10_000,),
        (5000,),
        figures=("rate", "rest", "exit", "cpu", "peak", "each"),
    ),
    Scenario(
        "accept",
        "new connections per second, each served and closed",
        _measures.measure_accept,
        (*_STREAMS, "go-oklog"),
        (50,),
        (50,),
        figures=_OF_A_RATE,
        unit="at once",
    ),
    Scenario(
        "workers",
        "workers on all cores, requests that take 0.5 ms of processor time each; 50 clients",
        _scaling.measure_workers,
        COMMAND_LINES,
        (2,),
        (2,),
        figures=("gain", "rate"),
        unit="workers",
    ),
    Scenario(
        "rolling",
        "requests to two workers, which SIGHUP replaces every 3 s; 50 clients",
        _rolling.roll_workers,
        COMMAND_LINES,
        (1_000_000,),
        (100_000,),
        figures=_OF_A_ROLL,
        unit="requests",
        lost=_LOST,
        most_rounds=1,
    ),
    Scenario(
        "rolling-haproxy",
        "requests through HAProxy to three servers, restarted in turn; 50 clients",
        _rolling.roll_haproxy,
        COMMAND_LINES,
        (1_000_000,),
        (100_000,),
        figures=_OF_A_ROLL,
        unit="requests",
        lost=_LOST,
        most_rounds=1,
    ),
    Scenario(
        "rolling-nginx",
        "requests through nginx to three servers, restarted in turn; 50 clients",
        _rolling.roll_nginx,
        COMMAND_LINES,
        (1_000_000,),
        (100_000,),
        figures=_OF_A_ROLL,
        unit="requests",
        lost=_LOST,
        most_rounds=1,
    ),
    Scenario(
        "busy",
        "one `with busy():` in a connection's handler",
        _measures.measure_busy,
        ("trio-run", "empty-with"),
        (1,),
        (1,),
        figures=("time",),
        unit="handler",
    ),
    Scenario(
        "actors",
        "actors of one group, started and stopped",
        _measures.measure_actors,
        ("trio-run", "bare-nursery"),
        (10_000,),
        (10_000,),
        figures=("time", "start"),
        unit="actors",
    ),
)


@dataclass(frozen=True)
class Target:
    """What a figure of ours is to reach, and what we dream of.

    Both are ratios to a peer's, or numbers.
    """

    scenario: str
    figure: str
    against: str | None  # a peer
    reach: float  # at most; at least, where more is better
    dream: float
    count: int | None = None  # where it was not measured with so many, at the largest that was


TARGETS = (
    Target("idle-tcp", "exit", "plain-trio", 0.14, 0.10, 10_000),
    Target("idle-tcp", "exit", "asyncio", 0.65, 0.5, 10_000),
    Target("idle-tcp", "exit", "uvloop", 1.0, 0.8, 10_000),
    Target("idle-tcp", "exit", "go-oklog", 1.35, 1.1, 10_000),
    Target("idle-tcp", "exit", "asyncio", 1.2, 1.0, 100),
    Target("idle-tcp", "first_end", None, 0.020, 0.010, 10_000),
    Target("idle-tcp", "each", "plain-trio", 0.65, 0.5, 10_000),
    Target("echo", "rate", "plain-trio", 1.4, 1.7),
    Target("echo", "rate", "uvloop", 0.75, 0.9),
    Target("http-rate", "rate", "hypercorn-trio", 10, 15),
    Target("http-rate", "rate", "uvicorn-h11", 2.2, 3),
    Target("http-rate", "rate", "uvicorn-standard", 0.7, 1.0),
    Target("http-memory", "each", "uvicorn-standard", 1.0, 0.8),
    Target("http-load", "lost", None, 0, 0),
    Target("http-load", "resets", None, 0, 0),
    Target("websocket", "exit", "websockets", 1.2, 1.0),
    Target("idle-tls", "exit", "asyncio", 1.0, 0.8),
    Target("http-download", "time", "uvicorn-standard", 1.2, 1.0),
    Target("http-upload", "time", "uvicorn-standard", 1.2, 1.0),
    Target("websocket-echo", "rate", "uvicorn-standard", 0.7, 1.0),
    Target("workers", "gain", None, 1.7, 1.9),
    Target("rolling", "failed", None, 0, 0),
    Target("rolling", "lost", None, 0, 0),
    Target("rolling-haproxy", "failed", None, 0, 0),
    Target("rolling-haproxy", "lost", None, 0, 0),
    Target("rolling-nginx", "failed", None, 0, 0),
    Target("rolling-nginx", "lost", None, 0, 0),
)
