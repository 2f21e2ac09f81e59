"""How long a client may keep its place, and how much of what it has sent a stop waits for."""

import math
from functools import partial

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_run import Group
from trio_run.skeleton import intake as intake_module
from trio_run.skeleton.intake import MAX_LINE, portions, serve_client


class SlowStore:
    """Takes a tenth of a second for each portion."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.stored = 0

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()

    async def save(self, lines: list[str], source: str) -> range:
        assert source == "unknown"
        await trio.sleep(self.seconds)
        self.stored += len(lines)
        return range(self.stored - len(lines), self.stored)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\n", b"one\ntwo", b"\n" * 500, b"\n" * 501, b"line\n" * 1_234 + b"x"],
)
def test_portions_are_the_same_bytes_and_have_no_more_than_so_many_lines(data: bytes) -> None:
    parts = list(portions(data))
    assert b"".join(parts) == data
    assert all(0 < part.count(b"\n") <= 500 or part.count(b"\n") == 0 for part in parts)
    assert len(parts) <= data.count(b"\n") / 500 + 1


async def test_a_client_that_sends_no_line_makes_room_for_others(
    autojump_clock: MockClock,
) -> None:
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_client, SlowStore(), server, idle_timeout=60))
        await trio.sleep(50)
        await client.send_all(b"one\n")
        assert await client.receive_some() == b"ok 0\n"
        for _ in range(5):  # a byte now and then is no line
            await trio.sleep(11)
            await client.send_all(b"x")
    assert 50 + 60 <= trio.current_time() <= 51 + 66


async def test_a_client_that_reads_no_answer_makes_room_for_others(
    autojump_clock: MockClock,
) -> None:
    class Unread(trio.abc.SendStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            assert data == b"ok 0\n"
            await trio.sleep_forever()

        async def wait_send_all_might_not_block(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            raise NotImplementedError

    client, server = memory_stream_pair()
    server.send_stream = Unread()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_client, SlowStore(), server, idle_timeout=60))
        await client.send_all(b"one\n")
    assert 60 <= trio.current_time() <= 66


async def test_with_no_limit_a_client_may_be_silent_for_a_day(autojump_clock: MockClock) -> None:
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, SlowStore(), server)
        await trio.sleep(86_400)
        await client.send_all(b"one\n")
        assert await client.receive_some() == b"ok 0\n"
        await client.send_eof()


async def stop_a_flood(store: SlowStore, lines: int, portion: bytes) -> tuple[int, float]:
    """So many lines have arrived when the stop comes: how many are answered, how long it takes."""
    client, server = memory_stream_pair()
    await client.send_all(portion * lines)

    async def intake() -> None:
        async with server:
            await serve_client(store, server)

    group = Group(grace=math.inf)
    group.add(intake, lambda cause: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        group.stop()
        answers = b"".join([data async for data in client])
    assert answers.count(b"\n") == store.stored
    return store.stored, trio.current_time() - began


async def test_a_stop_waits_no_longer_than_a_second_for_what_a_flood_has_sent(
    autojump_clock: MockClock,
) -> None:
    stored, took = await stop_a_flood(SlowStore(), 1_000_000, b"\n")
    assert 1 < took < 1.3
    assert stored == pytest.approx(took / 0.1 * 500)


async def test_a_line_of_a_portion_that_never_ends_is_no_reason_to_wait_either(
    autojump_clock: MockClock,
) -> None:
    stored, took = await stop_a_flood(SlowStore(3), 10, b"x" * MAX_LINE + b"\n")
    assert (stored, took) == (2, 6)


async def test_it_is_said_who_was_silent(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", intake_module.logger.name)
    _, server = memory_stream_pair()
    await serve_client(SlowStore(), server, idle_timeout=60)
    assert caplog.messages == ["unknown kept us waiting for 60 s"]
