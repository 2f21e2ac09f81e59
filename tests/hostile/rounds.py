"""One round of a hostile test: a server with random clients, stopped at a random moment; and many
of them at the same time.
"""

from __future__ import annotations

import logging
import random
import re
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from trio_run import Group, HTTPListener, TCPListener, UnixListener, WebSocketListener, busy
from trio_run.testing import connect

from .clients import Clients
from .dialects import HTTP, Ask, Dialect, Lines, WebSockets, ask_of, pattern
from .ledger import Ledger

HOST = "127.0.0.1"
TOGETHER = 25  # rounds at the same time: they wait most of the time
HANG = 60  # seconds: a bound for a round that hangs, not a measure
STOPS = ("plain", "plain", "lame duck", "short", "zero", "twice", "cancel")

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@dataclass
class Round:
    """What a server of a round needs."""

    seed: int
    contexts: Contexts
    directory: Path
    ledger: Ledger = field(default_factory=Ledger)
    opened: int = 0  # handlers
    open_at_stop: int = 0
    over: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    async def answer(self, ask: Ask, send: Callable[[bytes], Awaitable[object]]) -> None:
        """In busy(), or what comes to the same."""
        await trio.sleep(ask.pause / 1000)
        data = f"{ask.tag} {ask.size}\n".encode() + pattern(ask.tag, ask.size)
        step = max(1, -(-len(data) // ask.pieces))
        for start in range(0, len(data), step):
            await send(data[start : start + step])


# The servers.


def handler_of_lines(round_: Round) -> Callable[[Any], Awaitable[None]]:
    ledger, rng = round_.ledger, round_.rng
    overlaps = rng.random() < 0.3

    async def one(stream: Any, ask: Ask, before: trio.Event | None, after: trio.Event) -> None:
        with busy(), ledger.answering(ask.tag):
            if before is not None:
                await before.wait()
            await round_.answer(ask, stream.send_all)
            after.set()

    async def handler(stream: Any) -> None:
        buffer = b""
        last: trio.Event | None = None
        round_.opened += 1
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    data = await stream.receive_some()
                except trio.BrokenResourceError:
                    break
                if not data:
                    break
                buffer += data
                while b"\n" in buffer and not nursery.cancel_scope.cancel_called:
                    line, _, buffer = buffer.partition(b"\n")
                    try:
                        ask = ask_of(line.decode())
                    except (ValueError, TypeError):
                        return  # junk
                    after = trio.Event()
                    try:
                        if overlaps:
                            with busy():
                                # The block of the child is open before this one has ended.
                                await nursery.start(start_one, one, stream, ask, last, after)
                            last = after
                        else:
                            await one(stream, ask, None, after)
                    except trio.BrokenResourceError:
                        return

    async def start_one(
        one: Any, stream: Any, ask: Ask, last: Any, after: Any, *, task_status: Any
    ) -> None:
        with busy():
            task_status.started()
            try:
                await one(stream, ask, last, after)
            except trio.BrokenResourceError:
                after.set()

    return handler


def handler_of_websockets(round_: Round) -> Callable[[Any], Awaitable[None]]:
    from trio_websocket import ConnectionClosed

    async def handler(request: Any) -> None:
        websocket = await request.accept()
        try:
            while True:
                message = await websocket.get_message()
                with busy():
                    try:
                        ask = ask_of(message)
                    except ValueError:
                        return
                    with round_.ledger.answering(ask.tag):
                        await trio.sleep(ask.pause / 1000)
                        body = pattern(ask.tag, ask.size).decode()
                        await websocket.send_message(f"{ask.tag} {body}")
        except ConnectionClosed:
            pass

    return handler


def app_of(round_: Round) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """It answers as it is asked to."""
    ledger, rng = round_.ledger, round_.rng

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan", "no lifespan"
        if scope["type"] == "websocket":
            await talk(receive, send)
            return
        try:
            ask = ask_of(scope["path"][1:])
        except (ValueError, TypeError):
            await respond(send, b"junk", 404)
            return
        with ledger.answering(ask.tag):
            body = await read_whole(receive)
            if body is None:
                raise OSError("the client is gone")
            assert body == pattern(ask.tag, len(body)), f"a body of another than {ask.tag}"
            await trio.sleep(ask.pause / 1000)
            headers = [(b"tag", ask.tag.encode())]
            if rng.random() < 0.5:
                headers.append((b"content-length", b"%d" % ask.size))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            data = pattern(ask.tag, ask.size)
            step = max(1, -(-len(data) // ask.pieces))
            for start in range(0, max(1, len(data)), step):
                more = start + step < len(data)
                piece = data[start : start + step]
                await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def talk(receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            try:
                ask = ask_of(message.get("text") or "")
            except ValueError:
                return
            with ledger.answering(ask.tag):
                await trio.sleep(ask.pause / 1000)
                text = f"{ask.tag} {pattern(ask.tag, ask.size).decode()}"
                await send({"type": "websocket.send", "text": text})

    return app


async def read_whole(receive: Any) -> bytes | None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message["body"]
        more = message["more_body"]
    return body


async def respond(send: Any, body: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class Kind:
    """A kind of server."""

    dialect: Callable[[], Dialect]
    listener: Callable[[Round, dict[str, Any]], Any]
    tls: bool = False
    unix: bool = False
    answers_what_came: bool = True


def _tcp(round_: Round, options: dict[str, Any]) -> Any:
    return TCPListener(handler_of_lines(round_), 0, host=HOST, **options)


def _unix(round_: Round, options: dict[str, Any]) -> Any:
    return UnixListener(
        handler_of_lines(round_), round_.directory / f"{round_.seed}.socket", **options
    )


def _websocket(round_: Round, options: dict[str, Any]) -> Any:
    return WebSocketListener(handler_of_websockets(round_), 0, host=HOST, **options)


def _http(round_: Round, options: dict[str, Any]) -> Any:
    return HTTPListener(app_of(round_), 0, host=HOST, **options)


def _http_unix(round_: Round, options: dict[str, Any]) -> Any:
    path = round_.directory / f"{round_.seed}.http"
    return HTTPListener(app_of(round_), path=path, **options)


KINDS = {
    "tcp": Kind(Lines, _tcp),
    "tls": Kind(Lines, _tcp, tls=True),
    "unix": Kind(Lines, _unix, unix=True),
    "websocket": Kind(WebSockets, _websocket, answers_what_came=False),
    "http": Kind(HTTP, _http),
    "https": Kind(HTTP, _http, tls=True),
    "http-unix": Kind(HTTP, _http_unix, unix=True),
    "asgi-websocket": Kind(WebSockets, _http, answers_what_came=False),
    "asgi-websocket-tls": Kind(WebSockets, _http, tls=True, answers_what_came=False),
}


# A round.


class Errors(logging.Handler):
    """What was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


async def play(kind: Kind, round_: Round) -> None:
    """Its ledger then has what is wrong."""
    rng, ledger = round_.rng, round_.ledger
    stop = rng.choice(STOPS)
    options: dict[str, Any] = {}
    if kind.tls:
        options["ssl_context"] = round_.contexts[0]
    if rng.random() < 0.2:
        options["max_connections"] = rng.randint(1, 5)
    lame_duck = rng.uniform(0, 0.1) if stop == "lame duck" else 0
    group = Group(grace=rng.uniform(0.001, 0.3) if stop == "short" else 20, lame_duck=lame_duck)
    listener = kind.listener(round_, options)
    group.add(listener)
    ledger.is_hard = stop in ("short", "zero", "twice", "cancel")
    clients = Clients(
        ledger,
        lambda: connect(listener),
        kind.dialect,
        random.Random(rng.random()),
        round_.contexts[1] if kind.tls else None,
        can_half_close=not kind.tls and kind.dialect is not WebSockets,
    )
    over = rng.uniform(0, 0.5)
    moment = rng.uniform(0, 0.6)
    number = rng.randint(1, 12)
    with trio.move_on_after(HANG) as bound:
        async with trio.open_nursery() as nursery:
            serving = trio.CancelScope()

            async def serve(*, task_status: trio.TaskStatus[None]) -> None:
                with serving:
                    await group.run(task_status=task_status)

            await nursery.start(serve)
            nursery.start_soon(clients.run, number, over)
            await trio.sleep(moment)
            ledger.stop_came = trio.current_time()
            if stop == "cancel":
                serving.cancel()
            else:
                group.stop(grace=0 if stop == "zero" else None)
            if stop == "twice":
                await trio.sleep(rng.uniform(0, 0.2))
                group.stop(grace=0)
    if bound.cancelled_caught:
        ledger.wrong.append(f"it hangs: {listener.status}")
        return
    ledger.check(knows_reset=not kind.unix, answers_what_came=kind.answers_what_came)
    [report] = group.report.actors
    counts = re.fullmatch(r"([\d,]+) drained, ([\d,]+) cut(?:, \d+ failed)?", report.detail)
    if counts is None:
        ledger.wrong.append(f"the report says {report.detail}")
        return
    drained, cut = (int(count.replace(",", "")) for count in counts.groups())
    if (cut and not ledger.is_hard) or drained + cut > number:
        ledger.wrong.append(f"the report says {report.detail}")
    tags_cut = {tag.partition(".")[0] for tag, fate in ledger.begun.items() if fate == "cut"}
    if kind.dialect is not WebSockets and cut < len(tags_cut):
        ledger.wrong.append(f"the report says {report.detail}, of {tags_cut}")


def play_all(
    seeds: range,
    contexts: Contexts,
    play_one: Callable[[Round], Awaitable[None]],
    *,
    wanted: str = "nothing",
) -> None:
    """Play a round for each seed, many at a time. All that is wrong is one AssertionError."""
    logger = logging.getLogger("trio_run")
    errors = Errors()
    wrong: list[str] = []
    propagates, level = logger.propagate, logger.level
    logger.addHandler(errors)
    logger.propagate = False
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as directory:
            for first in range(seeds.start, seeds.stop, TOGETHER):
                some = range(first, min(first + TOGETHER, seeds.stop))
                before = _descriptors()
                trio.run(_play_some, some, contexts, Path(directory), play_one, wrong)
                if _descriptors() != before:
                    wrong.append(f"{some}: descriptors are left")
    finally:
        logger.removeHandler(errors)
        logger.propagate = propagates
        logger.setLevel(level)
    wrong += [line for line in errors.lines if wanted not in line]
    assert not wrong, f"{len(wrong)} are wrong:\n" + "\n".join(wrong[:10])


async def _play_some(
    seeds: range,
    contexts: Contexts,
    directory: Path,
    play_one: Callable[[Round], Awaitable[None]],
    wrong: list[str],
) -> None:
    rounds = [Round(seed, contexts, directory) for seed in seeds]
    async with trio.open_nursery() as nursery:
        for each in rounds:
            nursery.start_soon(play_one, each)
    for each in rounds:
        wrong += [f"seed {each.seed}: {what}" for what in each.ledger.wrong]


def _descriptors() -> int:
    here = Path("/proc/self/fd")
    return len(list(here.iterdir())) if here.is_dir() else 0
