"""HTTP: the app that all serve, and the servers without trio-run.

``python -m benchmarks.servers.http WHICH http`` or ``... WHICH https CERTIFICATE``

The app answers ``ok``, ``/10k`` with 10 kB, ``/upload`` with the size of what it was sent, and
``/download/N`` with N MB in parts of one. Under ``/slow/CLIENT/NUMBER`` it takes 100 ms over a
longer answer. When it is shut down it prints as JSON which request of each client it began last: a
client alone can't know what was begun. A WebSocket gets back each message.
"""

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from . import HOST, WORK

TEN = b"." * 10_000
HALF = b"." * 5000  # of a slow answer
MEGABYTE = bytes(1_000_000)


def make_app(sleep: Callable[[float], Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    begun: dict[str, int] = {}

    async def lifespan(receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                print(json.dumps(begun), flush=True)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def start(send: Any, length: int) -> None:
        size = str(length).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def answer(send: Any, body: bytes) -> None:
        await start(send, len(body))
        await send({"type": "http.response.body", "body": body})

    async def answer_slowly(send: Any) -> None:
        await sleep(WORK / 2)
        await start(send, 2 * len(HALF))
        await send({"type": "http.response.body", "body": HALF, "more_body": True})
        await sleep(WORK / 2)
        await send({"type": "http.response.body", "body": HALF})

    async def download(send: Any, count: int) -> None:
        await start(send, count * len(MEGABYTE))
        for left in reversed(range(count)):
            await send({"type": "http.response.body", "body": MEGABYTE, "more_body": left > 0})

    async def upload(receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await answer(send, str(size).encode())

    async def echo_messages(receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "websocket":
            await echo_messages(receive, send)
        elif (path := scope["path"]) == "/":
            await answer(send, b"ok")
        elif path == "/10k":
            await answer(send, TEN)
        elif path == "/upload":
            await upload(receive, send)
        elif path.startswith("/download/"):
            await download(send, int(path.removeprefix("/download/")))
        else:
            _, speed, client, number = path.split("/")
            begun[client] = int(number)
            if speed == "slow":
                await answer_slowly(send)
            else:
                await answer(send, b"ok")

    return app


def listen() -> socket.socket:
    # asyncio turns Nagle's algorithm off where the socket says that it is TCP. One of protocol 0
    # would wait for 40 ms.
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind((HOST, 0))
    listening.listen(2048)
    print(listening.getsockname()[1], flush=True)
    return listening


def hypercorn_config(certificate: str | None) -> Any:
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listen().detach()}"]
    config.loglevel = "WARNING"
    config.certfile = config.keyfile = certificate
    return config


def hypercorn_trio(certificate: str | None) -> None:
    import trio
    from hypercorn.trio import serve

    async def sigterm() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                return

    config = hypercorn_config(certificate)

    async def main() -> None:
        await serve(make_app(trio.sleep), config, shutdown_trigger=sigterm)

    trio.run(main)


def hypercorn_asyncio(certificate: str | None) -> None:
    import asyncio

    from hypercorn.asyncio import serve

    config = hypercorn_config(certificate)

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await serve(make_app(asyncio.sleep), config, shutdown_trigger=stop.wait)

    asyncio.run(main())


def uvicorn(certificate: str | None, **options: Any) -> None:
    import asyncio

    from uvicorn import Config, Server

    app = make_app(asyncio.sleep)
    config = Config(
        app,
        ssl_certfile=certificate,
        log_level="warning",
        access_log=False,
        lifespan="on",
        **options,
    )
    Server(config).run(sockets=[listen()])


def uvicorn_standard(certificate: str | None) -> None:
    # Uvicorn takes these where they are there. If one is missing, that shows before the first line.
    import httptools  # noqa: F401
    import uvloop  # noqa: F401
    import websockets  # noqa: F401

    uvicorn(certificate)


def granian(certificate: str | None) -> None:
    """As its command line starts it: a process that looks after a worker, which serves."""
    import asyncio

    import uvloop  # noqa: F401 - it takes that where it is there
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    with socket.create_server((HOST, 0)) as found:
        port = found.getsockname()[1]
    pem = Path(certificate) if certificate else None
    server = Granian(
        "benchmarks.servers.http",
        HOST,
        port,
        interface=Interfaces.ASGI,
        log_level=LogLevels.error,
        backlog=2048,
        ssl_cert=pem,
        ssl_key=pem,
    )
    threading.Thread(target=print_when_it_listens, args=[port], daemon=True).start()
    server.serve(target_loader=lambda _target: make_app(asyncio.sleep))


def print_when_it_listens(port: int) -> None:
    while True:
        with socket.socket() as client:
            if client.connect_ex((HOST, port)) == 0:
                break
        time.sleep(0.01)
    print(port, flush=True)


SERVERS: dict[str, Callable[[str | None], None]] = {
    "hypercorn-trio": hypercorn_trio,
    "hypercorn-asyncio": hypercorn_asyncio,
    "uvicorn-h11": lambda certificate: uvicorn(certificate, http="h11", loop="asyncio"),
    "uvicorn-standard": uvicorn_standard,
    "granian": granian,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](sys.argv[3] if sys.argv[2] == "https" else None)
