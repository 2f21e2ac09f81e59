"""Execute and interrupt: an actor with a say in how it stops

The last change: the first client still gets its answer. The others stop in the
same way, whatever the cause is. But run() raises what has failed, as a
GroupFailed, and the exit code is 1. (It has the report as its `.report`.)

Now the thermometer is driven by a motor: a reading takes four seconds, and
should not be broken off halfway. So it becomes an object with two halves.
execute() does the work. interrupt() is called once, when the group stops, and
makes execute() return soon. Meanwhile all others are interrupted too: nobody
waits for anybody.

A task that ignores the request would hold up the stop for ever. So there is a
grace, 10 seconds here: what has not returned by then is cancelled. The report
calls it cut.

Two helpers save some lines. every() is an actor that calls a function again and
again. run() is the group for a whole process: it adds the SignalReceiver, logs
the report, and returns the exit code. (The SignalReceiver is interrupted last,
since there may be a second signal.)
"""

from __future__ import annotations

import logging

import trio

from trio_run import Cause, Group, TCPListener, every, run

NEEDS = ()
TRY = """\
Press Ctrl-C in the midst of a reading. See in the report that the thermometer
takes its time, and nobody else does but signals, which is interrupted last. Run
it again, and press Ctrl-C twice: the second one is for those who can't wait.
What is the exit code now?"""

readings = {"roof": 20.0}  # degrees, by the name of the sensor
quitting = trio.Event()


class Thermometer:
    name = "thermometer"

    def __init__(self) -> None:
        self.closing = False

    async def execute(self) -> None:
        while not self.closing:
            print("thermometer: a reading begins")
            await trio.sleep(4)
            readings["roof"] += 0.1
            print("thermometer: a reading ends")

    def interrupt(self, cause: Cause) -> None:
        print(f"thermometer: {cause}: this is my last reading")
        self.closing = True


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
        await trio.sleep(3)  # the sensor takes a fresh look
        await stream.send_all(f"{readings[name]:.1f} degrees\n".encode())


async def wait_for_quit() -> None:
    await quitting.wait()
    print("wait_for_quit: I return")


def station(port: int) -> Group:
    group = Group(name="station", grace=10)
    group.add(Thermometer())
    group.add(every(2, show), name="show")
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(wait_for_quit)
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port))


CHANGE = """\
In station(), change

    group = Group(name="station", grace=10)

into

    group = Group(name="station", grace=1)

Press Ctrl-C when a reading has just begun. What does the report say of the
thermometer? And is that a failure, so what is the exit code?"""

ELSEWHERE = """\
In Go this is oklog/run: an actor is a pair of functions, execute and interrupt.
There the interrupts are called one after the other, so one that hangs keeps all
after it from being interrupted, and nothing bounds the wait."""
