"""What the tests of HTTP at a stop share."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked
from wsproto.events import AcceptConnection

from trio_run import (
    busy,
    stopping,
    wait_stopping,
)

from ..http_serving import Client, answer, read_body, serving_app
from ..serving import (
    HOST,
    Server,
    listening_at,
    open_descriptors,
)
from ..websocket_client import GOING_AWAY, WebSocketClient


class App:
    """With a lifespan. What it does with a request is in its path. It notes what it has seen."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.begun = trio.Event()
        self.go = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        what = scope.get("path", "/lifespan")[1:]
        self.seen.append(f"{what} begins")
        end = "ends"
        try:
            await getattr(self, what)(receive, send)
        except trio.Cancelled:
            end = "is cancelled"
            raise
        except Exception as exc:
            end = f"raises {type(exc).__name__}"
            raise
        finally:
            self.seen.append(f"{what} {end}")

    async def lifespan(self, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.seen.append("shutdown")
        await trio.lowlevel.checkpoint()
        await send({"type": "lifespan.shutdown.complete"})

    async def _go_on(self) -> None:
        self.begun.set()
        await self.go.wait()

    # Requests.

    async def echo(self, receive: Any, send: Any) -> None:
        await answer(send, await read_body(receive))

    async def ignore(self, _receive: Any, send: Any) -> None:
        await self._go_on()
        await answer(send, b"ignored")

    async def work(self, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        await self._go_on()
        await answer(send, b"done " + body)

    async def half(self, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await self._go_on()
        await send({"type": "http.response.body", "body": b"second"})

    async def after(self, _receive: Any, send: Any) -> None:
        await answer(send, b"soon")
        await self._go_on()

    async def hang_on(self, receive: Any, send: Any) -> None:
        """As frameworks do: one task answers, another one waits for the client to leave."""

        async def listen() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                pass
            self.seen.append(message["type"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await self._go_on()
            await answer(send, b"done")

    async def ticks(self, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        self.begun.set()
        while not stopping():
            await send({"type": "http.response.body", "body": b"tick ", "more_body": True})
            with trio.move_on_after(1):
                await wait_stopping()
        await send({"type": "http.response.body", "body": b"bye"})

    # WebSockets.

    async def chat(self, receive: Any, send: Any) -> None:
        """Answers a message when it may go on."""
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await self._go_on()
            await send({"type": "websocket.send", "text": message["text"] + "!"})
        self.seen.append(f"{message['code']} {message['reason']}")

    async def slow_accept(self, receive: Any, send: Any) -> None:
        await receive()
        await self._go_on()
        await send({"type": "websocket.accept"})

    async def news(self, _receive: Any, send: Any) -> None:
        """Receives nothing. It ends when it can't send any more."""
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "news"})
            await trio.sleep(1)

    async def busy_news(self, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        with busy():
            await self._go_on()
            await send({"type": "websocket.send", "text": "old news"})
        await receive()
        self.seen.append(f"{(await receive())['code']}")


class Where:
    """Over what a test is run."""

    def __init__(
        self, kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], path: Path
    ) -> None:
        self.kind = kind
        self._server_context, self._client_context = contexts
        self._path = path

    @property
    def options(self) -> dict[str, Any]:
        """For the listener."""
        if self.kind == "unix":
            return {"path": self._path}
        if self.kind == "sockets":
            return {"sockets": [listening_at()]}
        tls = {"ssl_context": self._server_context} if self.kind == "tls" else {}
        return {"port": 0, "host": HOST} | tls

    @asynccontextmanager
    async def serving(self, app: App, **options: Any) -> AsyncIterator[Server]:
        before = open_descriptors()
        async with serving_app(app, **self.options | options) as server:
            yield server
        # After the last app call has returned, and never before.
        assert app.seen[0] == "lifespan begins"
        assert app.seen[-2:] == ["shutdown", "lifespan ends"], app.seen
        assert app.seen.count("shutdown") == 1
        assert open_descriptors() == before

    def client(self, stream: trio.SocketStream) -> Client:
        if self.kind == "tls":
            return Client(trio.SSLStream(stream, self._client_context, server_hostname="localhost"))
        return Client(stream)

    @asynccontextmanager
    async def connected(self, server: Server) -> AsyncIterator[Client]:
        client = self.client(await server.connect())
        try:
            yield client
        finally:
            await trio.aclose_forcefully(client.stream)


async def stopped(server: Server) -> None:
    """The stop has begun, and has come as far as it can by itself."""
    server.group.stop()
    await wait_all_tasks_blocked()
    assert not server.ended.is_set()


async def is_last(client: Client, body: bytes, *, told: bool = True) -> None:
    """It reads this response, whole, and then a clean end."""
    response = await client.read()
    assert (response.status, response.body) == (200, body)
    assert response.headers.get("connection") == ("close" if told else None)
    await is_ended(client)


async def is_ended(client: Client) -> None:
    """It sees a clean end, and hangs up, as clients do."""
    assert await client.read_to_end() == b""
    await trio.aclose_forcefully(client.stream)


def drained(server: Server, count: int) -> None:
    assert server.detail == f"{count} drained, 0 cut"
    assert server.report.actors[0].outcome == "returned"


async def open_websocket(stream: trio.abc.Stream, path: str) -> WebSocketClient:
    websocket = WebSocketClient(stream, path)
    assert isinstance(await websocket.open(), AcceptConnection)
    return websocket


async def goes_away(websocket: WebSocketClient) -> None:
    """It is told that the server does, and hangs up, as clients do."""
    await websocket.is_closed(GOING_AWAY)
    await trio.aclose_forcefully(websocket.stream)
