"""A signal: the task that stops the others

The last change: the program ended after five seconds, as before. A task that
is cancelled gets the exception Cancelled where it waits, at once, however long
it wanted to wait.

Now the thermometer has a new battery, and the station runs until it is to
stop. There are two ways to say so from outside, and both are signals: Ctrl-C
is SIGINT, and what a service manager sends is SIGTERM. Without a line about
it, SIGTERM ends a process on the spot: no `finally` is run.

So a third task waits for signals. When one comes, it cancels the block of the
nursery. Each nursery has a cancel scope for that. Every task in it gets
Cancelled at its `await`, and where the block ends the program goes on: the
scope has caught what it has sent, so this is no error.
"""

from __future__ import annotations

import signal

import trio

NEEDS = ()
TRY = """\
In another terminal type

    kill -TERM {pid}

Then run it again, and press Ctrl-C here."""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


async def measure() -> None:
    """The thermometer: a reading each second."""
    try:
        while True:
            await trio.sleep(1)
            readings["roof"] += 0.1
    finally:
        print("measure: stopped")


async def show() -> None:
    """The display."""
    try:
        while True:
            print("show:", ", ".join(f"{name} {value:.1f}" for name, value in readings.items()))
            await trio.sleep(1.5)
    finally:  # whatever ends this task, this is run
        print("show: stopped")


async def wait_for_signal(everything: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        number = await anext(signals)
        print("signals:", signal.Signals(number).name, "came")
        everything.cancel()


async def station(_port: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure)
        nursery.start_soon(show)
        nursery.start_soon(wait_for_signal, nursery.cancel_scope)
        # Here the block waits. No task has a line about another one.
    print("station: all have stopped")


def main(port: int) -> None:
    trio.run(station, port)


CHANGE = """\
In wait_for_signal(), change

    everything.cancel()

into

    print("signals: I am busy")

Press Ctrl-C once. What happens? And what does a second Ctrl-C do?"""

ELSEWHERE = """\
In Go a context is cancelled, and all that does is to close a channel. Each
goroutine has to look at the channel wherever it waits, and one that forgets
goes on."""
