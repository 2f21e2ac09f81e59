"""One task tells the other to stop: /quit

A clock ticks, and a web server answers. Asked for /quit, it stops them both.

In Go they share a context. The handler of /quit calls its cancel function, and
all that does is to close a channel, ctx.Done(). Each goroutine has to look at
it by itself, in a select, wherever it waits for anything. One that forgets
goes on, and cancel does not wait for anybody: for that there is still the
WaitGroup.

In Trio there is a cancel scope: a block of code that can be cancelled from
outside. Each nursery has one. After cancel() every task in the block gets a
Cancelled exception at its next await, or where it is waiting now. So the clock
has no line about being stopped, and yet it is; and where the block ends, all
have gone.

It is thorough: a visitor who is being answered is cut off in the middle. From
lesson 4 on a task is asked to end first, and cancelled later.
"""

from __future__ import annotations

from functools import partial

import trio

TRY = """\
In another terminal, ask it for something, then have it stop:

    curl http://127.0.0.1:{port}/
    curl http://127.0.0.1:{port}/quit"""


async def clock() -> None:
    try:
        while True:
            await trio.sleep(2)  # Cancelled is raised here
            print("clock: tick")
    finally:
        print("clock: stopped")


async def answer(everything: trio.CancelScope, stream: trio.SocketStream) -> None:
    """Just enough HTTP for curl, whose request comes in one piece. Lesson 4 has more."""
    request = await stream.receive_some()
    quitting = request.startswith(b"GET /quit ")
    body = b"Good bye!\n" if quitting else b"Hello!\n"
    await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
    if quitting:
        # Last, since we are in this scope ourselves: our next await would be cancelled too.
        print("web: I was asked to quit, and cancel everything")
        everything.cancel()


async def web(everything: trio.CancelScope, port: int) -> None:
    try:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        print("web: listening")
        await trio.serve_listeners(partial(answer, everything), listeners)
    finally:
        print("web: stopped")


async def both(port: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock)
        nursery.start_soon(web, nursery.cancel_scope, port)
    # The scope catches the Cancelled that it has sent: here the program goes on.
    print("main: both have stopped")


def main(port: int) -> None:
    trio.run(both, port)
