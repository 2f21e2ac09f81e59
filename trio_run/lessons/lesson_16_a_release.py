"""A new release, without a lost request

The last change: it is begun anew. A worker has no reason to end by itself, so
its exit code does not matter.

There is new code on disk, and it should run. To stop the station and start it
again would refuse its clients for a moment. But now there is a parent, which
holds the socket.

At SIGHUP it replaces its workers, one after the other. It starts a new one,
with the code that is on disk by now. When that says that it is ready, the old
one gets SIGTERM: it answers what it has begun, and ends. So there are never
fewer workers than before, and the socket is never closed.

If the new code does not start, that is seen at the first worker. It is logged,
and the old ones go on.

That was the course. The guide has what comes next: a page for each question,
and every rule of a stop.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys

import trio

from trio_run import Group, SignalReceiver, TCPListener, Workers, busy, inherited_sockets, run

NEEDS = ()
TRY = """\
In another terminal have the workers replaced, and ask meanwhile, as often as
you like. See the process change, and no client refused:

    kill -HUP {pid}
    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} roof"""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


async def answer(stream: trio.abc.Stream) -> None:
    """One client, of one of the workers."""
    async for line in stream:
        name = line.decode().strip()
        with busy():
            await trio.sleep(3)  # the sensor takes a fresh look
            degrees = f"{readings[name]:.1f} degrees"
            await stream.send_all(f"{degrees}, says process {os.getpid()}\n".encode())


def worker() -> int:
    """A worker: this file, as a program of its own."""
    return run(TCPListener(answer, sockets=inherited_sockets()["station"]), name="worker")


def station(port: int) -> Group:
    """The parent."""
    listening = socket.create_server(("127.0.0.1", port))
    workers = Workers([sys.executable, __file__], 2, sockets={"station": [listening]})
    group = Group(name="station", grace=40)
    group.add(workers)
    group.add(SignalReceiver(handlers={signal.SIGHUP: workers.replace}))
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port), signals=())


if __name__ == "__main__":
    sys.exit(worker())


CHANGE = """\
Run the copy first, and leave it running. In answer(), change

    degrees = f"{readings[name]:.1f} degrees"

into

    degrees = f"{readings[name] + 273.15:.1f} kelvin"

That is your new release: send the SIGHUP. Which answers are in kelvin?"""

ELSEWHERE = """\
In Go this is tableflip or overseer: the process starts its successor, hands its
sockets over, and ends when that is ready. gunicorn and nginx do it at SIGHUP."""
