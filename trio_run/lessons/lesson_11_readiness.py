"""Readiness: the load balancer's side

The last change: the stop takes about a second. The logbook is not cut any more:
after a second it moves on by itself. That is the cure: a shield needs a time
limit. It stays so from now on.

Now the readings are on a web page too, and a load balancer stands before it. It
asks /readyz every few seconds, and sends nobody to who is not ready. But a
program that stops closes its listeners at once, and the load balancer hears of
that later: meanwhile its clients are refused.

So there is the lame duck: after a signal the group goes on serving for so many
seconds, ten here, while `group.ready` is false. It is part of the grace. One
more signal ends it early; the one after that cuts. When an actor has failed,
there is no lame duck: there is nothing left to serve with.

HTTPListener serves any ASGI app. At a stop it ends idle connections at once,
and answers requests in flight. During the lame duck it answers with
`Connection: close`, so that clients come back to somebody else.
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
TRY = """\
In another terminal, ask for the page, and whether it is ready:

    {python} -m trio_run.lessons.ask http://127.0.0.1:{port2}/
    {python} -m trio_run.lessons.ask http://127.0.0.1:{port2}/readyz

Press Ctrl-C here, and ask both again within ten seconds. If you don't want to
wait for the rest of them, press Ctrl-C once more."""

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
    group = Group(name="station", lame_duck=10, grace=30)
    book = group.add(logbook)
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
In station(), change

    group = Group(name="station", lame_duck=10, grace=30)

into

    group = Group(name="station", lame_duck=10, grace=10)

What will happen? (Only start it.)"""

ELSEWHERE = """\
In Go you write it by hand: at the signal set a flag, answer 503 at /readyz
while it is set, sleep as long as the load balancer needs, then call Shutdown,
which closes the listeners first of all. Kubernetes takes a pod out of its lists
while it sends SIGTERM, not before."""
