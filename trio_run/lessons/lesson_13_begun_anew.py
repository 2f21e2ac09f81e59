"""Begun anew: an actor that may fail

The last change: the `assert` on the lines of the logbook. The reading was
broken off after a minute, and nothing was written.

Now the station follows its neighbour's, over a cable that breaks now and then.
The first actor to exit stops all, so that would be the end. But the station can
do without the neighbour for a while.

Restarting begins an actor anew when it has failed. It waits before, a little
longer each time. While the actor is down the group is not ready, and a load
balancer can see it. Each failure is in the log, the report counts the lives,
and a stop ends the wait at once.

But it does not go on for ever, since what fails again and again is not mended
by one more try. `limit=2, within=60`: the third failure within a minute is a
failure of its own. It stops the station with exit code 1, and a service manager
begins the whole program anew.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from trio_run import (
    Cause,
    Datagram,
    Group,
    HTTPListener,
    Restarting,
    TCPListener,
    UDPListener,
    WebSocketListener,
    busy,
    current_group,
    every,
    run,
)

if TYPE_CHECKING:
    from trio_websocket import WebSocketRequest

NEEDS = ("http", "websocket")
BEFORE = 11  # which 12 has tested
TRY = """\
In another terminal, cut the cable, and ask twice whether the station is ready,
at once and fifteen seconds later:

    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} cut
    {python} -m trio_run.lessons.ask http://127.0.0.1:{port2}/readyz

The second call fails too, and the third one succeeds. Then cut the cable once
more, which is too often."""

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
        with trio.move_on_after(1, shield=True):
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


class Neighbour:
    """The station in the next village, and the cable to it."""

    def __init__(self) -> None:
        self.calls = 0
        self.cut = trio.Event()

    async def follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.calls += 1
        print("neighbour: call", self.calls)
        if self.calls == 2:
            raise OSError("no dial tone")
        self.cut = trio.Event()
        task_status.started()  # from now on we are ready, if all else is
        await self.cut.wait()
        raise OSError("the cable is cut")


neighbour = Neighbour()


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
        if name == "cut":
            neighbour.cut.set()
            break
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


async def web(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """A web app by hand: ASGI is the protocol, which Starlette and others speak too."""
    if scope["type"] != "http":
        return  # it is called for the server's start and stop too
    group = current_group()
    assert group is not None
    status, body = 200, line_of_readings()
    if scope["path"] == "/readyz":
        status, body = (200, "ready") if group.ready else (503, "not ready")
    await send({"type": "http.response.start", "status": status})
    await send({"type": "http.response.body", "body": f"{body}\n".encode()})


def station(port: int) -> Group:
    group = Group(name="station", grace=10)
    book = group.add(logbook)
    group.add(Restarting(neighbour.follow, first=4, limit=2, within=60, name="neighbour"))
    group.add(measure, needs=[book])
    group.add(every(1, show), name="show", daemon=True)
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(UDPListener(note, port, host="127.0.0.1"), needs=[book])
    group.add(WebSocketListener(follow, port + 1, host="127.0.0.1"))
    group.add(HTTPListener(web, port + 2, host="127.0.0.1"))
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port))


CHANGE = """\
In Neighbour.follow(), change

    if self.calls == 2:

into

    if self.calls == 1:

Now the very first call fails. Does the station start?"""

ELSEWHERE = """\
In Go people write a loop: connect, log the error, time.Sleep, again. It
sleeps through a stop, and goes on for ever if nothing gets better. Erlang's
supervisors, and suture in Go, wait longer each time, and give up in the end, so
that somebody else may try."""
