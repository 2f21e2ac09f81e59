"""serve_client, serve_datagram: what may be sent, what is answered, and what a stop does to a
conversation.
"""

import contextlib
import logging
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trio_run import Group, TCPListener, UDPListener
from trio_run.skeleton.intake import (
    MAX_LINE,
    LineSplitter,
    Refused,
    serve_client,
    serve_datagram,
    source_of,
)
from trio_run.skeleton.store import NotStored, Store
from trio_run.testing import read_to_end, read_until, running, wait_stopped

from .. import TIMEOUT
from .database import locked, stored_in

TOO_LONG = Refused("it is longer than 65536 bytes")
NOT_UTF8 = Refused("it is not UTF-8")


def split(*chunks: bytes) -> list[str | Refused]:
    splitter = LineSplitter()
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.end()


class RecordingStore:
    """Stands in for a Store: it remembers what was saved together, or refuses it."""

    def __init__(self, *, fails: bool = False) -> None:
        self.saved: list[list[str]] = []
        self.sources: set[str] = set()
        self._fails = fails

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()

    async def save(self, lines: list[str], source: str) -> range:
        if self._fails:
            raise NotStored("no room")
        self.sources.add(source)
        first = 1 + sum(map(len, self.saved))
        self.saved.append(lines)
        return range(first, first + len(lines))


async def talk(store: RecordingStore, *chunks: bytes) -> str:
    """All that a client is answered that sends these, one after the other, and ends its side."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, store, theirs)
        for chunk in chunks:
            await ours.send_all(chunk)
            await wait_all_tasks_blocked()
        await ours.send_eof()
    await theirs.aclose()
    return "".join([data.decode() async for data in ours])


class Service:
    """A store and an intake in a group, as in the application."""

    def __init__(self, directory: Path, grace: float) -> None:
        self.store = Store(directory)
        self.intake = TCPListener(partial(serve_client, self.store), 0, host="127.0.0.1")
        self.group = Group(grace=grace)
        storing = self.group.add(self.store)
        self.group.add(self.intake, needs=[storing])

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.intake.addresses[0])

    def details(self) -> list[str]:
        return [actor.detail for actor in self.group.report.actors]


@asynccontextmanager
async def serving(directory: Path, *, grace: float = math.inf) -> AsyncIterator[Service]:
    """A service that runs; at the end it has to stop, if it has not been asked already."""
    service = Service(directory, grace)
    with trio.fail_after(TIMEOUT):
        async with running(service.group):
            yield service
            service.group.stop()


@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\r\r\n", ["one\r"]),
        (b"one\rtwo\n", ["one\rtwo"]),
        (b"\n\r\n", ["", ""]),
        (b"one\nlast", ["one", "last"]),
        (b"last\r", ["last"]),
        (b"", []),
        ("grüße\n".encode(), ["grüße"]),
        (b"one\n\xff\ntwo\n", ["one", NOT_UTF8, "two"]),
        (b"x" * MAX_LINE + b"\n", ["x" * MAX_LINE]),
        (b"x" * MAX_LINE + b"\r\n", ["x" * MAX_LINE]),
        (b"x" * MAX_LINE, ["x" * MAX_LINE]),
        (b"x" * (MAX_LINE + 1) + b"\n", [TOO_LONG]),
        (b"x" * (MAX_LINE + 1) + b"\nshort\n", [TOO_LONG, "short"]),
        (b"x" * 10 * MAX_LINE + b"\nshort\n", [TOO_LONG, "short"]),
        (b"x" * 10 * MAX_LINE, [TOO_LONG]),
    ],
)
def test_what_a_line_is(sent: bytes, lines: list[str | Refused]) -> None:
    assert split(sent) == lines
    assert split(*(sent[start : start + 1000] for start in range(0, len(sent), 1000))) == lines


@given(
    st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xc3", b"\xbc", b"\xff", b"x" * MAX_LINE])),
    st.data(),
)
def test_it_does_not_matter_where_lines_come_apart(
    pieces: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert split(*chunks) == split(whole)


def test_no_more_than_a_line_is_kept_of_one_that_is_too_long() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert splitter.feed(b"x" * 10_000) == []
        assert len(splitter._begun) <= MAX_LINE + 1
    assert splitter.feed(b"\nshort\n") == [TOO_LONG, "short"]


async def test_each_line_is_acknowledged_with_its_id() -> None:
    store = RecordingStore()
    assert await talk(store, b"one\n", b"two\n") == "ok 1\nok 2\n"
    assert store.saved == [["one"], ["two"]]


async def test_lines_that_arrive_together_are_stored_together() -> None:
    store = RecordingStore()
    assert await talk(store, b"one\ntwo\nthr", b"ee\nfour\n") == "ok 1\nok 2\nok 3\nok 4\n"
    assert store.saved == [["one", "two"], ["three", "four"]]


async def test_what_is_refused_is_answered_in_its_place() -> None:
    store = RecordingStore()
    sent = b"one\n\xff\ntwo\n" + b"x" * (MAX_LINE + 1) + b"\nthree\n"
    assert await talk(store, sent) == (
        "ok 1\nerror it is not UTF-8\nok 2\nerror it is longer than 65536 bytes\nok 3\n"
    )


async def test_the_connection_goes_on_after_a_refused_line() -> None:
    store = RecordingStore()
    assert await talk(store, b"\xff\n", b"one\n") == "error it is not UTF-8\nok 1\n"


async def test_a_last_line_without_a_newline_counts() -> None:
    store = RecordingStore()
    assert await talk(store, b"one\n", b"last") == "ok 1\nok 2\n"
    assert store.saved == [["one"], ["last"]]


async def test_a_client_that_says_nothing_is_answered_nothing() -> None:
    store = RecordingStore()
    assert await talk(store) == ""
    assert store.saved == []


async def test_a_line_that_could_not_be_stored_is_not_acknowledged() -> None:
    answered = await talk(RecordingStore(fails=True), b"one\n\xff\n")
    assert answered == "error it could not be stored: no room\nerror it is not UTF-8\n"


async def test_a_line_that_is_being_stored_is_answered_when_we_are_stopped(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        with locked(tmp_path) as lock:
            client = await service.connect()
            await client.send_all(b"line\n")
            while service.store.status != "0 lines stored, 1 waiting":
                await wait_all_tasks_blocked()
            service.group.stop()
            await wait_all_tasks_blocked()
            assert service.intake.status == "1 connection, 1 busy"
            lock.release()
        assert await read_until(client, b"\n") == b"ok 1\n"
        assert await client.receive_some() == b""
        await client.aclose()
    assert service.details() == [
        "1 lines stored, 0 waiting",
        "1 drained, 0 cut",
    ]


async def test_half_a_line_is_not_stored_when_we_are_stopped(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        client = await service.connect()
        await client.send_all(b"whole\nha")
        assert await read_until(client, b"\n") == b"ok 1\n"
        service.group.stop()
        assert await client.receive_some() == b""
        await client.aclose()
    assert stored_in(tmp_path) == {1: "whole"}


async def test_what_has_arrived_when_we_are_stopped_is_stored_and_answered(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(2_000)]
    async with serving(tmp_path) as service:
        with locked(tmp_path) as lock:
            client = await service.connect()
            await client.send_all(b"first\n")
            while service.store.status != "0 lines stored, 1 waiting":
                await wait_all_tasks_blocked()
            rest = "".join(f"{line}\n" for line in lines).encode()
            await client.send_all(rest[:-5])  # the kernel has them; the intake waits for the store
            service.group.stop()
            await wait_all_tasks_blocked()
            lock.release()
        answers = await read_to_end(client)
        await client.aclose()
    assert answers == b"".join(b"ok %d\n" % number for number in range(1, 2_001))
    assert list(stored_in(tmp_path).values()) == ["first", *lines[:-1]]


async def test_a_line_that_is_not_stored_within_the_grace_is_not_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "trio_run")
    async with serving(tmp_path, grace=0.1) as service:
        with locked(tmp_path):
            client = await service.connect()
            await client.send_all(b"line\n")
            while service.store.status != "0 lines stored, 1 waiting":
                await wait_all_tasks_blocked()
            service.group.stop()
            with pytest.raises(trio.BrokenResourceError):  # a reset: nobody takes it for an answer
                await client.receive_some()
            await client.aclose()
            await wait_stopped(service.group)
    assert service.details() == ["0 lines stored, 0 waiting", "0 drained, 1 cut"]
    assert stored_in(tmp_path) == {}


async def test_a_client_that_does_not_read_is_cut_when_the_grace_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def send_without_reading() -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await client.send_all(b"\n" * 10_000)

    caplog.set_level(logging.CRITICAL, "trio_run")
    async with serving(tmp_path, grace=0.1) as service:
        client = await service.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(send_without_reading)
            # Busy, and not with the store: it waits for its answers to be read.
            while not (
                service.intake.status == "1 connection, 1 busy"
                and service.store.status.endswith(" 0 waiting")
            ):
                await wait_all_tasks_blocked()
            service.group.stop()
    assert service.details()[1] == "0 drained, 1 cut"


class Received:
    """Stands in for a Datagram."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.address = ("192.0.2.7", 40000)


async def test_a_datagram_is_one_line_or_more() -> None:
    store = RecordingStore()
    for data in (b"one", b"two\n", b"three\r\nfour", b"\n", b""):
        await serve_datagram(store, Received(data))
    assert store.saved == [["one"], ["two"], ["three", "four"], [""]]
    assert store.sources == {"udp:192.0.2.7"}


async def test_what_can_not_be_stored_of_a_datagram_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = RecordingStore()
    await serve_datagram(store, Received(b"one\n\xff\ntwo\n\xfe"))
    assert store.saved == [["one", "two"]]
    await serve_datagram(RecordingStore(fails=True), Received(b"one"))
    assert caplog.messages == ["2 of the lines from udp:192.0.2.7 not stored: it is not UTF-8"]


async def test_a_datagram_is_not_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        listener = UDPListener(partial(serve_datagram, service.store), 0, host="127.0.0.1")
        member = service.group.add(listener, needs=service.group.members[:1])
        await member.wait_ready()
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as client:
            await client.connect(listener.addresses[0])
            await client.send(b"one\ntwo\n")
            service.group.stop()  # what the kernel has is handled
            await member.wait_stopped()
            with pytest.raises(BlockingIOError):
                client._sock.recv(100)
    assert stored_in(tmp_path) == {1: "one", 2: "two"}


async def test_the_source_of_a_stream_that_has_no_peer_is_unknown() -> None:
    _, theirs = memory_stream_pair()
    assert source_of(theirs) == "unknown"
