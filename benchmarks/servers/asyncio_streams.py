"""asyncio's streams: ``python -m benchmarks.servers.asyncio_streams WHICH WHAT [ARGUMENT]``.

WHICH is asyncio or uvloop. At SIGTERM the handlers are cancelled and waited for. Each of them ends
quietly: for one that raises, or ends as cancelled, Python 3.11 would write a traceback, and a stop
of many would take five times as long.
"""

import asyncio
import signal
import ssl
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any

from . import HOST, WORK

SIZE = 65536
Handler = Callable[[StreamReader, StreamWriter], Awaitable[None]]

handlers: set[asyncio.Task[Any]] = set()


def until_cancelled(handler: Handler) -> Handler:
    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            handlers.discard(task)
            writer.close()

    return handle


@until_cancelled
async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while chunk := await reader.read(SIZE):
        writer.write(chunk)
        await writer.drain()


@until_cancelled
async def work(reader: StreamReader, writer: StreamWriter) -> None:
    while chunk := await reader.read(SIZE):
        writer.write(chunk)
        if chunk == b"work":
            await asyncio.sleep(WORK)
            writer.write(b"done")
        await writer.drain()


@until_cancelled
async def reply(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(await reader.read(SIZE))


def tls(certificate: str) -> Any:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return asyncio.start_server(echo, HOST, 0, ssl=context)


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)


async def udp() -> Any:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, local_addr=(HOST, 0))
    return transport


SERVERS: dict[str, Callable[..., Any]] = {
    "echo": lambda: asyncio.start_server(echo, HOST, 0),
    "work": lambda: asyncio.start_server(work, HOST, 0),
    "reply": lambda: asyncio.start_server(reply, HOST, 0),
    "tls": tls,
    "unix": lambda path: asyncio.start_unix_server(echo, path),
    "udp": udp,
}


async def main(what: str, *arguments: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await SERVERS[what](*arguments)
    if what == "udp":
        print(server.get_extra_info("sockname")[1], flush=True)
    else:
        name = server.sockets[0].getsockname()
        print(name if isinstance(name, str) else name[1], flush=True)
    await stop.wait()
    server.close()
    for handler in handlers:
        handler.cancel()
    if handlers:
        await asyncio.wait(handlers)


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(main(*sys.argv[2:]))
    else:
        asyncio.run(main(*sys.argv[2:]))
