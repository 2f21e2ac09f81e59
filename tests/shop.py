"""The app that ``serve`` serves in the tests, how it is started, and how it is asked."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import httpx
import trio

from trio_run.testing import Program

from . import TIMEOUT
from .programs import python

SHOP = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    body = (scope["scheme"] + " " + scope["path"]).encode()
    if scope["path"] == "/pid":
        body = str(os.getpid()).encode()
    if scope["path"] == "/end":
        os._exit(int(scope["query_string"]))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

class site:
    app = app

def make():
    return app

nothing = None
"""


def write_shop(directory: Path, source: str = SHOP) -> Path:
    (directory / "shop.py").write_text(source)
    return directory


def serve(directory: Path, *arguments: str) -> list[str]:
    return python("-W", "error", "-m", "trio_run", "serve", "--app-dir", str(directory), *arguments)


async def url_of(program: Program) -> str:
    return (await program.line_with("serving at ")).split("serving at ")[1].strip()


async def stop(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert await program.exit_code() == 0


async def get(url: str, **options: object) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60, **options) as client:  # type: ignore[arg-type]
        return await client.get(url)


async def gone(pids: Iterable[int]) -> None:
    """Wait until none of these processes is there any more."""
    with trio.fail_after(TIMEOUT):
        for pid in pids:
            while _is_there(pid):
                await trio.sleep(0.01)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
