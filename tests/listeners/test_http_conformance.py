"""HTTPListener driven by what was not written here: curl, httpx, http.client, wrk, websockets, and
nginx in front of it.
"""

import contextlib
import hashlib
import http.client
import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
import websockets.exceptions
import websockets.sync.client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from trio_run.testing import Program, open_program

from .. import TIMEOUT
from ..programs import find, script
from .http_serving import serving_app
from .serving import (
    HOST,
    Server,
    lines_of,
)

LARGE = bytes(range(256)) * 16384  # 4 MB
DIGEST = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture
def app(tmp_path: Path) -> Starlette:
    (tmp_path / "file").write_bytes(LARGE)

    async def hello(request: Request) -> Response:
        return Response("hello", media_type="text/plain")

    async def look(request: Request) -> Response:
        """What the app sees of the request."""
        scope = request.scope
        known = ("method", "path", "scheme", "http_version", "client", "server")
        query, raw = scope["query_string"].decode(), scope["raw_path"].decode()
        return JSONResponse({name: scope[name] for name in known} | {"query": query, "raw": raw})

    async def digest(request: Request) -> Response:
        hashed = hashlib.sha256()
        async for piece in request.stream():
            hashed.update(piece)
        return Response(hashed.hexdigest())

    async def too_large(request: Request) -> Response:
        return Response("too large", status_code=413)

    async def stream(request: Request) -> Response:
        """Of no length that is known before."""
        body = await request.body() or LARGE

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 100_000):
                yield body[start : start + 100_000]

        return StreamingResponse(pieces())

    async def file(request: Request) -> Response:
        return FileResponse(tmp_path / "file")

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for message in websocket.iter_text():
            await websocket.send_text(message.upper())

    return Starlette(
        routes=[
            Route("/", hello),
            Route("/look/{rest:path}", look),
            Route("/digest", digest, methods=["POST", "PUT"]),
            Route("/too-large", too_large, methods=["POST"]),
            Route("/stream", stream, methods=["GET", "POST"]),
            Route("/file", file),
            WebSocketRoute("/talk", talk),
        ]
    )


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(LARGE)
    return path


def url_of(server: Server, path: str = "/", scheme: str = "http") -> str:
    host, port = server.address
    return f"{scheme}://{host}:{port}{path}"


async def in_thread(function: Callable[[], Any]) -> Any:
    with trio.fail_after(TIMEOUT):
        return await trio.to_thread.run_sync(function, abandon_on_cancel=True)


# curl.


def content_of(path: Path) -> bytes:
    return path.read_bytes()


async def curl(*arguments: str | Path) -> tuple[bytes, str]:
    """What it writes on stdout, and what on stderr. That it fails is an error."""
    command = [find("curl"), "-q", "--silent", "--show-error", "--fail", "--noproxy", "*"]
    command += ["--max-time", str(TIMEOUT), *map(str, arguments)]
    done = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, stdin=b""
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.decode()


async def test_curl_gets(app: Starlette) -> None:
    async with serving_app(app) as server:
        told = "%{stderr}%{http_code} %{http_version} %{content_type}"
        assert await curl(url_of(server), "--write-out", told) == (
            b"hello",
            "200 1.1 text/plain; charset=utf-8",
        )


async def test_curl_asks_for_a_path_with_escapes_and_a_query(app: Starlette) -> None:
    async with serving_app(app) as server:
        path = "/look/a%20b%2Fc/%C3%A4?x=1&y=%20z#fragment"
        seen = httpx.Response(200, content=(await curl(url_of(server, path)))[0]).json()
        assert (seen["path"], seen["raw"]) == ("/look/a b/c/ä", "/look/a%20b%2Fc/%C3%A4")
        assert seen["query"] == "x=1&y=%20z"
        assert (seen["method"], seen["scheme"], seen["http_version"]) == ("GET", "http", "1.1")
        assert seen["server"] == list(server.address)
        assert seen["client"][0] == HOST


async def test_curl_asks_for_the_head_and_goes_on_with_the_connection(app: Starlette) -> None:
    async with serving_app(app) as server:
        again = ["--head", url_of(server), "--head", url_of(server, "/file")]
        output, _ = await curl(*again, "--write-out", "connects: %{num_connects}\n")
    first, second = output.decode().lower().split("connects: 1\n")
    assert first.startswith("http/1.1 200 ok\r\n")
    assert "content-length: 5\r\n" in first
    assert f"content-length: {len(LARGE)}\r\n" in second
    assert second.endswith("connects: 0\n")


@pytest.mark.parametrize("encoding", ["", "chunked"])
async def test_curl_posts(app: Starlette, large: Path, encoding: str) -> None:
    async with serving_app(app) as server:
        header = f"Transfer-Encoding: {encoding}" if encoding else "X-None: none"
        body = ["--data-binary", f"@{large}", "--header", header, "--header", "Expect:"]
        output, errors = await curl(*body, url_of(server, "/digest"), "--verbose")
    assert output.decode() == DIGEST
    assert ("> Transfer-Encoding: chunked" in errors) == bool(encoding)
    assert ("> Content-Length:" in errors) == (not encoding)


async def test_curl_puts_what_it_reads(app: Starlette, large: Path) -> None:
    async with serving_app(app) as server:
        assert await curl("--upload-file", large, url_of(server, "/digest")) == (
            DIGEST.encode(),
            "",
        )


@pytest.mark.parametrize("encoding", ["", "chunked"])
async def test_curl_waits_for_100_continue(app: Starlette, large: Path, encoding: str) -> None:
    """For so long that it would time out, if it were not told to go on."""
    async with serving_app(app) as server:
        header = f"Transfer-Encoding: {encoding}" if encoding else "X-None: none"
        body = ["--data-binary", f"@{large}", "--header", header]
        wait = ["--header", "Expect: 100-continue", "--expect100-timeout", str(10 * TIMEOUT)]
        output, errors = await curl(*body, *wait, url_of(server, "/digest"), "--verbose")
    assert output.decode() == DIGEST
    assert errors.count("< HTTP/1.1 100 ") == 1
    assert errors.index("< HTTP/1.1 100 ") < errors.index("< HTTP/1.1 200 ")


async def test_curl_keeps_its_body_when_it_is_refused(app: Starlette, large: Path) -> None:
    async with serving_app(app) as server:
        wait = ["--header", "Expect: 100-continue", "--expect100-timeout", str(10 * TIMEOUT)]
        told = "%{http_code} %{size_upload}"
        output, errors = await curl(
            *["--data-binary", f"@{large}", *wait, "--no-fail", "--write-out", told],
            *[url_of(server, "/too-large"), "--verbose"],
        )
    assert output == b"too large413 0"
    assert "< HTTP/1.1 100 " not in errors


async def test_curl_reads_a_refusal_of_a_body_that_it_does_not_wait_with(
    app: Starlette, large: Path
) -> None:
    """Most of the body is not read; the reply must get through all the same."""
    async with serving_app(app) as server:
        output, _ = await curl(
            *["--data-binary", f"@{large}", "--header", "Expect:", "--no-fail"],
            *["--write-out", "%{http_code}", url_of(server, "/too-large")],
        )
    assert output == b"too large413"


async def test_curl_with_http_1_0(app: Starlette, large: Path) -> None:
    """No chunks; the end of the connection is the end of the body."""
    async with serving_app(app) as server:
        urls = [url_of(server, "/stream"), url_of(server), "--output", large, "--output", "-"]
        output, errors = await curl("--http1.0", *urls, "--verbose")
        assert (content_of(large), output) == (LARGE, b"hello")
    assert "chunked" not in errors
    assert errors.count("* Closing connection") == 2


async def test_curl_offers_http2_and_is_answered_with_http_1_1(app: Starlette) -> None:
    async with serving_app(app) as server:
        output, _ = await curl("--http2", url_of(server), "--write-out", " %{http_version}")
    assert output == b"hello 1.1"


async def test_curl_gets_many_urls_on_one_connection(app: Starlette, large: Path) -> None:
    paths = ["/", "/stream", "/file", "/look/", "/"] * 10
    async with serving_app(app) as server:
        urls = [part for path in paths for part in ("--output", large, url_of(server, path))]
        told = "%{stderr}%{http_code} %{num_connects}\n"
        _, errors = await curl(*urls, "--write-out", told)
    assert errors.splitlines() == ["200 1"] + ["200 0"] * (len(paths) - 1)


async def test_curl_resumes_and_gets_ranges(app: Starlette, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    partial.write_bytes(LARGE[:1000])
    async with serving_app(app) as server:
        await curl("--continue-at", "-", "--output", partial, url_of(server, "/file"))
        assert content_of(partial) == LARGE
        assert (await curl("--range", "5-14", url_of(server, "/file")))[0] == LARGE[5:15]


async def test_curl_over_a_unix_socket(app: Starlette, tmp_path: Path, large: Path) -> None:
    path = tmp_path / "socket"
    async with serving_app(app, path=path):
        there = ["--unix-socket", path]
        assert await curl(*there, "http://localhost/") == (b"hello", "")
        body = ["--data-binary", f"@{large}"]
        assert (await curl(*there, *body, "http://localhost/digest"))[0].decode() == DIGEST
        output, _ = await curl(*there, "http://localhost/look/")
        seen = httpx.Response(200, content=output).json()
        assert (seen["client"], seen["server"]) == (None, [str(path), None])


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context, and the certificate to trust."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", HOST).configure_cert(context)
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return context, path


async def test_curl_over_tls(
    app: Starlette, authority: tuple[ssl.SSLContext, Path], large: Path
) -> None:
    context, trusted = authority
    async with serving_app(app, ssl_context=context) as server:
        urls = [url_of(server, path, "https") for path in ("/", "/look/x", "/file")]
        outputs = ["--output", "-", "--output", "-", "--output", large]
        told = "%{stderr}%{num_connects} %{ssl_verify_result} "
        output, errors = await curl("--cacert", trusted, *urls, *outputs, "--write-out", told)
        assert output.startswith(b"hello{")
        assert b'"scheme":"https"' in output
        assert content_of(large) == LARGE
        assert errors == "1 0 0 0 0 0 "
        body = ["--data-binary", f"@{large}", url_of(server, "/digest", "https")]
        assert (await curl("--cacert", trusted, *body))[0].decode() == DIGEST


async def test_curl_gets_in_parallel(app: Starlette, tmp_path: Path) -> None:
    async with serving_app(app) as server:
        urls = url_of(server, "/file?[1-20]")
        into = ["--output", tmp_path / "part#1"]
        await curl("--parallel", "--parallel-immediate", "--parallel-max", "20", *into, urls)
    for number in range(1, 21):
        assert content_of(tmp_path / f"part{number}") == LARGE


# httpx and http.client.


async def pieces_of(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


async def test_httpx_with_a_pool_of_connections(app: Starlette) -> None:
    ports = set()

    async def ask(number: int) -> None:
        response = await client.get(f"/look/{number}")
        seen = response.json()
        assert (response.status_code, seen["path"]) == (200, f"/look/{number}")
        ports.add(seen["client"][1])

    limits = httpx.Limits(max_connections=10)
    async with (
        serving_app(app) as server,
        httpx.AsyncClient(base_url=url_of(server), limits=limits, timeout=TIMEOUT) as client,
    ):
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
        assert len(ports) <= 10  # they are kept, and used again
        await server.stop()
    assert f"{len(ports)} drained" in server.detail


async def test_httpx_streams_both_ways(app: Starlette) -> None:
    async with (
        serving_app(app) as server,
        httpx.AsyncClient(base_url=url_of(server), timeout=TIMEOUT) as client,
    ):
        for _ in range(3):
            async with client.stream("POST", "/stream", content=pieces_of(LARGE)) as response:
                assert response.request.headers["transfer-encoding"] == "chunked"
                assert response.headers["transfer-encoding"] == "chunked"
                assert b"".join([piece async for piece in response.aiter_raw()]) == LARGE


async def test_http_client_keeps_its_connection(app: Starlette) -> None:
    def talk() -> None:
        with contextlib.closing(
            http.client.HTTPConnection(*server.address, timeout=TIMEOUT)
        ) as client:
            client.connect()
            ours = client.sock
            for _ in range(10):
                client.request("GET", "/")
                response = client.getresponse()
                assert (response.status, response.version, response.read()) == (200, 11, b"hello")
                client.request("HEAD", "/stream")
                assert client.getresponse().read() == b""
                halves = [LARGE[:1_000_000], LARGE[1_000_000:]]
                client.request("POST", "/digest", body=iter(halves), encode_chunked=True)
                assert client.getresponse().read().decode() == DIGEST
                client.request("POST", "/digest", body=LARGE)
                assert client.getresponse().read().decode() == DIGEST
                client.request("GET", "/none")
                response = client.getresponse()
                assert (response.status, response.read()) == (404, b"Not Found")
            assert client.sock is ours

    async with serving_app(app) as server:
        await in_thread(talk)


# wrk.


def check_wrk(output: str) -> int:
    """How many requests it made. That one of them failed is an error."""
    assert "Socket errors" not in output, output
    assert "Non-2xx" not in output, output
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output
    return int(found[1])


async def test_wrk_sees_no_error(app: Starlette, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="trio_run")
    async with serving_app(app) as server:
        command = [find("wrk"), "-t1", "-c20", "-d1s", "--timeout", str(TIMEOUT), url_of(server)]
        done = await trio.run_process(command, capture_stdout=True)
        assert check_wrk(done.stdout.decode()) > 20
        await server.stop()
    assert ", 0 cut" in server.detail
    assert "failed" not in server.detail
    assert lines_of(caplog, "") == []


# websockets.


def talk_to(url: str, **options: Any) -> None:
    options = {"proxy": None, "open_timeout": TIMEOUT} | options
    with websockets.sync.client.connect(url, **options) as client:
        for _ in range(10):
            client.send("hello")
            assert client.recv(TIMEOUT) == "HELLO"
        client.send(["frag", "ment", "ed"])
        assert client.recv(TIMEOUT) == "FRAGMENTED"
        client.send("ä" * 200_000)
        assert client.recv(TIMEOUT) == "Ä" * 200_000
        assert client.ping().wait(TIMEOUT)
        client.close(1000)
        assert client.close_code == 1000


async def test_websockets(app: Starlette) -> None:
    async with serving_app(app) as server:
        await in_thread(lambda: talk_to(url_of(server, "/talk", "ws")))
        with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
            await in_thread(lambda: talk_to(url_of(server, "/none", "ws")))


async def test_websockets_over_tls(app: Starlette, authority: tuple[ssl.SSLContext, Path]) -> None:
    context, trusted = authority
    client = ssl.create_default_context(cafile=str(trusted))
    async with serving_app(app, ssl_context=context) as server:
        await in_thread(lambda: talk_to(url_of(server, "/talk", "wss"), ssl=client))


# nginx.

NGINX = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 512; }}
http {{
    log_format late '$upstream_http_late $upstream_http_connection';
    access_log {directory}/access.log late;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream servers {{
        {servers}
        keepalive 16;
    }}
    server {{
        listen {host}:{port};
        client_max_body_size 100m;
        proxy_pass_request_headers on;
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Connection "";
        location / {{
            proxy_pass http://servers;
        }}
        location /stream {{
            proxy_pass http://servers;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
        location /talk {{
            proxy_pass http://servers;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}
    }}
}}
"""


class Nginx:
    def __init__(self, directory: Path, address: tuple[str, int]) -> None:
        self.url = f"http://{address[0]}:{address[1]}"
        self._errors = directory / "error.log"
        self._access = directory / "access.log"

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def answers(self) -> set[str]:
        """Of SERVER's: were they late, and did they end their connections?"""
        return set(self._access.read_text().splitlines())


@pytest.fixture
def front() -> Iterator[socket.socket]:
    """Where nginx listens: it is given the socket, so that clients may come before it is ready."""
    with socket.create_server((HOST, 0), backlog=512) as bound:
        bound.setblocking(False)
        yield bound


@asynccontextmanager
async def nginx_before(
    *servers: str, front: socket.socket, directory: Path
) -> AsyncIterator[Nginx]:
    """nginx in front of them, as the user that we are."""
    host, port = front.getsockname()
    config = directory / "nginx.conf"
    config.write_text(
        NGINX.format(
            user=f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
            directory=directory,
            servers=" ".join(f"server {each} max_fails=0;" for each in servers),
            host=host,
            port=port,
        )
    )
    process = await trio.lowlevel.open_process(
        [
            find("nginx"),
            "-p",
            str(directory),
            "-e",
            str(directory / "error.log"),
            "-c",
            str(config),
        ],
        env=os.environ | {"NGINX": f"{front.fileno()};"},
        pass_fds=[front.fileno()],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield Nginx(directory, (host, port))
        process.send_signal(signal.SIGQUIT)
        with trio.fail_after(TIMEOUT):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.terminate()  # killed, it would leave its worker behind
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_nginx_in_front(
    app: Starlette, front: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_app(app) as server:
        host, port = server.address
        async with nginx_before(f"{host}:{port}", front=front, directory=tmp_path) as nginx:
            ports = set()
            async with httpx.AsyncClient(base_url=nginx.url, timeout=TIMEOUT) as client:
                for _ in range(20):
                    assert (await client.get("/")).text == "hello"
                    ports.add((await client.get("/look/")).json()["client"][1])
                    assert (await client.head("/file")).headers["content-length"] == str(len(LARGE))
                assert len(ports) == 1  # nginx keeps its connection
                assert (await client.post("/digest", content=LARGE)).text == DIGEST
                response = await client.post("/digest", content=pieces_of(LARGE))
                assert response.text == DIGEST
                response = await client.post("/stream", content=pieces_of(LARGE))
                assert response.content == LARGE
                refused = await client.post("/too-large", content=LARGE)
                assert (refused.status_code, refused.text) == (413, "too large")
                assert (await client.get("/file")).content == LARGE
                part = await client.get("/file", headers={"range": "bytes=5-14"})
                assert (part.status_code, part.content) == (206, LARGE[5:15])
            await in_thread(lambda: talk_to(nginx.url.replace("http", "ws") + "/talk"))
            assert "[error]" not in nginx.errors
        await server.stop()
    assert "failed" not in server.detail
    assert not [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")]


# It answers each request with its own name, a little later, and says in the head whether it is
# about to stop; it says when it has begun 200, and in the end how many it has begun and how many it
# has answered.
SERVER = """
import hashlib, sys
import trio
from trio_run import Group, HTTPListener, State, run

name, where, lame_duck = sys.argv[1:]
begun = answered = 0

async def app(scope, receive, send):
    global begun, answered
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown", begun, answered, flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    begun += 1
    if begun == 200:
        print("warm", flush=True)
    hashed, more = hashlib.sha256(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        hashed.update(message["body"])
        more = message["more_body"]
    await trio.sleep(0.001 * (begun % 5))
    body = f"{name} {hashed.hexdigest()}".encode()
    late = b"no" if group.state is State.RUNNING else b"late"
    headers = [(b"content-length", b"%d" % len(body)), (b"late", late)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body[:10], "more_body": True})
    await trio.lowlevel.checkpoint()
    await send({"type": "http.response.body", "body": body[10:]})
    answered += 1

if where == "tcp":
    listener = HTTPListener(app, 0, host="127.0.0.1")
else:
    listener = HTTPListener(app, path=where)

async def announce():
    print("serves at", listener.addresses[0], flush=True)

group = Group(lame_duck=float(lame_duck))
group.add(announce, needs=[group.add(listener)], on_return="ignore")
sys.exit(run(group))
"""


async def address_of(program: Program) -> str:
    """Where it serves, as nginx wants it."""
    line = await program.line_with("serves at")
    found = re.search(r"'(.+?)'(?:, (\d+))?", line)
    if found is None:
        return "unix:" + line.removeprefix("serves at ")
    return f"{found[1]}:{found[2]}"


async def ended_well(program: Program) -> int:
    """It has exited as it should; how many requests it has answered."""
    assert await program.exit_code() == 0, program.output
    found = re.search(r"shutdown (\d+) (\d+)", program.output)
    assert found is not None, program.output
    assert found[1] == found[2], program.output  # all that it has begun
    assert "Traceback" not in program.output, program.output
    return int(found[2])


@asynccontextmanager
async def wrk_on(url: str) -> AsyncIterator[None]:
    """Under load as long as the block lasts. That any request failed is an error."""
    written = bytearray()
    async with trio.open_nursery() as nursery:
        command = [find("wrk"), "-t1", "-c20", "-d600s", "--timeout", str(TIMEOUT), url]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert process.stdout is not None

        async def read() -> None:
            assert process.stdout is not None
            async for data in process.stdout:
                written.extend(data)

        nursery.start_soon(read)
        try:
            yield
            process.send_signal(signal.SIGINT)  # it then tells its results
            with trio.fail_after(TIMEOUT):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    assert check_wrk(written.decode()) > 0


@pytest.mark.parametrize("lame_duck", ["0", "0.5"])
async def test_nginx_hides_that_a_server_is_stopped_under_load(
    lame_duck: str, front: socket.socket, tmp_path: Path
) -> None:
    async with (
        open_program(script(SERVER, "first", "tcp", lame_duck)) as first,
        open_program(script(SERVER, "second", "tcp", "0")) as second,
    ):
        where = [await address_of(first), await address_of(second)]
        async with nginx_before(*where, front=front, directory=tmp_path) as nginx:
            async with wrk_on(nginx.url):
                await first.line_with("warm")
                first.signal(signal.SIGTERM)
                assert await ended_well(first) >= 200
                await second.line_with("warm")
        # In the end wrk leaves some before they have an answer.
        assert nginx.answers <= {"no -", "late close", "- -"}
        assert lame_duck == "0" or "late close" in nginx.answers


async def test_nginx_hides_that_one_server_after_another_is_replaced(
    front: socket.socket, tmp_path: Path
) -> None:
    """On Unix sockets, whose paths outlive the processes."""
    paths = [str(tmp_path / name) for name in ("first", "second")]
    over = trio.Event()

    async def serve(path: str, *, task_status: trio.TaskStatus[Program]) -> None:
        async with open_program(script(SERVER, "server", path, "0")) as program:
            assert await address_of(program) == f"unix:{path}"
            task_status.started(program)
            await over.wait()

    async with trio.open_nursery() as nursery:
        running = [await nursery.start(serve, path) for path in paths]
        where = [f"unix:{path}" for path in paths]
        async with nginx_before(*where, front=front, directory=tmp_path) as nginx:
            async with wrk_on(nginx.url):
                for turn in (0, 1, 0, 1):
                    await running[turn].line_with("warm")
                    running[turn].signal(signal.SIGTERM)
                    assert await ended_well(running[turn]) >= 200
                    running[turn] = await nursery.start(serve, paths[turn])
        over.set()


async def test_behind_nginx_a_lame_duck_loses_no_upload(
    front: socket.socket, tmp_path: Path
) -> None:
    """nginx sends a POST but once.

    Each response of the lame duck tells it to leave that connection.
    """
    stopped = trio.Event()
    replies: list[str] = []

    async def post(number: int) -> None:
        body = bytes([number]) * 50_000
        digest = hashlib.sha256(body).hexdigest()
        async with httpx.AsyncClient(base_url=nginx.url, timeout=TIMEOUT) as client:
            while not stopped.is_set():
                response = await client.post("/", content=body)
                assert response.status_code == 200
                name, _, hashed = response.text.partition(" ")
                assert hashed == digest
                replies.append(name)

    async with (
        open_program(script(SERVER, "first", "tcp", "1")) as first,
        open_program(script(SERVER, "second", "tcp", "0")) as second,
    ):
        where = [await address_of(first), await address_of(second)]
        async with nginx_before(*where, front=front, directory=tmp_path) as nginx:
            async with trio.open_nursery() as nursery:
                for number in range(16):
                    nursery.start_soon(post, number)
                await first.line_with("warm")
                first.signal(signal.SIGTERM)
                answered = await ended_well(first)
                stopped.set()
        assert answered == replies.count("first")
        assert nginx.answers == {"no -", "late close"}
        second.signal(signal.SIGTERM)
        assert await ended_well(second) == replies.count("second")
