"""How it is: a page for those who ask

The last change: it starts, a few seconds later. The first life has failed, and
so it is begun anew, as later: the start only has to wait.

It is night, and the station does not stop. What does it wait for? Is it ready?
How many clients has it? The log may say it, if you have it at hand.

StatusPage is a daemon with a port of its own. Daemons begin first and stop
last, so it answers from before the others are ready until they have all
stopped. It knows what the group knows, so there is nothing to write for it:
/readyz is answered here from now on, and our own is gone. Its page shows each
actor, with its status, and what happens. At a stop a bar grows for each, and
whoever holds it up is red. /status is the same as JSON, /metrics is for
Prometheus.
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
    StatusPage,
    TCPListener,
    UDPListener,
    WebSocketListener,
    busy,
    every,
    run,
)

if TYPE_CHECKING:
    from trio_websocket import WebSocketRequest

NEEDS = ("http", "metrics", "websocket")
TRY = """\
Open http://127.0.0.1:{port3}/ in a browser. Cut the cable, and look; then press
Ctrl-C here, and look:

    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} cut

Without a browser, ask while it stops:

    {python} -m trio_run.lessons.ask http://127.0.0.1:{port3}/readyz
    {python} -m trio_run.lessons.ask http://127.0.0.1:{port3}/status"""

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
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": f"{line_of_readings()}\n".encode()})


def station(port: int) -> Group:
    group = Group(name="station", lame_duck=10, grace=30)
    book = group.add(logbook)
    group.add(Restarting(neighbour.follow, first=4, limit=2, within=60, name="neighbour"))
    group.add(measure, needs=[book])
    group.add(every(1, show), name="show", daemon=True)
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(UDPListener(note, port, host="127.0.0.1"), needs=[book])
    group.add(WebSocketListener(follow, port + 1, host="127.0.0.1"))
    group.add(StatusPage(port + 3))
    group.add(HTTPListener(web, port + 2, host="127.0.0.1"))
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port))


CHANGE = """\
In station(), change

    group.add(StatusPage(port + 3))

into

    group.add(StatusPage(port + 3, can_stop=True))

Look at the page again. What is new, and who may do it?"""

ELSEWHERE = """\
In Go each program answers by itself: a handler for /readyz, one for /metrics by
promhttp, expvar for the rest. They hang on the server that Shutdown closes
first of all, so that just during the stop nobody can ask any more."""
