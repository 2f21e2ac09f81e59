"""The servers of trio-run: ``python -m benchmarks.servers.trio_run WHAT [ARGUMENT]``.

With ``status-page`` before WHAT the group has a status page, at which nobody looks.
"""

import logging
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import trio

from trio_run import Datagram, Group, TCPListener, UDPListener, UnixListener, busy, run

from . import HOST, WORK


async def echo(stream: trio.abc.Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def work(stream: trio.abc.Stream) -> None:
    async for chunk in stream:
        with busy():
            await stream.send_all(chunk)
            if chunk == b"work":
                await trio.sleep(WORK)
                await stream.send_all(b"done")


async def hold(stream: trio.abc.Stream) -> None:
    await stream.send_all(await stream.receive_some())
    await trio.sleep_forever()


async def reply(stream: trio.abc.Stream) -> None:
    await stream.send_all(await stream.receive_some())


async def reply_to_datagram(datagram: Datagram) -> None:
    await datagram.reply(datagram.data)


class _Nothing:
    """What busy() is measured against."""

    def __enter__(self) -> None: ...
    def __exit__(self, *exc: object) -> None: ...


async def time_blocks(stream: trio.abc.Stream) -> None:
    """How many seconds so many with blocks take, here in a handler.

    The client sends b"busy 1000" or b"nothing 1000".
    """
    async for chunk in stream:
        name, times = chunk.decode().split()
        block: Callable[[], Any] = {"busy": busy, "nothing": _Nothing}[name]
        began = time.perf_counter()
        for _ in range(int(times)):
            with block():
                pass
        await stream.send_all(f"{time.perf_counter() - began}\n".encode())


def context_with(certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def tls(certificate: str) -> TCPListener:
    return TCPListener(echo, 0, host=HOST, ssl_context=context_with(certificate))


def websocket() -> object:
    from trio_run import WebSocketListener

    from .websocket import echo_messages

    return WebSocketListener(echo_messages, 0, host=HOST)


def http(ssl_context: ssl.SSLContext | None = None) -> object:
    from trio_run import HTTPListener

    from .http import make_app

    logging.getLogger("trio_run.access").setLevel(logging.WARNING)  # the peers log no request
    return HTTPListener(make_app(trio.sleep), 0, host=HOST, ssl_context=ssl_context)


LISTENERS: dict[str, Callable[..., Any]] = {
    "echo": lambda: TCPListener(echo, 0, host=HOST),
    "work": lambda: TCPListener(work, 0, host=HOST),
    "hold": lambda grace: TCPListener(hold, 0, host=HOST, grace=float(grace)),
    "reply": lambda: TCPListener(reply, 0, host=HOST),
    "blocks": lambda: TCPListener(time_blocks, 0, host=HOST),
    "tls": tls,
    "unix": lambda path: UnixListener(echo, path),
    "udp": lambda: UDPListener(reply_to_datagram, 0, host=HOST),
    "websocket": websocket,
    "http": http,
    "https": lambda certificate: http(context_with(certificate)),
}


def main(what: str, *arguments: str) -> int:
    group = Group()
    if what == "status-page":
        from trio_run import StatusPage

        group.add(StatusPage(0))
        what, *arguments = arguments
    listener = LISTENERS[what](*arguments)

    async def tell() -> None:
        address = listener.addresses[0]
        print(address if isinstance(address, str) else address[1], flush=True)

    group.add(tell, needs=[group.add(listener)], on_return="ignore")
    return run(group)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
