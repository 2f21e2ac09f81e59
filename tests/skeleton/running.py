"""The skeleton as the tests start it, and ask it: where its doors are, and over HTTP what it
answers.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import trio

from trio_run.testing import Program, open_program

from .. import TIMEOUT
from ..programs import python

DOORS = ["--port", "--udp-port", "--web-port", "--tail-port", "--health-port"]
FREE_PORTS = [word for door in DOORS for word in (door, "0")]


@asynccontextmanager
async def open_app(
    directory: Path, *options: str, log: Path | None = None
) -> AsyncIterator[Program]:
    """The application, on ports of its own; with a log file, once it runs."""
    arguments = ["-W", "error", "-m", "trio_run", *FREE_PORTS, "--dir", str(directory)]
    async with open_program(python(*arguments, *options)) as program:
        if log is not None:
            await reads(log, "stop it: ")
        yield program


async def where(program: Program) -> tuple[str, int]:
    """Where it says that lines can be sent to."""
    how = (await program.line_with("send it a line: ")).partition("send it a line: ")[2]
    (found,) = re.findall(r"(?:echo hello \| nc -N |at )(\S+)[ :](\d+)", how)
    return found[0], int(found[1])


async def port_of(program: Program, door: str) -> int:
    """The port in the line that says how to try a door: "nc -u", "openssl", "http:", "ws:" or
    "curl".
    """
    line = await program.line_with(door)
    return int(re.findall(r"\d+", line)[-1])


async def reads(file: Path, text: str) -> None:
    """Wait until the text is in the file."""
    with trio.fail_after(TIMEOUT):
        while not await trio.to_thread.run_sync(_has, file, text):
            await trio.sleep(0.01)


def _has(file: Path, text: str) -> bool:
    return file.exists() and text in file.read_text()


async def get(host: str, port: int, target: str, *, method: str = "GET") -> tuple[int, bytes]:
    """A request on a connection of its own: the status and the body.

    Raises:
      OSError: if there is nobody, or the connection ends before any of the answer has come.
    """
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method=method, target=target, headers=[("Host", host), ("Connection", "close")]
    )
    status, body = 0, b""
    with trio.fail_after(TIMEOUT):
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(connection.send(request))
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    data = await stream.receive_some()
                    if not data and not status:
                        raise ConnectionAbortedError("there was no answer")
                    connection.receive_data(data)
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
    return status, body


async def health(program: Program) -> tuple[int, int]:
    """What /livez and /readyz answer."""
    port = await port_of(program, "curl")
    livez, readyz = [await get("127.0.0.1", port, path) for path in ("/livez", "/readyz")]
    return livez[0], readyz[0]
