"""A WebSocket client for tests, on wsproto."""

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import CloseConnection, Event, Request, TextMessage

GOING_AWAY = CloseConnection(code=1001, reason="going away")
NORMAL = CloseConnection(code=1000, reason="")


class WebSocketClient:
    """A client by hand: it does nothing by itself, so that each test says what it does and when."""

    def __init__(self, stream: trio.abc.Stream, target: str = "/path") -> None:
        self.stream = stream
        self._target = target
        self._protocol = WSConnection(ConnectionType.CLIENT)

    async def open(self, *subprotocols: str) -> Event | None:
        """Ask for a WebSocket; the answer is returned."""
        await self.ask(*subprotocols)
        return await self.receive()

    async def ask(self, *subprotocols: str, behind: bytes = b"") -> None:
        request = Request(host="localhost", target=self._target, subprotocols=list(subprotocols))
        await self.stream.send_all(self._protocol.send(request) + behind)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self._protocol.send(event))

    async def say(self, *texts: str) -> None:
        await self.stream.send_all(b"".join(self._protocol.send(TextMessage(t)) for t in texts))

    async def receive(self) -> Event | None:
        """The next event; None at a clean end of stream."""
        while True:
            for event in self._protocol.events():
                return event
            data = await self.stream.receive_some()
            if not data:
                return None
            self._protocol.receive_data(bytes(data))

    async def hear(self) -> str:
        """The next message, whole."""
        parts: list[str] = []
        while True:
            event = await self.receive()
            assert isinstance(event, TextMessage), event
            parts.append(event.data)
            if event.message_finished:
                return "".join(parts)

    async def is_closed(self, close: CloseConnection = GOING_AWAY) -> None:
        """It gets this Close and nothing before, answers it, and then the stream ends."""
        await self.is_told(close)
        await self.send(close.response())
        assert await self.receive() is None

    async def is_told(self, close: CloseConnection = GOING_AWAY) -> None:
        event = await self.receive()
        assert isinstance(event, CloseConnection), event
        assert (event.code, event.reason or "") == (close.code, close.reason)
