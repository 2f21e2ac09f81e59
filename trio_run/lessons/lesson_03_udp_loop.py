"""A UDP loop that must not block the stop

A server waits for datagrams, one after the other, and may wait for a long
time. Meanwhile a signal comes, and it has to stop.

In Go it waits in ReadFromUDP, which takes no context: cancelling one does not
wake it up. There are two ways out. Another goroutine waits for the context and
closes the socket under the reader, which then has to tell that error
(net.ErrClosed) from a real one. Or the reader sets a deadline again and again,
a second from now, and looks at the context in between: then a stop takes up to
a second.

In Trio whatever waits can be cancelled, and `await recvfrom()` is no
exception. The loop has no line about stopping. Nor does it need one for the
socket: the with block closes it, whatever ends the loop.

A signal is something to wait for too, in a task of its own. Without that,
SIGTERM would end the process on the spot, and no finally block would be run.
"""

from __future__ import annotations

import signal

import trio

TRY = """\
In another terminal, send it a datagram, then a signal:

    echo hello | nc -u -w 1 127.0.0.1 {port}
    kill -TERM {pid}"""


async def shout(port: int) -> None:
    """Send each datagram back, in capital letters."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", port))
        print("udp: listening")
        try:
            while True:
                data, address = await sock.recvfrom(65535)
                print("udp:", len(data), "bytes came")
                await sock.sendto(data.upper(), address)
        finally:
            print("udp: stopped; the socket is closed next")


async def wait_for_signal(everything: trio.CancelScope) -> None:
    """Ctrl-C is a signal as well, SIGINT: so it is no KeyboardInterrupt any more."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        signum = await anext(signals)
        print("signals:", signal.Signals(signum).name, "came, and I cancel everything")
        everything.cancel()


async def both(port: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shout, port)
        nursery.start_soon(wait_for_signal, nursery.cancel_scope)
    print("main: both have stopped")


def main(port: int) -> None:
    trio.run(both, port)
