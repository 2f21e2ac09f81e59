"""Mutated HTTP requests through nginx and HAProxy: what the proxy passes on is what the app sees.

A request that the app sees and its proxy has not passed on was smuggled past it. One that the proxy
passed on as a whole, and got an answer to, was seen once. Nobody gets an answer that is another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_run import HTTPListener
from trio_run.testing import running

from .. import TIMEOUT
from .mutations import mutated, request
from .proxies import Passed, haproxy, nginx
from .rounds import HOST, read_whole
from .seeds import seeds

AT_ONCE = 20  # clients
PATIENCE = 0.3  # seconds for an answer: a request that is not whole gets none

_TAG_IN_PATH = re.compile(r"/t/([\w.]+)")
_ANSWER = re.compile(rb"HTTP/1.1 200 [^\r]*\r\n(?:[^\r\n]+\r\n)*?tag: ([\w.]+)\r\n", re.IGNORECASE)

Proxy = Callable[..., AbstractAsyncContextManager[Passed]]
PROXIES: dict[str, Proxy] = {
    "nginx": partial(nginx, buffering=True),
    "nginx unbuffered": partial(nginx, buffering=False),
    "haproxy": haproxy,
}


@pytest.fixture
def front() -> Iterator[socket.socket]:
    """Where the proxy listens: it is given the socket, so that clients may come before it."""
    with socket.create_server((HOST, 0), backlog=512) as bound:
        bound.setblocking(False)
        yield bound


class Seen:
    """What the app has seen."""

    def __init__(self) -> None:
        self.tags: Counter[str] = Counter()
        self._in_hand = 0
        self._idle = trio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan", "no lifespan"
        self._in_hand += 1
        try:
            if scope["type"] == "http":
                await self._answer(scope, receive, send)
        finally:
            self._in_hand -= 1
            if not self._in_hand:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Until the proxy has given up those that are not whole."""
        while self._in_hand:
            self._idle = trio.Event()
            await self._idle.wait()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        found = _TAG_IN_PATH.search(scope["path"])
        assert found is not None, scope["path"]
        tag = found[1]
        self.tags[tag] += 1
        body = await read_whole(receive)
        if body is None:
            return
        if len(body) % 3 == 0:
            await trio.sleep(0.001)
        headers = [(b"tag", tag.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": hashlib.sha256(body).digest()})


async def talk(address: Any, seed: int, wrong: list[str]) -> None:
    """A client that sends a mutated request, and perhaps a right one before it and after it."""
    rng = random.Random(seed)
    tag = f"r{seed}"
    sent = [mutated(tag, rng)]
    tags = [f"{tag}before", tag, f"{tag}s", f"{tag}after"]
    if rng.random() < 0.3:
        sent.insert(0, request(tags[0], b"abc"))
    if rng.random() < 0.5:
        sent.append(request(tags[-1]))
    got = b""
    with trio.socket.socket() as client:
        await client.connect(address)
        stream = trio.SocketStream(client)
        with contextlib.suppress(trio.BrokenResourceError):  # what can be read is read
            for data in sent:
                pieces = rng.choice((1, 1, 2, 5, 30))
                step = max(1, -(-len(data) // pieces))
                for start in range(0, len(data), step):
                    await stream.send_all(data[start : start + step])
                    if pieces > 1:
                        await trio.sleep(0.0005)
                if rng.random() < 0.5:
                    with trio.move_on_after(PATIENCE):
                        got += await stream.receive_some()
        with contextlib.suppress(trio.BrokenResourceError), trio.move_on_after(PATIENCE):
            async for data in stream:
                got += data
    answered = [found.decode() for found in _ANSWER.findall(got)]
    if len(sent) > 1 and sent[0] == request(tags[0], b"abc") and tags[0] not in answered:
        wrong.append(f"{tags[0]} is not answered: {sent}")
    if answered != [each for each in tags if each in answered]:
        wrong.append(f"{tag} is answered with {answered}: {sent}")


@pytest.mark.parametrize("name", PROXIES)
async def test_what_a_proxy_passes_on_is_seen_once(
    name: str, front: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="trio_run")
    seen = Seen()
    wrong: list[str] = []
    listener = HTTPListener(seen.app, 0, host=HOST)
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(seed: int) -> None:
        async with limit:
            await talk(front.getsockname(), seed, wrong)

    async with running(listener):
        async with PROXIES[name](listener.addresses[0], front, tmp_path) as passed:
            async with trio.open_nursery() as nursery:
                for seed in seeds(300, 30_000):
                    nursery.start_soon(one, seed)
            with trio.fail_after(TIMEOUT):
                await seen.wait_idle()
    wrong += [f"{tag} was seen {count} times" for tag, count in seen.tags.items() if count > 1]
    for tag in seen.tags:
        if not (passed.answered[tag] or passed.others[tag]):
            wrong.append(f"{tag} was seen, and not passed on")
    for tag in passed.answered:
        if not seen.tags[tag]:
            wrong.append(f"{tag} was answered, and seen by nobody")
    # The server ended a connection without an answer.
    wrong += [line for line in passed.lines if re.search(r" 502 | 502 S", line)]
    assert not wrong, f"{len(wrong)}: {wrong[:10]}"
    assert len(passed.answered) > 10
