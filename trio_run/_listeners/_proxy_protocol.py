"""The PROXY protocol, versions 1 and 2: who the client of the proxy in front of us is.

This file decides what a right header is, and how it is read: within its time, and no byte beyond
it, since what follows may be TLS. What becomes of a connection without one is decided in _stream.

It is strict. Whoever can send a header can say that it is anybody: so one that is not exactly as
the protocol has it (https://www.haproxy.org/download/2.0/doc/proxy-protocol.txt) is none, and a
connection without one is not served. Of a header that says nothing of a client (LOCAL, UNKNOWN: a
health check of the proxy's own, say) the connection keeps the proxy's address.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from ._bind import format_host

if TYPE_CHECKING:
    from ._connection import Connection

logger = logging.getLogger("trio_run")

HEADER_WITHIN = 10.0  # seconds for it, where a listener has no time of its own for a head

_LONGEST_1 = 107  # bytes, its end of line included
_SHORTEST = 15  # bytes: "PROXY UNKNOWN" and its end of line; one less than the head of version 2
_LOG_EVERY = 10.0  # seconds

_WORD = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD_2 = struct.Struct(f"!{len(_SIGNATURE)}sBBH")  # signature, command, family, length
_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the upper half, the command in the lower
_UNSPECIFIED = 0x00
_PATH_SIZE = 108
_TCP_4, _TCP_6 = struct.Struct("!4s4sHH"), struct.Struct("!16s16sHH")
_UNIX = struct.Struct(f"{_PATH_SIZE}s{_PATH_SIZE}s")
_ADDRESSES = {0x11: _TCP_4, 0x21: _TCP_6, 0x31: _UNIX}

_PORT = rb"(0|[1-9][0-9]{0,4})"
_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b\r\n" % (_PORT, _PORT))
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_SPACES = 5  # in a line of TCP
_HIGHEST_PORT = 65535


class Ends(NamedTuple):
    """Both ends of a client's connection to the proxy, as a socket would have them."""

    client: Any
    server: Any


class NoHeaderError(Exception):
    """It is no header. The message says why."""


def bytes_missing(header: bytes | bytearray) -> int:
    """How many bytes of it are surely still to come; 0 if it is whole.

    Raises:
      NoHeaderError: if it can't become one.
    """
    size = len(header)
    if header[:1] == _SIGNATURE[:1]:
        if header[: len(_SIGNATURE)] != _SIGNATURE[:size]:
            raise NoHeaderError("it begins with something else")
        if size < _HEAD_2.size:
            return (_SHORTEST if size < _SHORTEST else _HEAD_2.size) - size
        # At most 65,535 bytes. A proxy may pass on more than addresses, a client's certificate say.
        length: int = _HEAD_2.unpack_from(header)[3]
        return _HEAD_2.size + length - size
    if header[: len(_WORD)] != _WORD[:size]:
        raise NoHeaderError("it begins with something else")
    if size < _SHORTEST:
        return _SHORTEST - size
    if header.endswith(b"\r\n"):
        return 0
    if b"\n" in header:
        raise NoHeaderError("it has an end of line inside")
    if size >= _LONGEST_1:
        raise NoHeaderError(f"it has no end within {_LONGEST_1} bytes")
    if header.endswith(b"\r"):
        return 1
    missing = 2
    if header.startswith(b"PROXY TCP"):  # a space, and something after it, for each that is missing
        missing += 2 * max(0, _SPACES - header.count(b" "))
    return min(missing, _LONGEST_1 - size)


def read_ends(header: bytes) -> Ends | None:
    """What a whole header says; None if that is nothing.

    Raises:
      NoHeaderError: if it is wrong.
    """
    return _read_1(header) if header.startswith(b"P") else _read_2(header)


def _read_1(line: bytes) -> Ends | None:
    if _UNKNOWN.fullmatch(line):
        return None
    found = _LINE.fullmatch(line)
    if found is None:
        raise NoHeaderError("its line is not of TCP4, TCP6 or UNKNOWN")
    version, client, server, *ports = (part.decode("ascii") for part in found.groups())
    kind = IPv4Address if version == "4" else IPv6Address
    try:
        hosts = kind(client), kind(server)
    except ValueError as exc:
        raise NoHeaderError(f"its address is none: {exc}") from exc
    if max(map(int, ports)) > _HIGHEST_PORT:
        raise NoHeaderError("its port is none")
    return Ends(*(_name(host, int(port)) for host, port in zip(hosts, ports, strict=True)))


def _read_2(header: bytes) -> Ends | None:
    _, command, family, length = _HEAD_2.unpack_from(header)
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise NoHeaderError(f"its version and command are {command:#04x}")
    if family == _UNSPECIFIED:
        return None
    layout = _ADDRESSES.get(family)
    if layout is None:
        raise NoHeaderError(f"its family is {family:#04x}: none of a stream")
    if length < layout.size:
        raise NoHeaderError("it is too short for its addresses")
    client, server, *ports = layout.unpack_from(header, _HEAD_2.size)
    if layout is _UNIX:
        return Ends(_path(client), _path(server))
    kind = IPv4Address if layout is _TCP_4 else IPv6Address
    return Ends(_name(kind(client), ports[0]), _name(kind(server), ports[1]))


def _name(address: IPv4Address | IPv6Address, port: int) -> tuple[Any, ...]:
    """As a socket has it: of IPv6 with a flow and a scope."""
    host = format_host(address)
    return (host, port) if address.version == 4 else (host, port, 0, 0)


def _path(raw: bytes) -> str:
    """One that begins with a zero byte is abstract; else it ends at the first."""
    end = raw.find(b"\0", 1)
    return os.fsdecode(raw[:end] if end > 0 else raw).rstrip("\0")


class ProxyHeaders:
    """Reads the headers of one listener's connections, and logs once in a while that one is none.

    Args:
      name: the listener's, for the log.
      within: how many seconds a header may take.
    """

    def __init__(self, name: str, within: float) -> None:
        self._name = name
        self._within = within
        self._log_from = 0.0  # on Trio's clock: until then nothing is logged
        self._not_logged = 0

    async def read(self, connection: Connection) -> bool:
        """Have the connection know who its client is. Returns whether it may be served."""
        header = bytearray()
        why = f"it took more than {self._within:g} s"
        connection.shaking_hands = True
        with trio.move_on_after(self._within) as waiting:
            try:
                while missing := bytes_missing(header):
                    data = await connection.receive_some(missing)
                    if not data:
                        raise NoHeaderError("the connection ended before")
                    header += data
                ends = read_ends(bytes(header))
            except (NoHeaderError, trio.BrokenResourceError) as exc:
                why = str(exc)
            else:
                connection.shaking_hands = False
                if ends is not None:
                    connection.peer, connection.told_address = ends
                return True
        if header or waiting.cancelled_caught:  # else it only looked whether somebody listens
            self._refuse(connection, why)
        return False

    def _refuse(self, connection: Connection, why: str) -> None:
        """Not each of them: who can connect could fill the log."""
        now = trio.current_time()
        if now < self._log_from:
            self._not_logged += 1
            return
        more = f" ({self._not_logged:,} more since the last line)" if self._not_logged else ""
        self._log_from = now + _LOG_EVERY
        self._not_logged = 0
        logger.warning("%s: no PROXY header from %s: %s%s", self._name, connection.who, why, more)
