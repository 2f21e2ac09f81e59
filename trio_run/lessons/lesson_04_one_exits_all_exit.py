"""One exits, all exit: a group

The last change: there are many ways. A client that sends bytes that are no
text is one (UnicodeDecodeError), one whose connection breaks before its answer
another (BrokenResourceError). Not every error can be foreseen, so a server has
to live with them.

A Group runs actors: async functions, and objects with an async execute(). The
first one to exit stops all, whether it has failed or returned. And a group
does not cancel at once. It interrupts first, which is to ask: an actor that
knows what to do then ends in its own way. A function that knows of nothing is
cancelled, as before.

TCPListener knows. It stops listening, lets each client have its answer, and
returns. And when a handler fails, it logs that, with the client's address,
closes that one connection, and goes on. SignalReceiver is the task that waits
for signals.

In the end run() returns a report: why the group stopped, and a line for each
actor. It has the seconds after which the actor was ready, those after which the
stop reached it, a bar for the time that it took from there, and its outcome.
Connections are drained if they could end in their own way, and cut if not.
"""

from __future__ import annotations

import logging

import trio

from trio_run import Group, SignalReceiver, TCPListener

NEEDS = ()
TRY = """\
In another terminal, ask for a sensor that is not there, then for the roof, and
press Ctrl-C here before the answer comes:

    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} cellar
    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} roof

Run the lesson again, and stop it from there: an actor returns.

    {python} -m trio_run.lessons.ask tcp://127.0.0.1:{port} quit"""

readings = {"roof": 20.0}  # degrees, by the name of the sensor
quitting = trio.Event()


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
        if name == "quit":
            quitting.set()
            break
        await trio.sleep(3)  # the sensor takes a fresh look
        await stream.send_all(f"{readings[name]:.1f} degrees\n".encode())


async def wait_for_quit() -> None:
    await quitting.wait()
    print("wait_for_quit: I return")


async def station(port: int) -> int:
    group = Group(name="station", grace=10)
    group.add(SignalReceiver())  # SIGINT and SIGTERM
    group.add(measure)
    group.add(show)
    group.add(TCPListener(answer, port, host="127.0.0.1"))
    group.add(wait_for_quit)
    report = await group.run()
    print(report)
    return report.exit_code


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    return trio.run(station, port)


CHANGE = """\
In wait_for_quit(), change

    print("wait_for_quit: I return")

into

    raise OSError("I don't like to be asked that")

Ask for the roof in one terminal and for quit in another. Does the first client
get its answer? And what is there instead of a report?"""

ELSEWHERE = """\
In Go this is an errgroup, or oklog/run, from which the group has its idea. An
errgroup stops all only for an error: so what waits for the signal returns one,
even though all is well. And net/http knows nothing of it: one more goroutine
waits for the errgroup's context, and calls Shutdown."""
