"""UDP: datagrams from the garden

The last change: the program stopped at once, and "a reading ends" never came.
Nothing else was said: to be cancelled is no error.

Now there are sensors elsewhere, which send their readings by radio: each is one
datagram, with a name and degrees. UDPListener runs a handler for each. There is
no connection that could drain. But the kernel keeps a queue of datagrams that
have arrived, and whoever has sent one of those should not be forgotten: so at a
stop the listener hands out what is queued, closes the socket, and waits for the
handlers.

A handler that fails is logged, with the sender's address, and the next datagram
is handled as ever. UDP has ports of its own, so the number is TCP's too.
"""

from __future__ import annotations

import logging

import trio

from trio_run import Datagram, Group, TCPListener, UDPListener, busy, every, run

NEEDS = ()
TRY = """\
In another terminal be a sensor in the garden, then one that is broken (it waits
ten seconds for a reply, in vain); then ask for the garden, by TCP:

    {python} -m trio_run.lessons.ask udp://127.0.0.1:{port} garden 17.5
    {python} -m trio_run.lessons.ask udp://127.0.0.1:{port} garden cold
    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} garden

Press Ctrl-C here."""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


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
        with busy():
            await trio.sleep(3)  # the sensor takes a fresh look
            await stream.send_all(f"{readings[name]:.1f} degrees\n".encode())


async def note(datagram: Datagram) -> None:
    """A reading from elsewhere."""
    print("note: a datagram came")
    name, degrees = datagram.data.decode().split()
    readings[name] = float(degrees)
    await datagram.reply(b"noted\n")


def station(port: int) -> Group:
    group = Group(name="station", grace=10)
    group.add(measure)
    group.add(every(2, show), name="show")
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(UDPListener(note, port, host="127.0.0.1"))
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port))


CHANGE = """\
In note(), change

    readings[name] = float(degrees)

into

    await trio.sleep(5)

Send a datagram, and press Ctrl-C before its reply comes. Does it come?"""

ELSEWHERE = """\
In Go a loop waits in ReadFromUDP, which takes no context. Either somebody
closes the socket under it, and the loop has to know that error from a real one,
or it sets a deadline a second from now, again and again, and looks in between.
What is queued is lost."""
