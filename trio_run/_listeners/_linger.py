"""How a connection is closed so that nothing is lost: what is still on its way, and waiting for it.

On Linux a close resets a TCP connection while there is input that nobody has read, and so does
input that arrives later while output is unsent. A reset throws away what the client has not yet
read of a reply. So where either is there, our side is ended first, and what comes in is thrown
away, until the client has ended its side too.

When a connection is closed, and which way, is decided in _connection and _stream.
"""

from __future__ import annotations

import contextlib
import math
import socket as stdlib_socket
import struct
import sys

import trio

LINGER = 2.0  # seconds for a client to read our end of stream, and to close

_AT_ONCE = 65536  # bytes
_ACKNOWLEDGED = 0.02  # seconds, to look again whether it has all that was sent
_ACKNOWLEDGED_LATE = 0.2  # the same, when it has been looked at often
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def lingering() -> trio.CancelScope:
    """A block that ends after LINGER seconds."""
    return trio.move_on_after(LINGER)


async def linger(socket: stdlib_socket.socket, *, more_to_come: bool) -> None:
    """End our side, and throw input away until the client ends its own; LINGER seconds at the most.

    A client that sends nothing may keep its side open for long. That one is waited for only until
    it has all that was sent. ``more_to_come`` says that it does send, though nothing is there yet.

    Raises:
      OSError: if the client is gone.
      trio.ClosedResourceError: if another task closes the socket.
      trio.BusyResourceError: if another task still reads from it.
    """
    with lingering():
        sends = more_to_come or unread(socket) > 0
        socket.shutdown(stdlib_socket.SHUT_WR)
        while True:
            try:
                if not socket.recv(_AT_ONCE):
                    return
                sends = True
                await trio.lowlevel.checkpoint()
            except BlockingIOError:
                if not sends and not unsent(socket):
                    return
                with trio.move_on_after(math.inf if sends else _ACKNOWLEDGED):
                    await trio.lowlevel.wait_readable(socket)


async def wait_acknowledged(socket: stdlib_socket.socket, but: int) -> None:
    """Wait until the client has all that was sent but the last so many bytes.

    It takes LINGER seconds at the most, which no cancel makes shorter. It does not wait where the
    client is gone, or where the platform does not know what the client has.
    """
    wait = _ACKNOWLEDGED
    with lingering() as waiting:
        waiting.shield = True
        while unsent(socket) > but and not _is_reset(socket):
            await trio.sleep(wait)
            wait = min(wait * 1.5, _ACKNOWLEDGED_LATE)


def _is_reset(socket: stdlib_socket.socket) -> bool:
    try:
        socket.recv(1, stdlib_socket.MSG_PEEK)
    except BlockingIOError:
        pass
    except OSError:
        return True
    return False


def reset_at_close(socket: stdlib_socket.socket) -> None:
    """From now on closing it is a reset, so that the client sees that something is missing."""
    with contextlib.suppress(OSError):  # it is closed already
        socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, _NO_LINGER)


if sys.platform == "win32":  # pragma: no cover - tested on Linux

    def unread(socket: stdlib_socket.socket) -> int:
        """How many bytes have arrived and not been read."""
        try:
            return len(socket.recv(_AT_ONCE, stdlib_socket.MSG_PEEK))
        except OSError:
            return 0

    def unsent(_socket: stdlib_socket.socket) -> int:
        """How many bytes have been sent and not been acknowledged. Nobody knows here: 0."""
        return 0

    not_taken = unsent

else:
    import fcntl
    import termios

    def _count(socket: stdlib_socket.socket, what: int) -> int:
        count = bytearray(4)
        try:
            fcntl.ioctl(socket, what, count)  # into a bytearray: with bytes it takes twice as long
        except (OSError, ValueError):  # the handler has closed it
            return 0
        return int.from_bytes(count, sys.byteorder)

    def unread(socket: stdlib_socket.socket) -> int:
        """How many bytes have arrived and not been read."""
        return _count(socket, termios.FIONREAD)

    def unsent(socket: stdlib_socket.socket) -> int:
        """How many bytes have been sent and not been acknowledged: known on Linux, 0 elsewhere."""
        count = not_taken(socket)
        # What is in a Unix socket is with the client already: a close does not take it back.
        return 0 if count and socket.family == stdlib_socket.AF_UNIX else count

    def not_taken(socket: stdlib_socket.socket) -> int:
        """How many bytes have been sent that the other kernel, or on a Unix socket the client, has
        not taken: known on Linux, 0 elsewhere.
        """
        return _count(socket, termios.TIOCOUTQ) if sys.platform == "linux" else 0
