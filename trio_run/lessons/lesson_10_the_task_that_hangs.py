"""The task that hangs: who does not stop, and where

The last change: the datagram is lost. The logbook closed while the handler was
still checking. The log says "the logbook is closed", and the sender never gets
its reply.

Now the logbook sends the day's report by radio before it closes. So that nobody
disturbs it, that is shielded from being cancelled. But the radio does not
answer, and the station does not stop. What does it wait for?

The log says it. The times of this lesson are short, and its lines have theirs:

    2 s   the grace is over: the logbook is cut, but the shield keeps that off
    5 s   who is waited for, with its status; again every five seconds
    7 s   five seconds after the cut, the stack of each of its tasks
    9 s   the radio gives up, and so the lesson ends

If it never did, run() would end the process: abort_after, 10 seconds here, past
the grace, with the stacks of all threads and the exit code 1. That works even
when a task blocks everything with a `while True: pass`.

The status is an attribute of the actor, if it has one: a line of text that says
what it does just now. The report has it too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_run import (
    Cause,
    Datagram,
    Group,
    TCPListener,
    UDPListener,
    WebSocketListener,
    busy,
    every,
    run,
)

if TYPE_CHECKING:
    from trio_websocket import WebSocketRequest

NEEDS = ("websocket",)
TRY = """\
Press Ctrl-C, and wait for nine seconds."""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


class Logbook:
    name = "logbook"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.is_open = False
        self.closing = trio.Event()
        self.status = "open"

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)  # a slow disk
        self.is_open = True
        task_status.started()  # now it is ready, and who needs it may start
        await self.closing.wait()
        self.is_open = False
        self.status = "sending the day's report"
        with trio.CancelScope(shield=True):  # nobody is to disturb it
            await send_by_radio()
        self.status = "sent"

    def interrupt(self, _cause: Cause) -> None:
        print("logbook: whoever needs me has stopped, so I close")
        self.closing.set()

    def write(self, name: str, degrees: float) -> None:
        assert self.is_open, "the logbook is closed"
        self.lines.append(f"{name} {degrees:.1f}")
        readings[name] = degrees


async def send_by_radio() -> None:
    await trio.sleep(9)  # nobody answers


logbook = Logbook()


async def measure() -> None:
    """The thermometer."""
    while True:
        with busy():
            await trio.sleep(1)
            logbook.write("roof", readings["roof"] + 0.1)
        await trio.sleep(4)  # here a stop may cancel it


def show() -> None:
    """The display."""
    print("show:", line_of_readings(), f"({len(logbook.lines)} in the logbook)")


def line_of_readings() -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in readings.items())


async def answer(stream: trio.abc.Stream) -> None:
    """One client. Each line is a name (and comes in one piece, as we make it easy here)."""
    async for line in stream:
        name = line.decode().strip()
        print("answer: somebody asks for", name)
        with busy():
            await trio.sleep(3)  # the sensor takes a fresh look
            await stream.send_all(f"{readings[name]:.1f} degrees\n".encode())


async def note(datagram: Datagram) -> None:
    """A reading from elsewhere."""
    print("note: a datagram came")
    name, degrees = datagram.data.decode().split()
    await trio.sleep(4)  # is that likely? It takes a while to check
    logbook.write(name, float(degrees))
    await datagram.reply(b"noted\n")


async def follow(request: WebSocketRequest) -> None:
    """A browser."""
    websocket = await request.accept()
    while True:
        await websocket.send_message(line_of_readings())
        await trio.sleep(1)


def station(port: int) -> Group:
    group = Group(name="station", grace=2)
    book = group.add(logbook)
    group.add(measure, needs=[book])
    group.add(every(1, show), name="show", daemon=True)
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(UDPListener(note, port, host="127.0.0.1"), needs=[book])
    group.add(WebSocketListener(follow, port + 1, host="127.0.0.1"))
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port), abort_after=10)


CHANGE = """\
In Logbook.execute(), change

    with trio.CancelScope(shield=True):  # nobody is to disturb it

into

    with trio.move_on_after(1, shield=True):

How long does the stop take now? Is the logbook still cut?"""

ELSEWHERE = """\
In Go you send SIGQUIT: the program prints the stack of every goroutine, and
exits. Among some hundreds you look for the one. oklog/run, errgroup and
WaitGroup just wait, and say nothing."""
