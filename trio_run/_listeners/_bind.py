"""Where a listener listens: how its sockets are bound, and what is said when they can't be.

What happens to what comes in is each listener's own business.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import select
import socket as stdlib_socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import trio

from .._errors import CannotStart

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

INTERNET = (stdlib_socket.AF_INET, stdlib_socket.AF_INET6)
_UNACKED = struct.Struct("24xI")  # in Linux' tcp_info, which of a listening socket is its queue
_UNAVAILABLE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_REASONS: dict[int | None, str] = {
    errno.EADDRINUSE: "it is in use; stop the process that listens there, or choose another",
    errno.EACCES: "permission denied; choose another, or run with more rights",
}


class CannotListen(CannotStart, OSError):
    """A listener cannot listen where it should. The message names the address and the reason."""

    def __init__(self, where: str, error: Exception) -> None:
        number = error.errno if isinstance(error, OSError) else None
        said = getattr(error, "strerror", None) or str(error)
        super().__init__(f"cannot listen on {where}: {_REASONS.get(number, said)}")
        self.errno = number


def has_clients(listening: stdlib_socket.socket) -> bool:
    """Is anybody in its queue? Known even where there is no descriptor to accept with."""
    if sys.platform == "win32":  # pragma: no cover - tested on Linux
        return bool(select.select([listening], [], [], 0)[0])
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


def queue_length(listening: stdlib_socket.socket, backlog: int) -> int:
    """How many are in its queue: the backlog, where nobody knows."""
    if sys.platform != "linux" or listening.family not in INTERNET:
        return backlog
    try:
        info = listening.getsockopt(
            stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_INFO, _UNACKED.size
        )
        return int(_UNACKED.unpack(info)[0])
    except (OSError, struct.error):  # an imitation of a kernel
        return backlog


def turn_away(listening: stdlib_socket.socket) -> int:
    """Close the connections of all who still are in its queue. Returns how many those were."""
    count = 0
    with contextlib.suppress(OSError):  # there is nobody any more, or no descriptor
        for _ in range(0xFFFF):  # pragma: no branch - no queue is that long
            listening.accept()[0].close()
            count += 1
    return count


def stop_listening(listening: stdlib_socket.socket) -> None:
    """Have it listen no more, whoever else has it: what a process has left behind, say.

    Else clients would come to a queue that nobody empties, and the port be in use.
    """
    with contextlib.suppress(OSError):  # it is closed, or another platform's
        if listening.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ACCEPTCONN):
            listening.shutdown(stdlib_socket.SHUT_RDWR)


class Endpoint(abc.ABC):
    """Where a listener for streams listens: its sockets, from their opening to their close."""

    def __init__(self, given: Sequence[stdlib_socket.socket] | None) -> None:
        check_given(given)
        self.sockets = list(given or ())
        self.are_given = given is not None  # then another process may have them too

    @abc.abstractmethod
    async def open(self, backlog: int) -> None:
        """Have the sockets listen, those that were given or new ones.

        Raises:
          CannotListen: if they can't.
        """

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Where clients find it."""
        return tuple(listening.getsockname() for listening in self.sockets)

    def disappear(self) -> None:  # noqa: B027 - not every address is a thing that can be removed
        """No client is to come any more, though the sockets still listen.

        Raises:
          OSError: if there is something that can't be removed: ``filename`` says what.
        """

    def turn_newcomers_away(self, listening: stdlib_socket.socket) -> bool:
        """Nobody can connect any more, and all who have can be accepted: is that so?

        It acts on the socket in every process that has it. So it is not done with one that was
        given, which may be another worker's too, or the service manager's.
        """
        if self.are_given or sys.platform != "linux":
            return False
        try:
            self._turn_newcomers_away(listening)
        except OSError:  # an old kernel, or an imitation of one
            return False
        return True

    @abc.abstractmethod
    def _turn_newcomers_away(self, listening: stdlib_socket.socket) -> None: ...

    def close(self) -> None:
        """Close the sockets, if they are not closed yet."""
        for listening in self.sockets:
            if not self.are_given:
                stop_listening(listening)
            listening.close()


def format_address(address: object) -> str:
    """An address as people write it.

    That is "127.0.0.1:80", "[::1]:80", a path, or "@name" for an abstract Unix socket.
    """
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    text = os.fsdecode(address) if isinstance(address, (str, bytes)) else str(address)
    if text.startswith("\0"):
        return "@" + text[1:]
    return text or "a client without a name"


def format_host(address: IPv4Address | IPv6Address) -> str:
    """As a socket writes it, one of IPv4 in IPv6 as well: "::ffff:192.0.2.7"."""
    family = stdlib_socket.AF_INET if address.version == 4 else stdlib_socket.AF_INET6
    return stdlib_socket.inet_ntop(family, address.packed)


def check_given(sockets: object) -> None:
    """See that what was given as sockets is a list of some."""
    if sockets is not None and not (
        isinstance(sockets, (list, tuple))
        and sockets
        and all(isinstance(given, stdlib_socket.socket) for given in sockets)
        and all(given.fileno() != -1 for given in sockets)
    ):
        raise TypeError(f"sockets must be a list of bound sockets, not {sockets!r}")


def check_internet(
    listener: str, host: object, port: object, sockets: object, *, reuse_port: bool
) -> None:
    """See that there is one place to listen, and that it can be one."""
    if (port is None) == (sockets is None):
        raise ValueError(f"{listener} takes either a port or sockets")
    check_given(sockets)
    if port is not None and (not isinstance(port, int) or not 0 <= port <= 65535):
        raise ValueError(f"port must be a whole number from 0 to 65535, not {port!r}")
    if host is not None and not isinstance(host, (str, bytes)):
        raise TypeError(f"host must be a name or an address, or None, not {host!r}")
    if sockets is not None and (host is not None or reuse_port):
        raise ValueError("host and reuse_port go with a port: sockets are bound already")
    if reuse_port and not hasattr(stdlib_socket, "SO_REUSEPORT"):  # pragma: no cover - Linux has it
        raise ValueError("reuse_port: this platform has no SO_REUSEPORT")


def check_sockets(
    sockets: Sequence[stdlib_socket.socket],
    kind: stdlib_socket.SocketKind,
    complaint: str,
    families: tuple[stdlib_socket.AddressFamily, ...] = INTERNET,
) -> None:
    """See that sockets that were handed over are of the right kind; raise CannotListen if not."""
    for bound in sockets:
        if bound.family not in families or bound.type != kind:
            where = format_address(bound.getsockname())
            raise CannotListen(where, OSError(errno.EPROTOTYPE, complaint))


def listen(bound: stdlib_socket.socket, backlog: int) -> None:
    bound.setblocking(False)
    try:
        bound.listen(backlog)
    except OSError as exc:
        raise CannotListen(format_address(bound.getsockname()), exc) from exc


async def bind_internet(
    bound: list[stdlib_socket.socket],
    host: str | bytes | None,
    port: int | None,
    kind: stdlib_socket.SocketKind,
    *,
    reuse_port: bool,
) -> None:
    """Bind a socket for each address of the host.

    Each is appended to the list as soon as it is there. Whoever owns the list closes them.
    """
    name = os.fsdecode(host) if isinstance(host, bytes) else host
    where = f"{'*' if name is None else name}:{port}"
    try:
        found = await trio.socket.getaddrinfo(host, port, type=kind, flags=stdlib_socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:  # of the latter kind: a name that can't be one
        raise CannotListen(where, exc) from exc
    missing: OSError | None = None
    for family, _, protocol, _, address in found:
        try:
            bound.append(_bind_one(family, kind, protocol, address, reuse_port=reuse_port))
        except OSError as exc:
            if exc.errno not in _UNAVAILABLE:
                raise CannotListen(where, exc) from exc
            missing = exc  # IPv6 switched off, say
    if missing is not None and not bound:
        raise CannotListen(where, missing) from missing


def _bind_one(
    family: int, kind: int, protocol: int, address: object, *, reuse_port: bool
) -> stdlib_socket.socket:
    bound = stdlib_socket.socket(family, kind, protocol)
    try:
        # With UDP, and on Windows, it would let anyone take the port over.
        if kind == stdlib_socket.SOCK_STREAM and sys.platform != "win32":
            bound.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEPORT, 1)
        if family == stdlib_socket.AF_INET6:
            bound.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 1)
        bound.bind(address)  # type: ignore[arg-type]  # what getaddrinfo returned
    except BaseException:
        bound.close()
        raise
    return bound
