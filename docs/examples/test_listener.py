import trio

from trio_run import TCPListener, busy
from trio_run.testing import connect, ending, read_until, running


async def shout(stream):
    async for data in stream:
        with busy():
            await trio.sleep(0.1)
            await stream.send_all(data.upper())


async def test_what_was_asked_before_the_stop_is_answered():
    listener = TCPListener(shout, 0, host="127.0.0.1")
    async with running(listener) as group, await connect(listener) as client:
        await client.send_all(b"hello\n")
        assert await read_until(client, b"\n") == b"HELLO\n"
        await client.send_all(b"again\n")
        group.stop()
        assert await ending(client) == (b"AGAIN\n", "eof")
    assert group.report.actors[0].detail == "1 drained, 0 cut"
