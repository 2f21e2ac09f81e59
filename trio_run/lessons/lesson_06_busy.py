"""Busy: let me finish this

The last change: the report says that the thermometer was cut, after one second.
That is no failure: the group was to stop, and did. The exit code is 0.

Often an interrupt is more than you need. A function without one is cancelled
where it waits, which is right for most of its waiting. Only some of it must not
be broken off. Say so with a block: `with busy():`. A stop reaches the task when
the block has ended, not before. (But the grace and a second Ctrl-C go through
it, or a stop might never end.)

So the thermometer is a function again. It may be cancelled between two readings
and never within one.

To a client the same block means: from here on I shall answer. At a stop its
connection ends after the block. A connection outside of a block is idle: it
ends at once. To the handler it looks as if the client had hung up, so there is
no code for it: the loop over the stream ends. The report counts them: drained
are those that ended so.
"""

from __future__ import annotations

import logging

import trio

from trio_run import Group, TCPListener, busy, every, run

NEEDS = ()
TRY = """\
In one terminal be a client that says nothing. In another, ask for the roof, and
press Ctrl-C here before the answer comes: see which of the two ends first.

    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port}
    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} roof

Run it again, ask for the roof, and press Ctrl-C twice: the client's connection
ends in a reset, so that it knows that something is missing."""

readings = {"roof": 20.0}  # degrees, by the name of the sensor
quitting = trio.Event()


async def measure() -> None:
    """The thermometer."""
    while True:
        with busy():
            print("measure: a reading begins")
            await trio.sleep(4)
            readings["roof"] += 0.1
            print("measure: a reading ends")
        await trio.sleep(2)  # here a stop may cancel it


def show() -> None:
    """The display."""
    print("show:", ", ".join(f"{name} {value:.1f}" for name, value in readings.items()))


async def answer(stream: trio.abc.Stream) -> None:
    """One client. Each line is a name (and comes in one piece, as we make it easy here)."""
    async for line in stream:
        name = line.decode().strip()
        print("answer: somebody asks for", name)
        if name == "quit":
            quitting.set()
            break
        with busy():
            await trio.sleep(3)  # the sensor takes a fresh look
            await stream.send_all(f"{readings[name]:.1f} degrees\n".encode())


async def wait_for_quit() -> None:
    await quitting.wait()
    print("wait_for_quit: I return")


def station(port: int) -> Group:
    group = Group(name="station", grace=10)
    group.add(measure)
    group.add(every(2, show), name="show")
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(wait_for_quit)
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port))


CHANGE = """\
In measure(), change

    with busy():

into

    if True:

Press Ctrl-C when a reading has just begun. What do you see, and what don't you
see?"""

ELSEWHERE = """\
In Go the Shutdown of net/http knows idle from busy, for HTTP alone. It polls
for the busy ones, and when its context ends it returns an error, while the
handlers go on. For all else there is a WaitGroup of your own, and no limit."""
