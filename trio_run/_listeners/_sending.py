"""What is sent on a connection: how long its client may take for it, and whose turn is next.

What of it was a whole reply is decided in _busy, what is received and when it ends in _connection.
"""

from __future__ import annotations

import math
import socket as stdlib_socket
import sys
from typing import TYPE_CHECKING

import trio

from ._busy import Busyness
from ._linger import not_taken

if TYPE_CHECKING:
    from .._inside import Inside

# How many bytes the kernel may hold that are not on their way yet, before a send waits. LITTLE, as
# trio.SocketStream has it: else a slow client's reply would seem to be sent long before it is, and
# the close does not wait for it so long. That costs a long reply a third of its rate; so from the
# first large part that has to wait to the end of the reply there may be MUCH. Not so elsewhere than
# on Linux: nobody can tell there that a slow client takes some of it.
LITTLE = 2**14
MUCH = 2**20 if sys.platform == "linux" else LITTLE

_LOOKS = 4  # in a send_timeout, whether the client has taken something


def hold_unsent(socket: stdlib_socket.socket, most: int) -> bool:
    """Have the kernel hold so many bytes at the most. False where it knows no such limit."""
    try:
        socket.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NOTSENT_LOWAT, most)
    except (OSError, AttributeError):
        return False
    return True


class SendTimeout(trio.BrokenResourceError):
    """The client has taken nothing of what is sent for too long."""


class Sender(Busyness):
    """A connection, as far as it sends.

    On the way of each message a check is called only where it will fail: calls are dear.
    """

    __slots__ = (
        "_carries_tls",
        "_closed",
        "_has_sent_half",
        "_sending",
        "_sent_eof",
        "_socket",
        "_waited",
        "may_hold_much",
        "more_follows",
        "send_timeout",
    )

    def __init__(self, socket: stdlib_socket.socket, inside: Inside, *, shielded: bool) -> None:
        super().__init__(inside, shielded=shielded)
        self._socket = socket
        self.send_timeout = math.inf  # seconds in which the client takes nothing of what is sent
        self.more_follows = False  # of the same reply: what is sent now need not be with its client
        self._carries_tls = False
        self.may_hold_much = False  # until that is sent: wait_nearly_all_sent()
        self._sending = False
        self._has_sent_half = False  # of what is being sent
        self._sent_eof = False
        self._closed = False
        self._waited = False  # since a task last let the others run

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            self._claim_sending()
        # TLS has looked for a cancel already, and loses what it gives us if we don't send it.
        if not self._carries_tls:
            await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        # Bytes that are sent at once need no view of them.
        view = data if isinstance(data, bytes) else memoryview(data).cast("B")
        size, sent = len(view), 0
        self._sending = True
        try:
            if self._closed or self._sent_eof:
                self._check_sendable()
            while sent < size:
                try:
                    sent += self._socket.send(memoryview(view)[sent:] if sent else view)
                except BlockingIOError:
                    self._has_sent_half = sent > 0
                    if self.more_follows and size > LITTLE and not self.may_hold_much:
                        self.may_hold_much = hold_unsent(self._socket, MUCH)
                    await self._wait_writable()
                    waited = True
        except OSError as exc:
            self._broken = True
            raise trio.BrokenResourceError(f"connection broken: {exc}") from exc
        finally:
            self._sending = self._has_sent_half = False
            if isinstance(view, memoryview):
                view.release()  # a traceback may keep us, and the caller wants to change its bytes
            self._sent += sent
            if 0 < sent < size:
                self._tear(self._sent - sent)
        if waited:
            self._waited = True
        elif self._waited:
            # One turn of the scheduler in each receive-and-send is enough for the others.
            self._waited = False
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_nearly_all_sent(self) -> None:
        """The end of a long reply: it has not been sent while much of it is held back.

        Raises:
          trio.BrokenResourceError: if the client is gone, and has not taken all.
        """
        self._claim_sending()
        self.may_hold_much = False
        self._sending = self._has_sent_half = True
        try:
            hold_unsent(self._socket, LITTLE)
            await self._wait_writable()
            if not_taken(self._socket):
                self._socket.send(b"")  # fails where the client is gone
        except OSError as exc:
            self._broken = True
            raise trio.BrokenResourceError(f"connection broken: {exc}") from exc
        finally:
            self._sending = self._has_sent_half = False
        self._waited = True

    def has_waited(self) -> None:
        """The running task has just let the others run: it need not when it sends."""
        self._waited = True

    async def wait_send_all_might_not_block(self) -> None:
        self._claim_sending()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._sending = True
        try:
            self._check_sendable()
            await self._wait_writable()
        finally:
            self._sending = False

    def _claim_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this connection")

    async def _wait_writable(self) -> None:
        """Wait until there is room, as long as the client takes some of what was sent before.

        There is room only when it has taken a good deal.
        """
        not_yet = not_taken(self._socket) if self.send_timeout < math.inf else 0
        silent_until = trio.current_time() + self.send_timeout
        while trio.current_time() < silent_until:
            with trio.move_on_after(self.send_timeout / _LOOKS):
                try:
                    return await trio.lowlevel.wait_writable(self._socket)
                except trio.ClosedResourceError:
                    self._check_open()  # a reader was woken, and we with it
                    continue
            if (now := not_taken(self._socket)) < not_yet:
                not_yet = now
                silent_until = trio.current_time() + self.send_timeout
        raise SendTimeout(
            f"the client has taken nothing of what is sent for {self.send_timeout:g} s"
        )

    async def send_eof(self) -> None:
        self._claim_sending()
        await trio.lowlevel.checkpoint()
        self._check_open()
        if not self._sent_eof:
            try:
                self._socket.shutdown(stdlib_socket.SHUT_WR)
            except OSError as exc:
                raise trio.BrokenResourceError(f"connection broken: {exc}") from exc
            self._sent_eof = True

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this connection was already closed")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._sent_eof:
            raise trio.ClosedResourceError("can't send after sending EOF")
