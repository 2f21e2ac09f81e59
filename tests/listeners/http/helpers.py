"""What the tests of HTTP share."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from trio_run import Group, GroupFailed

from ... import TIMEOUT
from ..http_serving import App, Client, answer, only_http, read_body, serving_app

BIG = 2**26  # bytes: more than the kernel keeps for a connection


MIB = 2**20


@only_http
async def hello(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"hello")


@only_http
async def echo(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await read_body(receive))


def start(status: Any = 200, *headers: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: Any = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: dict[str, Any]) -> App:
    """An app that sends these."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


@asynccontextmanager
async def client_of(app: App, **options: Any) -> AsyncIterator[Client]:
    """A client that is connected to a server with this app."""
    async with serving_app(app, **options) as server:
        async with await server.connect() as stream:
            yield Client(stream)


async def reset_by(client: Client) -> bool:
    """Read to the end: is it a reset?"""
    try:
        await client.read_to_end()
    except trio.BrokenResourceError:
        return True
    return False


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What has been logged with a traceback, each with its error."""
    return [
        f"{record.getMessage()}: {record.exc_info[1]!r}"
        for record in caplog.records
        if record.exc_info and record.exc_info[1]
    ]


def leave_at_once(client: Client) -> None:
    """Reset the connection."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.stream.socket.close()


class Scopes:
    """An app that keeps its scopes."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        assert (await receive())["type"] == "http.request"
        self.seen.append(scope)
        await answer(send)


@asynccontextmanager
async def running(group: Group, failed: list[GroupFailed]) -> AsyncIterator[None]:
    """A group that fails in the end."""

    async def run(task_status: Any) -> None:
        try:
            await group.run(task_status=task_status)
        except GroupFailed as exc:
            failed.append(exc)

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            yield
