"""What the tests of the status page share: a group with a page, and who asks it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio

from trio_run import Cause, Group, StatusPage
from trio_run.testing import connect, read_until, running

from .. import TIMEOUT

TRANSPORT = {"trust_env": False, "timeout": TIMEOUT}


class Slow:
    """Takes until it is let go, or cut, to stop."""

    def __init__(self, name: str = "slow", status: str = "busy with the rest") -> None:
        self.name = name
        self.status = status
        self.interrupted = trio.Event()
        self.let_go = trio.Event()

    async def execute(self) -> None:
        await self.interrupted.wait()
        await self.let_go.wait()

    def interrupt(self, _cause: Cause) -> None:
        self.interrupted.set()


class Site:
    """A status page, and who asks it."""

    def __init__(self, group: Group, page: StatusPage) -> None:
        self.group = group
        self.page = page

    @property
    def port(self) -> int:
        return int(self.page.addresses[0][1])

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(**TRANSPORT) as client:
            url = f"http://127.0.0.1:{self.port}{path}"
            return await client.request(method, url, headers=names)

    @asynccontextmanager
    async def looking(self) -> AsyncIterator["Viewer"]:
        async with await connect(self.page.addresses[0][:2]) as stream:
            # Of HTTP/1.0, so that the body ends with the stream.
            await stream.send_all(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
            head = await read_until(stream, b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
            yield Viewer(stream)


class Viewer:
    """What a viewer is sent, message by message."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._ahead = b""

    def __aiter__(self) -> "Viewer":
        return self

    async def __anext__(self) -> dict[str, Any]:
        while b"\n\n" not in self._ahead:
            data = await self._stream.receive_some()
            if not data:
                assert not self._ahead
                raise StopAsyncIteration
            self._ahead += data
        message, _, self._ahead = self._ahead.partition(b"\n\n")
        assert message.startswith(b"data: ")
        shown: dict[str, Any] = json.loads(message[6:])
        return shown


@asynccontextmanager
async def serving(group: Group, **options: Any) -> AsyncIterator[Site]:
    """The group, with a page; and with somebody who keeps it running, if there is nobody."""
    if not group.members:
        group.add(trio.sleep_forever)
    page = StatusPage(0, **options)
    group.add(page)
    with trio.fail_after(TIMEOUT):
        async with running(group):
            yield Site(group, page)
