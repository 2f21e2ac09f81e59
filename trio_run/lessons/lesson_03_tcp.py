"""TCP: clients that ask

The last change: the first Ctrl-C stopped nothing. Who asks for signals has to
act on them. The second one was Python's own again, since the `with` block had
ended: it came out as a KeyboardInterrupt.

Now the station answers. A client sends the name of a sensor, and gets the
degrees three seconds later, since the sensor takes a fresh look. trio.serve_tcp
runs answer() for each client, in a task of its own, in a nursery of its own.

Two things are wrong with it, and you will see both. A stop cuts off whoever is
being answered. And the error of one client is the end of the station. In lesson
1 the error was printed below one group, that of the nursery. Here it will be
below two, since it has come through two nurseries: that of serve_tcp, which is
the lower one, and ours. The error itself is the last line.
"""

from __future__ import annotations

import signal
from functools import partial

import trio

NEEDS = ()
TRY = """\
The station listens on port {port}. In another terminal, ask for the roof:

    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} roof

Ask again, and press Ctrl-C here before the answer comes. Run the lesson once
more, and ask for a sensor that is not there:

    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} cellar"""

readings = {"roof": 20.0}  # degrees, by the name of the sensor


async def measure() -> None:
    """The thermometer: a reading each second."""
    try:
        while True:
            await trio.sleep(1)
            readings["roof"] += 0.1
    finally:
        print("measure: stopped")


async def show() -> None:
    """The display."""
    try:
        while True:
            print("show:", ", ".join(f"{name} {value:.1f}" for name, value in readings.items()))
            await trio.sleep(1.5)
    finally:  # whatever ends this task, this is run
        print("show: stopped")


async def answer(stream: trio.abc.Stream) -> None:
    """One client. Each line is a name (and comes in one piece, as we make it easy here)."""
    async for line in stream:
        name = line.decode().strip()
        print("answer: somebody asks for", name)
        await trio.sleep(3)  # the sensor takes a fresh look
        await stream.send_all(f"{readings[name]:.1f} degrees\n".encode())


async def wait_for_signal(everything: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        number = await anext(signals)
        print("signals:", signal.Signals(number).name, "came")
        everything.cancel()


async def station(port: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure)
        nursery.start_soon(show)
        nursery.start_soon(partial(trio.serve_tcp, answer, port, host="127.0.0.1"))
        nursery.start_soon(wait_for_signal, nursery.cancel_scope)
        # Here the block waits. No task has a line about another one.
    print("station: all have stopped")


def main(port: int) -> None:
    trio.run(station, port)


CHANGE = """\
In answer(), change

    await stream.send_all(f"{readings[name]:.1f} degrees\\n".encode())

into

    await stream.send_all(f"{readings.get(name, 0):.1f} degrees\\n".encode())

Nobody can name a wrong sensor now. Is there still a way for a client to bring
the station down?"""

ELSEWHERE = """\
In Go a panic in a goroutine of yours ends the process on the spot, and what
the others had deferred is not run. Only net/http recovers what its handlers
raise."""
