"""Two tasks in a nursery

A weather station does two things at once: it measures, and it shows what it
has measured. Each is a task: an async function that runs beside others. It
gives them their turn wherever it says `await`, and nowhere else.

Tasks run in a nursery. The block of the nursery ends when all its tasks have
ended, and never before. When one fails, the nursery cancels the others, waits
until they have cleaned up, and then raises the error, where the block ends. No
task is left behind, and no error is lost.

More than one task may fail. So what a nursery raises is a group of errors, an
ExceptionGroup, even if there is only one in it. `except* OSError:` catches what
is an OSError in a group. (Ctrl-C raises KeyboardInterrupt, which is no
Exception: with that in it, the group is called BaseExceptionGroup.)
"""

from __future__ import annotations

import trio

NEEDS = ()
TRY = """\
Only watch. After five seconds the battery of the thermometer is empty: see who
stops, and what comes out of the program. Then run it again, and press Ctrl-C."""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


async def measure() -> None:
    """The thermometer: a reading each second, as long as its battery lasts."""
    try:
        for _ in range(5):
            await trio.sleep(1)
            readings["roof"] += 0.1
        raise OSError("the battery is empty")
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


async def station(_port: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure)
        nursery.start_soon(show)
        # Here the block waits. No task has a line about another one.


def main(port: int) -> None:
    trio.run(station, port)


CHANGE = """\
In show(), change

    await trio.sleep(1.5)

into

    await trio.sleep(200)

When the battery is empty, how long does the program go on?"""

ELSEWHERE = """\
In Go each task is a goroutine, and main waits for both with a sync.WaitGroup.
A WaitGroup only counts: when one goroutine gives up, the other goes on alone,
and main goes on waiting."""
