"""WebSocket: clients that stay

The last change: it comes. A handler that runs is waited for, up to the grace,
and so the stop takes nearly five seconds.

Now a browser may follow the readings as they come. That is a WebSocket: it
begins as an HTTP request, and then stays open, for days perhaps. Who closes it
when the station stops? Here follow() is a task like any handler, so its
listener does: it refuses new ones with 503, and closes those that are open
with 1001, "going away". Browsers and other clients know what that means. The
next use of the WebSocket raises ConnectionClosed in follow(), as if the client
had left, and that is no failure.

The handler is one for trio_websocket.serve_websocket: it works here unchanged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_run import Datagram, Group, TCPListener, UDPListener, WebSocketListener, busy, every, run

if TYPE_CHECKING:
    from trio_websocket import WebSocketRequest

NEEDS = ("websocket",)
TRY = """\
In another terminal follow the readings, then press Ctrl-C here:

    {python} -m trio_run.lessons.ask ws://127.0.0.1:{port1}"""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


async def measure() -> None:
    """The thermometer."""
    while True:
        with busy():
            await trio.sleep(1)
            readings["roof"] += 0.1
        await trio.sleep(4)  # here a stop may cancel it


def show() -> None:
    """The display."""
    print("show:", line_of_readings())


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
    readings[name] = float(degrees)
    await datagram.reply(b"noted\n")


async def follow(request: WebSocketRequest) -> None:
    """A browser."""
    websocket = await request.accept()
    while True:
        await websocket.send_message(line_of_readings())
        await trio.sleep(1)


def station(port: int) -> Group:
    group = Group(name="station", grace=10)
    group.add(measure)
    group.add(every(5, show), name="show")
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(UDPListener(note, port, host="127.0.0.1"))
    group.add(WebSocketListener(follow, port + 1, host="127.0.0.1"))
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port))


CHANGE = """\
In follow(), change

    await trio.sleep(1)

into

    await trio.sleep(8)

Press Ctrl-C just after a message. When does the client hear of it, and when
does the station stop?"""

ELSEWHERE = """\
In Go the handler takes the connection over from net/http: it is hijacked, and
Shutdown neither closes nor waits for it. The library KMS, "Killing Me Softly",
lets you do it by hand: you count what you are busy with, a channel says that it
is time, and each handler closes its own connection."""
