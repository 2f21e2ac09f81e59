"""Section 4, rule 4: busy() in a worker thread does nothing, and breaks nothing."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_run import busy, cancel_on_stop, stopping
from trio_run.testing import read_to_end

from .serving import serving


async def answer_in_a_thread(stream: trio.abc.Stream) -> None:
    def work(chunk: bytes) -> bytes:
        with busy():
            with busy():
                return chunk.upper()

    async for chunk in stream:
        await stream.send_all(await trio.to_thread.run_sync(work, bytes(chunk)))


@pytest.mark.parametrize("drain", ["eof", "cancel"])
async def test_rule_04_busy_in_a_worker_thread_leaves_the_connection_idle(drain: str) -> None:
    async with serving(answer_in_a_thread, drain=drain) as server:
        async with await server.connect() as client:
            assert await ask_in_capitals(client) == b"HELLO"
            assert server.listener.status == "1 connection, 0 busy"
            server.group.stop()
            assert await read_to_end(client) == b""
        await server.stop()
    assert server.detail == "1 drained, 0 cut"


async def ask_in_capitals(client: trio.abc.Stream) -> bytes:
    await client.send_all(b"hello")
    return bytes(await client.receive_some())


async def test_rule_04_busy_in_a_worker_thread_takes_nothing_from_a_block_around_it() -> None:
    go = trio.Event()

    async def handler(stream: trio.abc.Stream) -> None:
        async for chunk in stream:
            with busy(), cancel_on_stop():
                with busy():
                    await trio.to_thread.run_sync(lambda: busy().__enter__())
                    await go.wait()
                    await stream.send_all(chunk)

    async with serving(handler) as server, await server.connect() as client:
        await client.send_all(b"hello")
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 1 busy"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await read_to_end(client) == b"hello"
        await server.stop()
    assert server.detail == "1 drained, 0 cut"


async def test_rule_04_a_block_that_a_thread_runs_in_trio_counts() -> None:
    begun, go = trio.Event(), trio.Event()

    async def send(stream: trio.abc.Stream, chunk: bytes) -> None:
        with busy():
            begun.set()
            await go.wait()
            await stream.send_all(chunk)

    def work(stream: trio.abc.Stream, chunk: bytes) -> bool:
        trio.from_thread.run(send, stream, chunk)
        return stopping()

    async def handler(stream: trio.abc.Stream) -> None:
        async for chunk in stream:
            assert await trio.to_thread.run_sync(work, stream, bytes(chunk))

    async with serving(handler) as server, await server.connect() as client:
        await client.send_all(b"hello")
        await begun.wait()
        assert server.listener.status == "1 connection, 1 busy"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await read_to_end(client) == b"hello"
        await server.stop()
    assert server.detail == "1 drained, 0 cut"
