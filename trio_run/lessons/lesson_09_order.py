"""Order: what must outlive what

The last change: the client hears of it at once. The handler only when it next
uses the WebSocket, so the stop takes up to eight seconds. (Where a handler has
to wait for long, `with cancel_on_stop():` around that ends the wait at once.)

Now every reading is written into a logbook. Until its file is open, nobody may
write into it, and at a stop it has to stay open until the last datagram is in,
or that one is lost, with its sender waiting.

So an actor says what it needs: `group.add(..., needs=[book])`. It starts when
that is ready. The logbook says when: `task_status.started()`. And what is
needed is interrupted only when all that need it have stopped.

The display needs nothing, and should show what goes on to the very end. So it
is a daemon: one that comes last of all, and does not keep the group alive.

The report shows it all: the bar of the logbook begins where that of the
datagrams ends.
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
In another terminal send a reading, which takes four seconds to check, and
press Ctrl-C here before its reply comes:

    {python} -m trio_run.lessons.ask udp://127.0.0.1:{port} garden 17.5"""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


class Logbook:
    name = "logbook"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.is_open = False
        self.closing = trio.Event()

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)  # a slow disk
        self.is_open = True
        task_status.started()  # now it is ready, and who needs it may start
        await self.closing.wait()
        self.is_open = False
        print(f"logbook: closed, with {len(self.lines)} lines")

    def interrupt(self, _cause: Cause) -> None:
        print("logbook: whoever needs me has stopped, so I close")
        self.closing.set()

    def write(self, name: str, degrees: float) -> None:
        assert self.is_open, "the logbook is closed"
        self.lines.append(f"{name} {degrees:.1f}")
        readings[name] = degrees


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
    group = Group(name="station", grace=10)
    book = group.add(logbook)
    group.add(measure, needs=[book])
    group.add(every(1, show), name="show", daemon=True)
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(UDPListener(note, port, host="127.0.0.1"), needs=[book])
    group.add(WebSocketListener(follow, port + 1, host="127.0.0.1"))
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port))


CHANGE = """\
In station(), change

    group.add(UDPListener(note, port, host="127.0.0.1"), needs=[book])

into

    group.add(UDPListener(note, port, host="127.0.0.1"))

Do the same as before. What becomes of the datagram?"""

ELSEWHERE = """\
In Go the order of a stop is the order of lines: Shutdown, Wait, then Close. In
oklog/run all actors start at the same time, and are interrupted in the order
in which they were added, but nobody waits in between."""
