"""serve_client: the conversation with one client; serve_datagram: where there is none.

Decides what a client may send and what it is answered. A line ends with a newline, or a carriage
return and a newline. Over TCP, TLS and a Unix socket it is answered with one line, in order::

    ok <id>             it is stored
    error <reason>      it is not: it is too long, is not UTF-8, or can't be stored just now

and the conversation goes on. A client that sends without waiting for answers gets the lines that
arrive together stored together.

A client may send faster than lines can be stored. So what it has sent is taken in portions, and
each in its turn: others are served in between, and the rest waits in the network. A client that
takes too long for a line, or to read its answers, makes room for others.

A page in a browser, of any site, can have that send an HTTP request here, whose headers and body
would be lines. So a conversation that begins with one ends there, and nothing of it is stored.

A last line without a newline counts if the client has ended its side (``printf hello | nc -N
...``). When we are stopping it does not: the input then ends wherever it happens to be, and what
looks like a line may be half of one. What has arrived by then is stored, but for what would take
longer than a second: a stop does not wait for a flood.

A datagram is one line or more, the last with or without its newline, and is not answered. Who sends
datagrams does not wait for answers, and may not be who it says it is: answers would go to others,
and be more than what was sent. Who wants to know that a line is stored takes TCP.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from trio_run import busy, stopping

from .store import NotStored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_run import Datagram

    from .store import Store

logger = logging.getLogger(__name__)

MAX_LINE = 64 * 1024  # bytes, without the newline

_READ_AT_ONCE = 32 * 1024  # bytes
_MOST_AT_ONCE = 500  # lines
_LAST_LINES = 1.0  # seconds, from the stop on
_NO_HTTP = "error this is a port for lines, not for HTTP\n"
_HTTP_REQUEST = re.compile(r"\S+ \S+ HTTP/\d(\.\d)?")


async def serve_client(
    store: Store, stream: trio.abc.Stream, *, idle_timeout: float = math.inf
) -> None:
    """Store and acknowledge every line that a client sends.

    Args:
      store: where to.
      stream: the client's.
      idle_timeout: how many seconds it may take for a line, or to read what it is answered: a tenth
        more may be given.
    """
    with contextlib.suppress(_Over):
        await _Conversation(store, stream, idle_timeout).hold()


class _Over(Exception):
    """The conversation ends here."""


class _Conversation:
    def __init__(self, store: Store, stream: trio.abc.Stream, idle_timeout: float) -> None:
        self._store = store
        self._stream = stream
        self._source = source_of(stream)
        self._splitter = LineSplitter()
        self._has_begun = False  # has there been a line?
        self._idle_timeout = idle_timeout
        self._patience = trio.CancelScope(deadline=trio.current_time() + idle_timeout)
        self._end_by = math.inf  # once we stop

    async def hold(self) -> None:
        with self._patience:
            while data := await self._stream.receive_some(_READ_AT_ONCE):
                for portion in portions(data):
                    await self._take(portion)
            if not stopping():
                await self._take(b"", is_the_end=True)
        if self._patience.cancelled_caught:
            logger.debug("%s kept us waiting for %g s", self._source, self._idle_timeout)

    async def _take(self, portion: bytes | bytearray, *, is_the_end: bool = False) -> None:
        """Store the lines that end in it, together; then answer them all."""
        with busy():  # what has begun to be stored is answered, even when we stop
            await self._store.room()
            lines = self._splitter.end() if is_the_end else self._splitter.feed(portion)
            if not lines:
                return
            is_http = not self._has_begun and _may_be_http(lines[0])
            self._has_begun = True
            answers = [_NO_HTTP] if is_http else await self._store_them(lines)
            await self._stream.send_all("".join(answers).encode())
        if is_http or self._is_time_to_end():
            raise _Over
        # To set a deadline costs as much as to store some lines: so not each time, and for longer.
        now = trio.current_time()
        if self._patience.deadline < now + self._idle_timeout:
            self._patience.deadline = now + 1.1 * self._idle_timeout

    async def _store_them(self, lines: Sequence[str | Refused]) -> list[str]:
        """Store those that can be; how each is to be answered is returned."""
        failure = ""
        ids: Iterator[int] = iter(())
        try:
            good = [line for line in lines if isinstance(line, str)]
            ids = iter(await self._store.save(good, self._source))
        except NotStored as exc:
            failure = f"error it could not be stored: {exc}\n"
        return [
            f"error {line.reason}\n"
            if isinstance(line, Refused)
            else failure or f"ok {next(ids)}\n"
            for line in lines
        ]

    def _is_time_to_end(self) -> bool:
        """Are we stopping, and has it had its time?"""
        now = trio.current_time()
        if stopping():
            self._end_by = min(self._end_by, now + _LAST_LINES)
        return now >= self._end_by


def _may_be_http(first: str | Refused) -> bool:
    """Is the first line of a client a request? One that is too long may have a long address."""
    return first == TOO_LONG or (
        isinstance(first, str) and _HTTP_REQUEST.fullmatch(first) is not None
    )


async def serve_datagram(store: Store, datagram: Datagram) -> None:
    """Store every line of a datagram. What can't be is said in the log."""
    source = f"udp:{datagram.address[0]}"
    splitter = LineSplitter()
    refused: list[Refused] = []
    data = datagram.data
    if data and not data.endswith(b"\n"):
        data += b"\n"
    for portion in portions(data):
        await store.room()
        lines = splitter.feed(portion)
        refused += [line for line in lines if isinstance(line, Refused)]
        try:
            await store.save([line for line in lines if isinstance(line, str)], source)
        except NotStored as exc:  # the store says so itself, and not for each
            logger.debug("lines from %s were not stored: %s", source, exc)
    if refused:  # one line of log: else a datagram could fill it
        count, reason = len(refused), refused[0].reason
        logger.warning("%d of the lines from %s not stored: %s", count, source, reason)


def source_of(stream: trio.abc.Stream) -> str:
    """Who sends: a client's address, without the port, which is another each time; on a Unix socket
    its process.
    """
    connection = getattr(stream, "transport_stream", stream)  # what is below TLS
    credentials = getattr(connection, "credentials", None)
    if credentials is not None:
        return f"unix:{credentials.pid}"
    peer = getattr(connection, "peer", None)
    return str(peer[0]) if peer else "unknown"


@dataclass(frozen=True)
class Refused:
    """In the place of a line that can't be stored."""

    reason: str


TOO_LONG = Refused(f"it is longer than {MAX_LINE} bytes")


def portions(data: bytes | bytearray) -> Iterator[bytes | bytearray]:
    """The same bytes, in parts of so many lines."""
    while data.count(b"\n") > _MOST_AT_ONCE:
        rest = data.split(b"\n", _MOST_AT_ONCE)[-1]
        yield data[: len(data) - len(rest)]
        data = rest
    if data:
        yield data


class LineSplitter:
    """Cuts bytes into lines, wherever they come apart. It keeps no more than one line of them."""

    def __init__(self) -> None:
        self._begun = bytearray()  # the line that is not yet at its end
        self._too_long = False  # it is, and nothing of it is kept

    def feed(self, data: bytes | bytearray) -> list[str | Refused]:
        """The lines that end in these bytes."""
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(self._finish())
        self._keep(rest)
        return lines

    def end(self) -> list[str | Refused]:
        """The last line, if it has no newline."""
        return [self._finish()] if self._begun or self._too_long else []

    def _keep(self, part: bytes | bytearray) -> None:
        self._begun += part
        if len(self._begun) > MAX_LINE + 1:  # one more, for a carriage return
            self._begun.clear()
            self._too_long = True

    def _finish(self) -> str | Refused:
        line = bytes(self._begun.removesuffix(b"\r"))
        too_long = self._too_long or len(line) > MAX_LINE
        self._begun.clear()
        self._too_long = False
        if too_long:
            return TOO_LONG
        try:
            return line.decode()
        except UnicodeDecodeError:
            return Refused("it is not UTF-8")
