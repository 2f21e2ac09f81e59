"""What the tests of HTTP share: an app in a listener in a group, and a client that sees what is on
the wire.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import h11
import trio

from trio_run import HTTPListener

from .serving import HOST, Server, serving

App = Callable[[Any, Any, Any], Awaitable[None]]


def serving_app(app: App, **options: Any) -> AbstractAsyncContextManager[Server]:
    """The app in a HTTPListener, on a port of its own if not told otherwise: see serving()."""
    where = {} if {"path", "sockets"} & set(options) else {"port": 0, "host": HOST}
    return serving(app, kind=HTTPListener, **where | options)


def only_http(app: App) -> App:
    """The same app, without a lifespan."""

    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan", "no lifespan"
        await app(scope, receive, send)

    return without_lifespan


async def read_body(receive: Any) -> bytes:
    body, message = b"", {"more_body": True}
    while message["more_body"]:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
    return body


async def answer(send: Any, body: bytes = b"", status: int = 200, *headers: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def request(start: str = "GET / HTTP/1.1", *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([start, "Host: test", *headers, "", ""]).encode() + body


@dataclass
class Response:
    status: int
    headers: dict[str, str]  # the values of one name joined by ", "
    body: bytes
    informational: list[int]  # the statuses that came before


class Client:
    """Sends bytes, and reads response after response."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._ahead = b""
        self.send = stream.send_all

    async def ask(self, data: bytes) -> Response:
        await self.send(data)
        return await self.read(data.split()[0].decode())

    async def read(self, method: str = "GET") -> Response:
        """One response.

        One that is not whole is a h11.RemoteProtocolError, or a BrokenResourceError.
        """
        protocol = h11.Connection(h11.CLIENT)
        protocol.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        protocol.send(h11.EndOfMessage())
        if self._ahead:
            protocol.receive_data(self._ahead)
        response, body = Response(0, {}, b"", []), bytearray()
        while not isinstance(event := protocol.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                protocol.receive_data(bytes(await self.stream.receive_some()))
            elif isinstance(event, h11.InformationalResponse):
                response.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                response.status = event.status_code
                for name, value in event.headers:
                    values = response.headers.get(key := name.decode()), value.decode()
                    response.headers[key] = ", ".join(filter(None, values))
            else:
                body += event.data
        self._ahead, response.body = protocol.trailing_data[0], bytes(body)
        return response

    async def read_to_end(self) -> bytes:
        """What else there is, until a clean end of stream; a reset is an error."""
        ahead, self._ahead = self._ahead, b""
        return ahead + b"".join([bytes(data) async for data in self.stream])
