"""Two tasks that know nothing of each other

This program does two things at once: it greets whoever connects, and it ticks.
Each is a task: an async function that runs beside others, and lets them have
their turn wherever it says await.

In Go each would be a goroutine, and main would wait for both with a
sync.WaitGroup: Add(2) before they start, Done() at the end of each, Wait() in
main. Nobody checks that the numbers fit. And a WaitGroup only counts: when one
goroutine gives up, the other goes on alone, and main goes on waiting. When one
panics, the process ends on the spot: what the others had deferred is not run.

In Trio a task runs in a nursery. The block of the nursery ends when all its
tasks have ended, and never before: there is nothing to count. If one fails,
the nursery cancels the others, waits until they have cleaned up, and raises
the error where the block ends. No task is left behind, and no error is lost.
"""

from __future__ import annotations

import trio

TRY = """\
In another terminal, be a visitor:

    echo Ada | nc 127.0.0.1 {port}

Then be one whose name the greeter is not prepared for:

    echo Zoë | nc 127.0.0.1 {port}

The greeter fails, the clock stops too, and the error comes out. Start the
lesson again, and press Ctrl-C here: that is an error like any other,
KeyboardInterrupt."""


async def clock() -> None:
    tick = 0
    try:
        while True:
            tick += 1
            print("clock: tick", tick)
            await trio.sleep(2)
    finally:  # whatever ends this task, this is run
        print("clock: stopped")


async def greet(stream: trio.SocketStream) -> None:
    """One visitor; each has a task of its own, in a nursery that serve_listeners opens."""
    data = await stream.receive_some()
    name = data.decode("ascii").strip()  # the bug: there are other letters
    print("greeter: here is", name)
    await stream.send_all(f"Hello, {name}!\n".encode())


async def greeter(port: int) -> None:
    try:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        print("greeter: listening")
        await trio.serve_listeners(greet, listeners)
    finally:
        print("greeter: stopped")


async def both(port: int) -> None:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock)
            nursery.start_soon(greeter, port)
            # Here the block waits. Neither task has a line about the other.
    finally:
        print("main: both have stopped")


def main(port: int) -> None:
    trio.run(both, port)
