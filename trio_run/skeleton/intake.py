"""serve_client: the conversation with one client; serve_datagram: where there is none.

Decides what a client may send and what it is answered. A line ends with a newline, or a carriage
return and a newline. Over TCP, TLS and a Unix socket it is answered with one line, in order::

    ok <id>             it is stored
    error <reason>      it is not: it is too long, is not UTF-8, or the store has failed

and the conversation goes on. A client that sends without waiting for answers gets the lines that
arrive together stored together.

A last line without a newline counts if the client has ended its side (``printf hello | nc -N
...``). When we are stopping it does not: the input then ends wherever it happens to be, and what
looks like a line may be half of one.

A datagram is one line or more, the last with or without its newline, and is not answered. Who sends
datagrams does not wait for answers, and may not be who it says it is: answers would go to others,
and be more than what was sent. Who wants to know that a line is stored takes TCP.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_run import busy, stopping

from .store import NotStored

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from trio_run import Datagram

    from .store import Store

logger = logging.getLogger(__name__)

MAX_LINE = 64 * 1024  # bytes, without the newline


async def serve_client(store: Store, stream: trio.abc.Stream) -> None:
    """Store and acknowledge every line that a client sends."""
    source = source_of(stream)
    splitter = LineSplitter()
    async for data in stream:
        await _answer(store, source, stream, splitter.feed(data))
    if not stopping():
        await _answer(store, source, stream, splitter.end())


async def _answer(
    store: Store, source: str, stream: trio.abc.Stream, lines: Sequence[str | Refused]
) -> None:
    """Store those that can be, together; then answer them all."""
    if not lines:
        return
    with busy():  # what has begun to be stored is answered, even when we stop
        try:
            stored = await store.save([line for line in lines if isinstance(line, str)], source)
        except NotStored:
            stored = None
        ids = iter(stored or ())
        answers = []
        for line in lines:
            if isinstance(line, Refused):
                answers.append(f"error {line.reason}\n")
            elif stored is None:
                answers.append("error it could not be stored\n")
            else:
                answers.append(f"ok {next(ids)}\n")
        await stream.send_all("".join(answers).encode())


async def serve_datagram(store: Store, datagram: Datagram) -> None:
    """Store every line of a datagram. What can't be is said in the log."""
    source = f"udp:{datagram.address[0]}"
    splitter = LineSplitter()
    lines = splitter.feed(datagram.data) + splitter.end()
    refused = [line for line in lines if isinstance(line, Refused)]
    if refused:  # one line of log: else a datagram could fill it
        count, reason = len(refused), refused[0].reason
        logger.warning("%d of the lines from %s not stored: %s", count, source, reason)
    try:
        await store.save([line for line in lines if isinstance(line, str)], source)
    except NotStored:
        logger.warning("a datagram from %s was not stored: the store has stopped", source)


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
            return Refused(f"it is longer than {MAX_LINE} bytes")
        try:
            return line.decode()
        except UnicodeDecodeError:
            return Refused("it is not UTF-8")
