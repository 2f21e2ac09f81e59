"""UDPListener: which datagrams are handled, how many at once, and when that ends."""

from __future__ import annotations

import errno
import logging
import socket as stdlib_socket
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from .._errors import Ending
from ._bind import CannotListen, bind_internet, check_internet, check_sockets, format_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from .._actor import Cause

logger = logging.getLogger("trio_run")

_LARGEST = 65535  # bytes in a datagram
_AT_ONCE = 100  # datagrams taken before others get their turn
_SMALLEST_IN_QUEUE = 64  # bytes of the kernel's buffer: no datagram takes less, on any platform
_SO_MEMINFO, _MEMINFO = 55, struct.Struct("9I")  # Linux; the last number counts what was dropped

# What became of an earlier reply. The kernel may raise that at the next receive.
_ABOUT_A_REPLY = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETRESET, errno.EHOSTUNREACH, errno.ENETUNREACH}
)


class Datagram:
    """What a handler is given: ``data``, and the ``address`` that it came from."""

    __slots__ = ("_port", "address", "data")

    def __init__(self, data: bytes, address: Any, port: _Port) -> None:
        self.data = data
        self.address = address
        self._port = port

    def __repr__(self) -> str:
        return f"<Datagram of {len(self.data)} bytes from {format_address(self.address)}>"

    async def reply(self, data: bytes | bytearray | memoryview) -> None:
        """Send a datagram back to where this one came from.

        It leaves from the port that this one came to. Where the listener has no host, the kernel
        chooses which of the machine's addresses it leaves from.

        Raises:
          OSError: if the kernel won't send it: it is too long, say.
          trio.ClosedResourceError: if the listener has closed while it waited for room to send.
        """
        await trio.lowlevel.checkpoint()
        await self._port.send(data, self.address)


class _Port:
    """A socket: what is queued on it, and whose turn it is to send."""

    def __init__(self, socket: stdlib_socket.socket) -> None:
        self.socket = socket
        self._sending = trio.Lock()

    async def send(self, data: bytes | bytearray | memoryview, address: Any) -> None:
        try:
            self.socket.sendto(data, address)
        except BlockingIOError:
            async with self._sending:
                await self._send_patiently(data, address)

    async def _send_patiently(self, data: bytes | bytearray | memoryview, address: Any) -> None:
        while True:
            await trio.lowlevel.wait_writable(self.socket)
            try:
                self.socket.sendto(data, address)
            except BlockingIOError:
                continue
            return

    def take(self) -> Datagram | None:
        """The next datagram of the kernel's queue; None if there is none."""
        while True:
            try:
                data, address = self.socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return None
            except OSError as exc:
                if exc.errno not in _ABOUT_A_REPLY:
                    raise
            else:
                return Datagram(data, address, self)

    def take_all(self) -> Iterator[Datagram]:
        """All that is queued, but no more than the queue can hold: more may never stop coming."""
        size = self.socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF)
        for _ in range(size // _SMALLEST_IN_QUEUE + 1):
            datagram = self.take()
            if datagram is None:
                return
            yield datagram

    def dropped(self) -> int:
        """How many datagrams the kernel had no room for; 0 where nobody knows."""
        if sys.platform != "linux":  # pragma: no cover - tested on Linux
            return 0
        try:
            size = _MEMINFO.size
            packed = self.socket.getsockopt(stdlib_socket.SOL_SOCKET, _SO_MEMINFO, size)
        except OSError:  # an old kernel, or an imitation of one
            return 0
        count: int = _MEMINFO.unpack(packed)[-1]
        return count


class UDPListener:
    """An actor that handles datagrams, at a stop those too that the kernel has queued.

    ``handler(datagram)`` is called for each :class:`Datagram` in a task of its own. One that raises
    is logged with the sender's address, and the others go on.

    Interrupted, the listener takes what the kernel had queued by then, and nothing that comes
    later. It waits until all of that is handled, or its grace or its group's is over, and closes.

    Its status is "3 datagrams in work, 1,204 handled". Where there are such it says how many
    failed, how many the kernel dropped (known on Linux), and in the end how many were cut, or never
    came to be handled.

    Args:
      handler: an async function of one datagram.
      port: where to listen. With 0 the kernel chooses, and ``addresses`` says what. None with
        ``sockets``.
      host: an address or a name to listen on, None for every interface, IPv4 and IPv6.
      max_tasks: how many handlers may run at once. Further datagrams wait in the kernel's queue, as
        long as there is room.
      reuse_port: share the port with other processes that do the same (SO_REUSEPORT). While one of
        them drains, what the kernel still gives to its socket is lost: stop sending to it first.
      sockets: use these, already bound, instead: with a larger SO_RCVBUF, for instance. They are
        closed in the end.
      name: its name in logs and the report.
      grace: how many seconds it may drain, None for as long as the group's.

    Raises:
      TypeError, ValueError: for an argument that can't be right.
      CannotStart: from :meth:`execute`, when it can't listen there: an OSError that names the
        address too.
    """

    def __init__(
        self,
        handler: Callable[[Datagram], Awaitable[object]],
        port: int | None = None,
        *,
        host: str | bytes | None = None,
        max_tasks: int = 1000,
        reuse_port: bool = False,
        sockets: Sequence[stdlib_socket.socket] | None = None,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        if not callable(handler):
            raise TypeError(
                f"the handler must be an async function of one datagram, not {handler!r}"
            )
        if not isinstance(max_tasks, int) or max_tasks < 1:
            raise ValueError(f"max_tasks must be a positive whole number, not {max_tasks!r}")
        check_internet("UDPListener", host, port, sockets, reuse_port=reuse_port)
        self.name = name or (f"udp:{port}" if port else "udp")
        self.grace = grace
        self.addresses: tuple[Any, ...] = ()
        self._handler = handler
        self._host = host
        self._port = port
        self._max_tasks = max_tasks
        self._reuse_port = reuse_port
        self._sockets = list(sockets or ())
        self._ports: list[_Port] = []
        self._receiving = trio.CancelScope()
        self._left: deque[Datagram] = deque()  # at the interrupt, to be handled yet
        self._room = trio.Event()
        self._tasks = self._handled = self._failed = self._cut = 0
        self._dropped = 0  # by ports that receive no more

    @property
    def status(self) -> str:
        dropped = self._dropped + sum(port.dropped() for port in self._ports)
        counts = {
            "datagrams in work": self._tasks + len(self._left),
            "handled": self._handled,
            "failed": self._failed,
            "cut": self._cut,
            "dropped by the kernel": dropped,
        }
        parts = (f"{count:,} {what}" for what, count in counts.items() if count)
        return ", ".join(parts) or "0 handled"

    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter here
        """Begin to drain."""
        self._receiving.cancel("the listener was interrupted")

    async def execute(
        self, *, task_status: trio.TaskStatus[Sequence[Any]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Handle datagrams until interrupted and drained.

        Started with its addresses when it listens.
        """
        try:
            kind = stdlib_socket.SOCK_DGRAM
            if not self._sockets:
                await bind_internet(
                    self._sockets, self._host, self._port, kind, reuse_port=self._reuse_port
                )
            check_sockets(self._sockets, kind, "it is not a UDP socket")
            for bound in self._sockets:
                _prepare(bound)
            self._ports = [_Port(bound) for bound in self._sockets]
            self.addresses = tuple(bound.getsockname() for bound in self._sockets)
            async with trio.open_nursery() as self._nursery:
                task_status.started(self.addresses)
                with self._receiving:
                    async with trio.open_nursery() as receivers:
                        for port in self._ports:
                            receivers.start_soon(self._receive, port)
                # At once: what comes while the handlers are at work is not ours.
                for port in self._ports:
                    self._left.extend(port.take_all())
                self._count_dropped()
                while self._left:
                    await self._wait_for_room()
                    self._hand_out(self._left.popleft())
            # The handlers have kept their cancels to themselves.
            await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            for port in self._ports:  # still there: it was cut before it could drain
                self._left.extend(port.take_all())
            self._cut += len(self._left)
            self._left.clear()
            self._count_dropped()
            for bound in self._sockets:
                trio.lowlevel.notify_closing(bound)
                bound.close()

    def _count_dropped(self) -> None:
        self._dropped += sum(port.dropped() for port in self._ports)
        self._ports = []

    async def _receive(self, port: _Port) -> None:
        while True:
            await trio.lowlevel.wait_readable(port.socket)
            for _ in range(_AT_ONCE):
                await self._wait_for_room()
                datagram = port.take()
                if datagram is None:
                    break
                self._hand_out(datagram)

    async def _wait_for_room(self) -> None:
        while self._tasks >= self._max_tasks:
            if self._room.is_set():
                self._room = trio.Event()
            await self._room.wait()

    def _hand_out(self, datagram: Datagram) -> None:
        self._tasks += 1
        self._nursery.start_soon(self._handle, datagram)

    async def _handle(self, datagram: Datagram) -> None:
        try:
            with Ending() as ending:
                await self._handler(datagram)
            if ending.error is not None:
                self._failed += 1
                sender = format_address(datagram.address)
                error = ending.error
                logger.error("%s: the handler failed for %s", self.name, sender, exc_info=error)
            elif not ending.cancelled:
                self._handled += 1
            self._cut += ending.cancelled
        finally:
            self._tasks -= 1
            self._room.set()


def _prepare(bound: stdlib_socket.socket) -> None:
    bound.setblocking(False)
    address = bound.getsockname()
    if address[1] == 0:
        reason = OSError(errno.EINVAL, "the socket was given, and is not bound to a port")
        raise CannotListen(format_address(address), reason)
