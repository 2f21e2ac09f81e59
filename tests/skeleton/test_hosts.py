"""Hosts: which pages in a browser may ask: by the name they use, and by where they come from."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from trio_run.skeleton.hosts import Hosts
from trio_run.testing import Program

from .. import TIMEOUT
from .database import stored_in
from .running import get, open_app, port_of, where

UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (b"localhost", "127.0.0.1"),
        (b"LocalHost:8000", "::1"),
        (b"127.0.0.1:8000", "127.0.0.1"),
        (b"127.0.0.1", "::ffff:127.0.0.1"),
        (b"[::1]:8000", "::1"),
        (b"[0:0:0:0:0:0:0:1]", "::1"),
        (b"192.0.2.7", "192.0.2.7"),
        (b"127.0.0.1:8000", "172.17.0.2"),  # through a port that is forwarded
        (b"logs.example:443", "127.0.0.1"),
        (b"LOGS.example", "127.0.0.1"),
    ],
)
def test_a_name_of_ours_is_ours(host: bytes, address: str) -> None:
    hosts = Hosts(["Logs.Example"])
    assert hosts.is_ours(host, address)
    assert hosts.is_our_page(b"https://" + host, address)
    assert hosts.is_our_page(None, address)


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example:8000",
        b"evil.example:127",
        b"localhost@evil.example",
        b"192.0.2.7",
        b"[2001:db8::7]",
        b"[::1",
        b"\xff",
        b"",
    ],
)
def test_a_name_of_others_is_not(host: bytes) -> None:
    hosts = Hosts(["logs.example"])
    assert not hosts.is_ours(host, "127.0.0.1")
    assert not hosts.is_our_page(b"http://" + host, "127.0.0.1")


def test_no_name_is_none_of_ours_and_nor_is_a_page_that_hides_where_it_is() -> None:
    assert not Hosts().is_ours(None, "127.0.0.1")
    assert not Hosts().is_our_page(b"null", "127.0.0.1")
    assert not Hosts().is_ours(b"192.0.2.7", "")  # a Unix socket has no address


# As a browser would try it.


@asynccontextmanager
async def asking(host: str, port: int, request: str) -> AsyncIterator[trio.SocketStream]:
    with trio.fail_after(TIMEOUT):
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(request.encode())
            yield stream


async def status_of(program: Program, door: str, path: str, headers: str) -> int:
    port = await port_of(program, door)
    request = f"GET {path} HTTP/1.1\r\n{headers}\r\n"
    async with asking("127.0.0.1", port, request) as stream:
        return int((await stream.receive_some()).split()[1])


async def test_a_page_of_another_site_reads_nothing_whatever_name_it_has_for_us(
    tmp_path: Path,
) -> None:
    async with open_app(tmp_path, "--names", "logs.example") as program:
        for path in ("/", "/lines", "/counts", "/status", "/nothing"):
            assert await status_of(program, "http:", path, "Host: evil.example:8000\r\n") == 403
            ours = "Host: localhost\r\n"
            foreign = f"{ours}Origin: http://evil.example\r\n"
            assert await status_of(program, "http:", path, foreign) == 403
            own = f"{ours}Origin: https://logs.example\r\n"
            assert await status_of(program, "http:", path, own) in (200, 404)
        assert await status_of(program, "http:", "/lines", "Host: logs.example\r\n") == 200
        assert await status_of(program, "http:", "/lines", "Host: 127.0.0.1\r\n") == 200


async def test_a_page_of_another_site_follows_nothing_though_it_knows_the_path(
    tmp_path: Path,
) -> None:
    async with open_app(tmp_path, "--names", "logs.example") as program:
        status = (await get("127.0.0.1", await port_of(program, "http:"), "/status"))[1].decode()
        path = status.partition('"path": "')[2].partition('"')[0]
        headers = f"Host: localhost\r\n{UPGRADE}"
        for origin, expected in {
            "Origin: http://evil.example\r\n": 403,
            "Origin: null\r\n": 403,
            "Origin: https://logs.example\r\n": 101,
            "Origin: http://127.0.0.1:8000\r\n": 101,
            "": 101,
        }.items():
            assert await status_of(program, "ws:", path, headers + origin) == expected
        own = f"{headers}Origin: https://logs.example\r\n"
        assert await status_of(program, "ws:", "/guess", own) == 403


@pytest.mark.parametrize(
    "first",
    [
        "POST / HTTP/1.1",
        "GET /x?y HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        f"POST /{'x' * 70_000} HTTP/1.1",
    ],
)
async def test_a_page_writes_nothing(tmp_path: Path, first: str) -> None:
    request = f"{first}\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nevil\n"
    async with open_app(tmp_path) as program:
        async with asking(*await where(program), request) as stream:
            answer = b"".join([data async for data in stream])
        assert answer in (
            b"error this is a port for lines, not for HTTP\n",
            b"error it is longer than 65536 bytes\n",
        )
        async with asking(*await where(program), "a line\nGET / HTTP/1.1\n") as stream:
            await stream.send_eof()
            assert b"".join([data async for data in stream]) == b"ok 1\nok 2\n"
    assert list(stored_in(tmp_path).values()) == ["a line", "GET / HTTP/1.1"]
