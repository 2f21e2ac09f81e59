"""What Trio's own users write: a nursery that a signal cancels.

``python -m benchmarks.servers.plain_trio WHAT [ARGUMENT]``
"""

import contextlib
import signal
import socket as stdlib_socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from . import HOST, WORK

Serve = Callable[..., Awaitable[object]]  # what nursery.start() takes


async def echo(stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # else one client brings the server down
        async for chunk in stream:
            await stream.send_all(chunk)


async def work(stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for chunk in stream:
            await stream.send_all(chunk)
            if chunk == b"work":
                await trio.sleep(WORK)
                await stream.send_all(b"done")


async def hold(stream: trio.abc.Stream) -> None:
    await stream.send_all(await stream.receive_some())
    await trio.sleep_forever()


async def reply(stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(await stream.receive_some())


def tcp(handler: Callable[..., Awaitable[object]]) -> Serve:
    return partial(trio.serve_tcp, handler, 0, host=HOST)


def tls(certificate: str) -> Serve:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return partial(trio.serve_ssl_over_tcp, echo, 0, context, host=HOST)


def unix(path: str) -> Serve:
    async def serve(*, task_status: trio.TaskStatus[object]) -> None:
        listening = trio.socket.socket(stdlib_socket.AF_UNIX)
        await listening.bind(path)
        listening.listen(65535)
        await trio.serve_listeners(echo, [trio.SocketListener(listening)], task_status=task_status)

    return serve


async def udp(*, task_status: trio.TaskStatus[object]) -> None:
    with trio.socket.socket(type=stdlib_socket.SOCK_DGRAM) as bound:
        await bound.bind((HOST, 0))
        task_status.started(bound)
        while True:
            data, address = await bound.recvfrom(65535)
            await bound.sendto(data, address)


SERVERS: dict[str, Callable[..., Serve]] = {
    "echo": lambda: tcp(echo),
    "work": lambda: tcp(work),
    "hold": lambda _grace: tcp(hold),
    "reply": lambda: tcp(reply),
    "tls": tls,
    "unix": unix,
    "udp": lambda: udp,
}


def port_of(started: Any) -> object:
    """The port, or the path, of what was handed to task_status.started().

    That is a list of listeners, or a socket.
    """
    listener: Any = started[0] if isinstance(started, list) else None
    listener = getattr(listener, "transport_listener", listener)
    name = (started if listener is None else listener.socket).getsockname()
    return name if isinstance(name, str) else name[1]


async def main(serve: Serve) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            print(port_of(await nursery.start(serve)), flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, SERVERS[sys.argv[1]](*sys.argv[2:]))
