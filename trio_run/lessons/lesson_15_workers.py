"""A parent and its workers: more than one core

The last change: the page has a button that stops the group. Whoever reaches the
port may press it, so the port is one of this machine alone.

The station has become popular, and one process of Python uses one core. So the
part that answers becomes a program of its own, the worker, and runs twice. To
keep it short, that is all that is left of the station in this lesson.

The parent opens the listening socket and hands it to each worker. It does so as
systemd hands sockets to its services, and inherited_sockets() finds them either
way: the worker does not know who has started it. By run() it says when it is
ready, and that too goes the way systemd knows.

A worker that ends without having been stopped is begun anew. The others serve
meanwhile. At a stop the parent sends SIGTERM to each, and waits: each worker
stops as you have seen in all these lessons, with a report of its own.

The two know nothing of each other: what a worker writes into its readings, the
other does not see. That belongs into a database.
"""

from __future__ import annotations

import logging
import os
import socket
import sys

import trio

from trio_run import Group, TCPListener, Workers, busy, inherited_sockets, run

NEEDS = ()
BEFORE = 0
TRY = """\
In another terminal, ask some times, and see who answers. Then let a worker
crash, and ask again. Press Ctrl-C here while you wait for an answer:

    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} roof
    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} crash"""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


async def answer(stream: trio.abc.Stream) -> None:
    """One client, of one of the workers."""
    async for line in stream:
        name = line.decode().strip()
        if name == "crash":
            raise SystemExit(1)
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
    return group


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return run(station(port))


if __name__ == "__main__":
    sys.exit(worker())


CHANGE = """\
In answer(), change

    raise SystemExit(1)

into

    raise SystemExit(0)

Now the worker ends as if all were well. Is it begun anew?"""

ELSEWHERE = """\
In Go one process uses all cores, so nobody needs this for speed. Python's way
is that of gunicorn, and of nginx: a parent that owns the sockets, and workers."""
