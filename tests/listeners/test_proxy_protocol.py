"""The PROXY protocol: what is a right header, how it is read, and who is never served."""

import contextlib
import ipaddress
import signal
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import Endpoint, WebSocketRequest, wrap_client_stream

from trio_run import HTTPListener, TCPListener, UnixListener, WebSocketListener
from trio_run._listeners._bind import format_address
from trio_run._listeners._connection import Connection
from trio_run._listeners._proxy_protocol import Ends, NoHeaderError, bytes_missing, read_ends
from trio_run._listeners._tls import TLSConnection
from trio_run.testing import read_to_end

from .. import TIMEOUT
from ..programs import find
from .http_serving import Client, answer, only_http, request, serving_app
from .serving import HOST, Server, lines_of, serving

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT, SERVER = ("192.0.2.7", 56324), ("192.0.2.1", 443)
LINE = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n"


def version_2(addresses: bytes = b"", family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses)) + addresses


def tcp_4(more: bytes = b"") -> bytes:
    hosts = (ipaddress.ip_address(host).packed for host in (CLIENT[0], SERVER[0]))
    return version_2(b"".join(hosts) + struct.pack("!HH", CLIENT[1], SERVER[1]) + more)


def tcp_6(client: str = "2001:db8::7", server: str = "2001:db8::1") -> bytes:
    hosts = (ipaddress.ip_address(host).packed for host in (client, server))
    return version_2(b"".join(hosts) + struct.pack("!HH", 56324, 443), 0x21)


def unix(client: bytes, server: bytes) -> bytes:
    return version_2(struct.pack("108s108s", client, server), 0x31)


RIGHT: dict[str, tuple[bytes, Ends | None]] = {
    "1, TCP4": (LINE, Ends(CLIENT, SERVER)),
    "1, TCP6": (
        b"PROXY TCP6 2001:DB8::7 ::1 1 65535\r\n",
        Ends(("2001:db8::7", 1, 0, 0), ("::1", 65535, 0, 0)),
    ),
    "1, IPv4 in IPv6": (
        b"PROXY TCP6 ::FFFF:192.0.2.7 ::ffff:c000:201 56324 443\r\n",
        Ends(("::ffff:192.0.2.7", 56324, 0, 0), ("::ffff:192.0.2.1", 443, 0, 0)),
    ),
    "1, the longest": (
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".ljust(105, b"x") + b"\r\n",
        None,
    ),
    "1, the shortest": (b"PROXY UNKNOWN\r\n", None),
    "2, TCP4": (tcp_4(), Ends(CLIENT, SERVER)),
    "2, TCP6": (tcp_6(), Ends(("2001:db8::7", 56324, 0, 0), ("2001:db8::1", 443, 0, 0))),
    "2, IPv4 in IPv6": (
        tcp_6("::ffff:192.0.2.7", "::ffff:192.0.2.1"),
        Ends(("::ffff:192.0.2.7", 56324, 0, 0), ("::ffff:192.0.2.1", 443, 0, 0)),
    ),
    "2, with more": (tcp_4(b"\x04\x00\x01x"), Ends(CLIENT, SERVER)),
    "2, the longest": (tcp_4(bytes(65535 - 12)), Ends(CLIENT, SERVER)),
    "2, Unix": (unix(b"/run/a", b"x" * 108), Ends("/run/a", "x" * 108)),
    "2, abstract": (unix(b"\0a", b"\0"), Ends("\0a", "")),
    "2, LOCAL": (version_2(b"ignored", 0x11, 0x20), None),
    "2, unspecified": (version_2(b"ignored", 0x00), None),
}
WRONG: dict[str, bytes] = {
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "another word": b"PROXX TCP4 192.0.2.7 192.0.2.1 56324 443\r\n",
    "another signature": b"\r\n\r\n\0\r\nQUIT\r" + bytes(4),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(10),
    "no end": LINE[:-2].ljust(107, b"0"),
    "no end of UNKNOWN": b"PROXY UNKNOWN " + b"x" * 93,
    "half an end": LINE[:-2].ljust(106, b"0") + b"\r",
    "a space too many": LINE.replace(b" 443", b"  443"),
    "a space in the end": LINE.replace(b"\r\n", b" \r\n"),
    "a field too few": b"PROXY TCP4 192.0.2.7 192.0.2.1 56324\r\n",
    "no field": b"PROXY TCP4    \r\n",
    "a leading zero": LINE.replace(b" 443", b" 0443"),
    "a leading zero in an address": LINE.replace(b"192.0.2.7", b"192.0.02.7"),
    "a high port": LINE.replace(b" 443", b" 65536"),
    "no address": LINE.replace(b"192.0.2.7", b"192.0.2.777"),
    "an address of the other kind": LINE.replace(b"192.0.2.7", b"2001:db8::7"),
    "a name": LINE.replace(b"192.0.2.7", b"localhost"),
    "a scope": b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
    "UNKNOWN as a beginning": b"PROXY UNKNOWNS\r\n",
    "UDP4": LINE.replace(b"TCP4", b"UDP4"),
    "an end of line inside": LINE.replace(b" 443", b"\n443"),
    "2 of version 1": version_2(bytes(12), 0x11, 0x11),
    "2, another command": version_2(bytes(12), 0x11, 0x22),
    "2, datagrams": version_2(bytes(12), 0x12),
    "2, another family": version_2(bytes(12), 0x41),
    "2, too short": version_2(bytes(11), 0x11),
}


def parse(data: bytes) -> tuple[Ends | None, int]:
    """As a connection is read: what it says, and how many bytes were taken."""
    taken = 0
    while missing := bytes_missing(data[:taken]):
        assert missing > 0
        if taken == len(data):
            raise EOFError
        taken = min(taken + missing, len(data))
    return read_ends(data[:taken]), taken


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("more", [b"", b"more", LINE, tcp_4()])
def test_a_right_header_is_read_and_nothing_beyond_it(name: str, more: bytes) -> None:
    header, ends = RIGHT[name]
    assert parse(header + more) == (ends, len(header))


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_none(name: str) -> None:
    with pytest.raises(NoHeaderError):
        parse(WRONG[name])


@given(st.binary(max_size=200), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]))
def test_whatever_comes_is_bounded(data: bytes, start: bytes) -> None:
    with contextlib.suppress(NoHeaderError, EOFError):
        assert parse(start + data)[1] <= 16 + 65535


@given(st.sampled_from(sorted(RIGHT)), st.integers(0), st.integers(0, 255))
def test_a_header_with_one_byte_changed_is_none_or_says_as_much_of_each_end(
    name: str, where: int, byte: int
) -> None:
    header = bytearray(RIGHT[name][0])
    header[where % len(header)] = byte
    with contextlib.suppress(NoHeaderError, EOFError):
        ends, _ = parse(bytes(header))
        if ends is not None:
            assert type(ends.client) is type(ends.server)
            if isinstance(ends.client, tuple):
                for host, port, *_ in ends:
                    ipaddress.ip_address(host)
                    assert 0 <= port <= 65535


# Behind it, each listener.


@pytest.mark.parametrize("wrong", ["no", None, 1])
def test_it_is_on_or_off(wrong: Any) -> None:
    for kind in (TCPListener, WebSocketListener, HTTPListener):
        with pytest.raises(TypeError, match=f"proxy_protocol must be True or False, not {wrong!r}"):
            kind(tell, 0, proxy_protocol=wrong)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


def who(stream: Any) -> bytes:
    """What the handler sees of its client."""
    return f"{stream.peer}".encode()


async def tell(stream: Connection | TLSConnection) -> None:
    """Who the client is, and what it sends."""
    data = await stream.receive_some()
    await stream.send_all(who(stream) + b" " + data)


async def in_pieces(stream: trio.abc.SendStream, data: bytes) -> None:
    """So that each piece is read alone."""
    for byte in data:
        await stream.send_all(bytes([byte]))
        await wait_all_tasks_blocked()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", RIGHT)
async def test_the_handler_sees_the_client(name: str, split: bool) -> None:
    header, ends = RIGHT[name]
    async with (
        serving(tell, proxy_protocol=True) as server,
        await server.connect() as client,
    ):
        own = client.socket.getsockname()
        if split:
            await in_pieces(client, header[:60])
            await client.send_all(header[60:])
            await wait_all_tasks_blocked()
            await client.send_all(b"hello")
        else:
            await client.send_all(header + b"hello")
        peer = own if ends is None else ends.client
        assert await read_to_end(client) == f"{peer} hello".encode()


@pytest.mark.parametrize("name", WRONG)
async def test_without_a_right_header_nobody_is_served(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: Connection) -> None:
        raise AssertionError("it is served")

    async with (
        serving(handler, proxy_protocol=True) as server,
        await server.connect() as client,
    ):
        await client.send_all(WRONG[name])
        with contextlib.suppress(trio.BrokenResourceError):  # what it has sent was not read
            assert await client.receive_some() == b""
    assert len(warnings(caplog)) == 1
    assert "failed" not in server.detail


async def test_those_that_connect_and_leave_are_not_logged_and_half_a_header_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(tell, proxy_protocol=True) as server:
        async with await server.connect():
            pass
        await wait_all_tasks_blocked()
        assert not warnings(caplog)
        async with await server.connect() as client:
            await client.send_all(LINE[:20])
            await client.send_eof()
            assert await client.receive_some() == b""
    [line] = warnings(caplog)
    assert "the connection ended before" in line


async def test_a_header_has_its_time_and_many_without_one_are_logged_once_in_a_while(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tell, proxy_protocol=True) as server:
        for _ in range(3):
            async with await server.connect() as client:
                await client.send_all(b"GET /")
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await client.receive_some() == b""
        began = trio.current_time()
        async with await server.connect() as client:
            assert await client.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(10, abs=0.1)
    first, second = warnings(caplog)
    assert "begins with something else" in first
    assert "it took more than 10 s (2 more since the last line)" in second


async def test_at_a_stop_a_header_has_as_long_as_any_newcomer(clock: MockClock) -> None:
    async with serving(tell, proxy_protocol=True) as server:
        late, silent = await server.connect(), await server.connect()
        async with late, silent:
            await wait_all_tasks_blocked()
            assert server.listener.status == "2 connections, 0 busy"
            server.group.stop()
            began = trio.current_time()
            await trio.sleep(0.3)
            await late.send_all(LINE)
            await trio.sleep(0.3)  # its handler has begun: as long again for its first request
            await late.send_all(b"hello")
            assert await silent.receive_some() == b""
            assert await read_to_end(late) == f"{CLIENT} hello".encode()
            await server.ended.wait()
            assert trio.current_time() - began < 1
    assert server.detail == "2 drained, 0 cut"


async def test_one_in_its_header_is_cut_like_any_other(clock: MockClock) -> None:
    async with (
        serving(tell, proxy_protocol=True, grace=0.2) as server,
        await server.connect() as client,
    ):
        await client.send_all(LINE[:10])
        await server.stop()
        assert await client.receive_some() == b""
    assert server.detail == "0 drained, 1 cut"


class Behind(trio.abc.SendStream):
    """The header comes with what is sent first, in one packet or in many."""

    def __init__(self, header: bytes, stream: trio.SocketStream, *, split: bool) -> None:
        self._header = header
        self._stream = stream
        self._split = split

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        header, self._header = self._header, b""
        if header and self._split:
            await in_pieces(self._stream, header + bytes(data))
        else:
            await self._stream.send_all(header + data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("header", [LINE, tcp_4(b"\x04\x00\x01x")])
@pytest.mark.parametrize("drain", ["eof", "wait", "cancel"])
async def test_it_comes_before_tls(
    drain: str,
    header: bytes,
    split: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    async with (
        serving(tell, proxy_protocol=True, ssl_context=server_context, drain=drain) as server,
        await server.connect() as client,
    ):
        sends = Behind(header, client, split=split)
        staple = trio.StapledStream(sends, client)
        stream = trio.SSLStream(staple, client_context, server_hostname="localhost")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == f"{CLIENT} hello".encode()


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", LINE, tcp_4()])
async def test_what_follows_it_and_is_no_tls_is_not_served(
    junk: bytes, server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(tell, proxy_protocol=True, ssl_context=server_context) as server,
        await server.connect() as client,
    ):
        await client.send_all(tcp_4() + junk)
        with contextlib.suppress(trio.BrokenResourceError):  # what it has sent was not read
            assert str(CLIENT[0]).encode() not in await read_to_end(client)
    assert lines_of(caplog, f"no TLS handshake with {format_address(CLIENT)}")
    assert not warnings(caplog)


async def test_at_a_stop_a_handshake_behind_it_has_as_long_as_any_newcomer(
    clock: MockClock, server_context: ssl.SSLContext
) -> None:
    async with (
        serving(tell, proxy_protocol=True, ssl_context=server_context) as server,
        await server.connect() as client,
    ):
        await client.send_all(tcp_4() + b"\x16\x03")
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy"
        server.group.stop()
        assert await read_to_end(client) == b""
        assert trio.current_time() == pytest.approx(0.5, abs=0.1)
    assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("resets", [False, True])
async def test_many_that_leave_in_the_midst_of_it_leave_nothing(
    resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tell, proxy_protocol=True, max_age=60) as server:
        clients = [await server.connect() for _ in range(100)]
        for number, client in enumerate(clients):
            header = LINE if number % 2 else tcp_4()
            await client.send_all(header[: 1 + number % (len(header) - 1)])
        await wait_all_tasks_blocked()
        for client in clients:
            if resets:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.aclose()
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
        async with await server.connect() as client:
            await client.send_all(LINE + b"hello")
            assert await read_to_end(client) == f"{CLIENT} hello".encode()
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("drain", ["eof", "cancel"])
async def test_one_that_grows_old_in_it_is_served_once(drain: str, clock: MockClock) -> None:
    async with (
        serving(tell, proxy_protocol=True, max_age=2, drain=drain) as server,
        await server.connect() as client,
    ):
        await client.send_all(LINE[:20])
        await trio.sleep(3)
        await client.send_all(LINE[20:] + b"hello")
        assert await read_to_end(client) == f"{CLIENT} hello".encode()


async def test_on_a_unix_socket_the_client_is_the_proxys(tmp_path: Path) -> None:
    async def handler(stream: Connection) -> None:
        assert stream.credentials is None  # they are the proxy's
        await tell(stream)

    path = str(tmp_path / "socket")
    async with (
        serving(handler, kind=UnixListener, path=path, proxy_protocol=True) as server,
        await server.connect() as client,
    ):
        await client.send_all(LINE + b"hello")
        assert await read_to_end(client) == f"{CLIENT} hello".encode()


@pytest.mark.parametrize(
    ("header", "client", "server"),
    [
        (LINE, CLIENT, SERVER),
        (tcp_6(), ("2001:db8::7", 56324), ("2001:db8::1", 443)),
        (unix(b"/run/a", b"/run/b"), None, ("/run/b", None)),
    ],
)
async def test_an_app_sees_the_client_and_so_does_the_access_log(
    header: bytes, client: Any, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    @only_http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append((scope["client"], scope["server"]))
        await answer(send)

    listener = {"kind": HTTPListener, "port": 0, "host": HOST, "proxy_protocol": True}
    async with serving(app, **listener) as serves:  # type: ignore[arg-type]
        async with await serves.connect() as stream:
            await stream.send_all(header)
            await Client(stream).ask(request())
    assert seen == [(client, server)]
    [line] = lines_of(caplog, "GET / HTTP")
    who = "/run/a" if client is None else format_address(client)
    assert line.getMessage().startswith(f"{who} ")


@only_http
async def app(scope: Any, _receive: Any, send: Any) -> None:
    await answer(send, f"{scope['client']}".encode())


@pytest.mark.parametrize("name", [b"/run/a\nroot:", b"/run/\xff"])
async def test_a_client_that_names_itself_has_one_line_of_the_log(
    name: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_app(app, proxy_protocol=True) as server:
        async with await server.connect() as stream:
            await stream.send_all(unix(name, b"/run/b"))
            await Client(stream).ask(request())
    [line] = lines_of(caplog, "GET / HTTP")
    assert line.getMessage().startswith("'/run/")
    assert line.getMessage().isprintable()


async def test_an_http_listener_gives_it_as_long_as_a_head(clock: MockClock) -> None:
    async with (
        serving_app(app, header_timeout=3, proxy_protocol=True) as server,
        await server.connect() as client,
    ):
        await client.send_all(LINE[:10])
        assert await client.receive_some() == b""
        assert trio.current_time() == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("header", [b"", LINE])
async def test_after_it_http_has_its_times_as_without_it(header: bytes, clock: MockClock) -> None:
    times = {"idle_timeout": 20, "header_timeout": 3}
    async with serving_app(app, proxy_protocol=bool(header), **times) as server:
        for sends, waits, receives in ((b"", 20, b""), (b"GET /", 3, b"HTTP/1.1 408")):
            async with await server.connect() as client:
                await client.send_all(header + sends)
                began = trio.current_time()
                assert (await read_to_end(client)).startswith(receives)
                assert trio.current_time() - began == pytest.approx(waits, abs=0.2)


async def test_it_is_for_all_requests_of_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serving_app(app, proxy_protocol=True, max_requests=3) as server:
        async with await server.connect() as stream:
            await stream.send_all(LINE)
            client = Client(stream)
            for is_last in (False, False, True):
                response = await client.ask(request())
                assert response.body == f"{CLIENT}".encode()
                assert ("connection" in response.headers) is is_last
            assert await client.read_to_end() == b""
    assert len(lines_of(caplog, f"{format_address(CLIENT)} ")) == 3


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("header", "ends"),
    [
        (LINE, [CLIENT, SERVER]),
        (unix(b"/run/a", b"/run/b"), None),  # the library knows of no Unix sockets
    ],
)
async def test_a_websocket_knows_its_client(
    header: bytes,
    ends: list[Any] | None,
    tls: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    seen = []

    async def handler(request: WebSocketRequest) -> None:
        for end in (request.remote, request.local):
            assert isinstance(end, Endpoint)
            seen.append((str(end.address), end.port))
        websocket = await request.accept()
        await websocket.send_message("hello")

    listener = {"kind": WebSocketListener, "port": 0, "host": HOST, "proxy_protocol": True}
    context = server_context if tls else None
    async with serving(handler, ssl_context=context, **listener) as server:
        async with await server.connect() as client, trio.open_nursery() as nursery:
            await client.send_all(header)
            own = [client.socket.getsockname(), client.socket.getpeername()]
            stream: Any = client
            if tls:
                stream = trio.SSLStream(client, client_context, server_hostname="localhost")
            websocket = await wrap_client_stream(nursery, stream, "localhost", "/")
            assert await websocket.get_message() == "hello"
            await websocket.aclose()
    assert seen == (ends or own)


# Behind HAProxy.

HAPROXY = """
defaults
    mode {mode}
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend front
    bind fd@{front}
    default_backend back
backend back
    server one {server} {options}
"""


@asynccontextmanager
async def haproxy_before(
    server: Server, directory: Path, *, mode: str, options: str
) -> AsyncIterator[Any]:
    """HAProxy before it; the address to connect to."""
    config = directory / "haproxy.cfg"
    where = server.address if isinstance(server.address, str) else "{}:{}".format(*server.address)
    with socket.create_server((HOST, 0)) as front:
        front.setblocking(False)
        config.write_text(
            HAPROXY.format(mode=mode, options=options, server=where, front=front.fileno())
        )
        process = await trio.lowlevel.open_process(
            [find("haproxy"), "-db", "-f", str(config)],
            pass_fds=[front.fileno()],
            stdin=subprocess.DEVNULL,
        )
        try:
            yield front.getsockname()
            process.send_signal(signal.SIGUSR1)
            with trio.fail_after(TIMEOUT):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@pytest.mark.parametrize(
    "options", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id"]
)
@pytest.mark.parametrize("tls", [False, True])
async def test_behind_haproxy(
    options: str,
    tls: bool,
    tmp_path: Path,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = server_context if tls else None
    async with (
        serving(tell, proxy_protocol=True, ssl_context=context) as server,
        haproxy_before(server, tmp_path, mode="tcp", options=options) as address,
    ):
        for _ in range(20):
            async with await trio.open_tcp_stream(*address) as client:
                own = client.socket.getsockname()
                stream: Any = client
                if tls:
                    stream = trio.SSLStream(client, client_context, server_hostname="localhost")
                await stream.send_all(b"hello")
                assert await stream.receive_some() == f"{own} hello".encode()
    assert not warnings(caplog)


async def test_haproxys_health_checks_are_no_failures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They say LOCAL, and have the proxy's own address."""
    peers = []
    checked = trio.Event()

    @only_http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["method"] == "OPTIONS":
            checked.set()
        else:
            peers.append(tuple(scope["client"]))
        await answer(send)

    options = "send-proxy-v2 check check-send-proxy inter 100ms\n    option httpchk"
    listener = {"kind": HTTPListener, "port": 0, "host": HOST, "proxy_protocol": True}
    async with (
        serving(app, **listener) as server,  # type: ignore[arg-type]
        haproxy_before(server, tmp_path, mode="http", options=options) as address,
    ):
        await checked.wait()
        async with await trio.open_tcp_stream(*address) as client:
            own = client.socket.getsockname()
            await Client(client).ask(request())
    assert peers == [own]
    assert not warnings(caplog)
    assert "failed" not in server.detail
