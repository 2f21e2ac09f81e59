"""TLS over a connection: its handshake, its end of file when it drains, and its close_notify.

The protocol is that of :class:`trio.SSLStream`. When a connection drains is decided in _stream.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import trio

from ._connection import InputEnded
from ._turn import Turn

if TYPE_CHECKING:
    import ssl

    from ._connection import Connection, Credentials

HANDSHAKE_TIMEOUT = 10.0  # seconds


class TLSConnection(trio.abc.Stream):
    """A :class:`trio.SSLStream` that reads a plain end of file when its connection drains.

    What is not defined here it leaves to the SSLStream.
    """

    def __init__(self, connection: Connection, context: ssl.SSLContext) -> None:
        connection.carry_tls()
        self._connection = connection
        self._stream = trio.SSLStream(connection, context, server_side=True)
        self._closing = Turn()  # two at once would lose the close_notify

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def shake_hands(self) -> str | None:
        """Its handshake, of HANDSHAKE_TIMEOUT seconds at the most. Returns why there was none."""
        self._connection.shaking_hands = True
        with trio.move_on_after(HANDSHAKE_TIMEOUT):
            try:
                await self._stream.do_handshake()
            except trio.BrokenResourceError as exc:
                return str(exc.__cause__ or exc)
            self._connection.shaking_hands = False
            return None
        return "it took too long"

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except InputEnded:
            return b""
        self._connection.has_asked()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    def has_input(self) -> bool:
        """Is there something to read, or the end, here or in the socket? Does not wait."""
        return self._holds_input() or self._connection.has_input()

    def _holds_input(self) -> bool:
        # Trio has no public name for what it has received and not decrypted.
        return bool(self._stream._incoming.pending or self._stream.pending())

    @property
    def peer(self) -> object:
        """As :attr:`Connection.peer`."""
        return self._connection.peer

    @property
    def credentials(self) -> Credentials | None:
        """As :attr:`Connection.credentials`."""
        return self._connection.credentials

    async def aclose(self) -> None:
        """Close it, with a close_notify, and as :meth:`Connection.aclose`."""
        try:
            await self._closing.take()
            try:
                await self._close()
            finally:
                self._closing.give_back()
        finally:
            self._connection.close()

    async def _close(self) -> None:
        if self._connection.is_torn:  # a close_notify would say that it is the whole
            await self._connection.aclose()
            return
        self._connection.end_input()
        # OpenSSL sends no close_notify while it holds input that nobody has read.
        with contextlib.suppress(
            trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
        ):
            while self._holds_input() and await self.receive_some():
                pass
        if not self._connection.closed:
            await self._stream.aclose()
