"""The servers under measurement: each an echo server that stops at SIGTERM. ``python -m benchmarks.servers NAME``.

Started with port 0; the port is the first line on stdout.
"""

import signal
import sys
from functools import partial

import trio

from trio_run import Group, SignalReceiver, TCPListener


async def _echo(stream: trio.abc.Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


def trio_run() -> None:
    async def main() -> None:
        async def tell() -> None:
            print(listener.addresses[0][1], flush=True)

        listener = TCPListener(_echo, 0, host="127.0.0.1")
        group = Group()
        group.add(SignalReceiver(signal.SIGTERM))
        group.add(tell, needs=[group.add(listener)], on_return="ignore")
        await group.run()

    trio.run(main)


def plain_trio() -> None:
    """What Trio's own users write: serve_tcp in a nursery that a signal cancels."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, _echo, 0, host="127.0.0.1")
            listeners = await nursery.start(serve)
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                print(listeners[0].socket.getsockname()[1], flush=True)
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    trio.run(main)


SERVERS = {"trio-run": trio_run, "plain Trio": plain_trio}

if __name__ == "__main__":
    SERVERS[sys.argv[1]]()
