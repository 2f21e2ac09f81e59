"""HTTPListener and real frameworks: Starlette and Quart-Trio, and Django by way of trio-asyncio.
Their clients are httpx and websockets.

The three sites have the same pages, as far as the framework has such a thing, so that one test asks
all of them.
"""

import asyncio
import email.utils
import gc
import hashlib
import logging
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import django
import django.http
import django.urls
import django.views.static
import httpx
import pytest
import quart
import trio
import trio_asyncio
import websockets.exceptions
import websockets.sync.client
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect
from trio.testing import wait_all_tasks_blocked
from trio_asyncio import aio_as_trio, trio_as_aio

from trio_run import busy

from .. import TIMEOUT
from .http_serving import App, request, serving_app
from .serving import (
    Server,
    lines_of,
)

STATIC = b"0123456789" * 10_000
UPLOAD = bytes(range(256)) * 4096  # a megabyte


class Site:
    """An app, what has happened to it, and what its pages wait for."""

    def __init__(self) -> None:
        self.app: Any = None
        self.around: AbstractAsyncContextManager[object] = nullcontext()  # the group
        self.seen: list[object] = []
        self.go = trio.Event()
        self.happened = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The app; it is seen when it has done with a page that has no end."""
        try:
            await self.app(scope, receive, send)
        finally:
            if scope.get("path") == "/endless":
                self.saw("left")

    def saw(self, what: object) -> None:
        self.seen.append(what)
        self.happened.set()
        self.happened = trio.Event()

    async def has_seen(self, what: object) -> None:
        while what not in self.seen:
            await self.happened.wait()


# Starlette.


class Endless:
    """Starlette does not close a generator whose client has left: that is left to the garbage
    collector.
    """

    def __aiter__(self) -> "Endless":
        return self

    async def __anext__(self) -> bytes:
        return bytes(65536)


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = request.url.path
        return response


def starlette_site(site: Site, static: Path, middleware: tuple[Middleware, ...] = ()) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        site.saw("startup")
        yield {"greeting": "hello"}
        site.saw("shutdown")

    async def home(request: Request) -> Response:
        assert request.client is not None
        return JSONResponse({"port": request.client.port, "state": request.state.greeting})

    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "one "
            await site.go.wait()
            yield "two "
            yield "three"

        return StreamingResponse(parts(), media_type="text/plain")

    async def endless(request: Request) -> Response:
        return StreamingResponse(Endless())

    async def upload(request: Request) -> Response:
        site.saw("upload")
        async with request.form() as form:
            file = form["file"]
            assert not isinstance(file, str)
            digest = hashlib.sha256(await file.read()).hexdigest()
            answer = {"word": form["word"], "name": file.filename, "digest": digest}
        site.saw("answered")
        return JSONResponse(answer)

    async def background(request: Request) -> Response:
        async def work() -> None:
            await site.go.wait()
            site.saw("worked")

        assert request.client is not None
        answer = {"port": request.client.port}
        return JSONResponse(answer, background=BackgroundTask(work))

    async def slow(request: Request) -> Response:
        site.saw("slow")
        await site.go.wait()
        site.saw("answered")
        return PlainTextResponse("slow but whole")

    async def teapot(request: Request) -> Response:
        raise HTTPException(418, "short and stout")

    async def crash(request: Request) -> Response:
        raise LookupError("a mistake")

    async def on_http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        return PlainTextResponse(f"handled: {exc.detail}", status_code=exc.status_code)

    async def on_crash(request: Request, exc: Exception) -> Response:
        return PlainTextResponse("handled: crash", status_code=500)

    async def talk(websocket: WebSocket) -> None:
        if "chat" not in websocket.scope["subprotocols"]:
            await websocket.close()
            return
        await websocket.accept("chat")
        try:
            while (text := await websocket.receive_text()) != "bye":
                await websocket.send_text(text.upper())
            await websocket.close(3000, "bye")
        except WebSocketDisconnect as exc:
            site.saw(exc.code)

    site.app = Starlette(
        routes=[
            Route("/", home),
            Route("/stream", stream),
            Route("/endless", endless),
            Route("/upload", upload, methods=["POST"]),
            Route("/background", background),
            Route("/slow", slow),
            Route("/teapot", teapot),
            Route("/crash", crash),
            WebSocketRoute("/talk", talk),
            Mount("/static", StaticFiles(directory=static)),
        ],
        lifespan=lifespan,
        middleware=middleware,
        exception_handlers={HTTPException: on_http_error, Exception: on_crash},
    )


# Quart-Trio.


def quart_site(site: Site, static: Path) -> None:
    app = QuartTrio(__name__, static_folder=str(static), static_url_path="/static")
    site.app = app

    @app.before_serving
    async def start_up() -> None:
        site.saw("startup")

    @app.after_serving
    async def shut_down() -> None:
        site.saw("shutdown")

    @app.route("/")
    async def home() -> dict[str, Any]:
        return {"port": quart.request.scope["client"][1]}

    @app.route("/stream")
    async def stream() -> Any:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one "
            await site.go.wait()
            yield b"two "
            yield b"three"

        return parts(), {"content-type": "text/plain"}

    @app.route("/endless")
    async def endless() -> Any:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield bytes(65536)

        return parts()

    @app.route("/upload", methods=["POST"])
    async def upload() -> dict[str, Any]:
        site.saw("upload")
        file = (await quart.request.files)["file"]
        word = (await quart.request.form)["word"]
        digest = hashlib.sha256(file.read()).hexdigest()
        file.close()
        site.saw("answered")
        return {"word": word, "name": file.filename, "digest": digest}

    @app.route("/background")
    async def background() -> dict[str, Any]:
        async def work() -> None:
            await site.go.wait()
            site.saw("worked")

        app.add_background_task(work)
        return {"port": quart.request.scope["client"][1]}

    @app.route("/slow")
    async def slow() -> str:
        site.saw("slow")
        await site.go.wait()
        site.saw("answered")
        return "slow but whole"

    @app.route("/teapot")
    async def teapot() -> str:
        quart.abort(418, "short and stout")

    @app.errorhandler(418)
    async def on_teapot(exc: Any) -> tuple[str, int]:
        return f"handled: {exc.description}", 418

    @app.route("/crash")
    async def crash() -> str:
        raise LookupError("a mistake")

    @app.errorhandler(500)
    async def on_crash(exc: Exception) -> tuple[str, int]:
        return "handled: crash", 500

    @app.websocket("/talk")
    async def talk() -> None:
        websocket = quart.websocket
        if "chat" not in websocket.requested_subprotocols:
            quart.abort(403)
        await websocket.accept(subprotocol="chat")
        try:
            while (text := await websocket.receive()) != "bye":
                await websocket.send(text.upper())
            await websocket.close(3000, "bye")
        except BaseException:  # a cancel, or from Quart-Trio 0.13 on an error of Quart's
            site.saw("disconnected")
            raise


# Django is for asyncio only. These two are all it takes: on_trio(app), and the loop around the
# group.


def on_trio(app: App) -> App:
    """An ASGI app that needs asyncio, for Trio."""

    async def adapted(scope: Any, receive: Any, send: Any) -> None:
        await aio_as_trio(app)(scope, trio_as_aio(receive), trio_as_aio(send))

    return adapted


@asynccontextmanager
async def open_loop() -> AsyncIterator[None]:
    """trio-asyncio's loop takes no executor but its own, and Django has one for each request.

    It also ends with the error of any task that nobody waits for: Django leaves such tasks behind
    when a request is cut.
    """
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(asyncio.BaseEventLoop.default_exception_handler)
        own = loop.run_in_executor

        def run_in_executor(executor: Any, function: Any, *args: Any) -> Any:
            if executor is None:
                return own(None, function, *args)
            return asyncio.wrap_future(executor.submit(function, *args), loop=loop)

        loop.run_in_executor = run_in_executor
        yield


@pytest.fixture(scope="session")
def django_static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Django is set up once in a process."""
    static = tmp_path_factory.mktemp("static")
    settings.configure(
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["django.contrib.staticfiles"],
        LOGGING_CONFIG=None,
        SECRET_KEY="none",
        STATICFILES_DIRS=[static],
        STATIC_URL="/static/",
        DEBUG=True,
    )
    django.setup()
    return static


def django_site(site: Site, static: Path) -> None:
    async def go() -> None:
        await trio_as_aio(site.go.wait)()

    def home(request: django.http.HttpRequest) -> django.http.HttpResponse:
        return django.http.JsonResponse({"port": int(request.META["REMOTE_PORT"])})

    async def stream(request: django.http.HttpRequest) -> django.http.StreamingHttpResponse:
        async def parts() -> AsyncIterator[str]:
            yield "one "
            await go()
            yield "two "
            yield "three"

        return django.http.StreamingHttpResponse(parts(), content_type="text/plain")

    async def endless(request: django.http.HttpRequest) -> django.http.StreamingHttpResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield bytes(65536)

        return django.http.StreamingHttpResponse(parts())

    async def upload(request: django.http.HttpRequest) -> django.http.HttpResponse:
        file = request.FILES["file"]
        digest = hashlib.sha256(file.read()).hexdigest()
        site.saw("answered")
        return django.http.JsonResponse(
            {"word": request.POST["word"], "name": file.name, "digest": digest}
        )

    async def slow(request: django.http.HttpRequest) -> django.http.HttpResponse:
        site.saw("slow")
        await go()
        site.saw("answered")
        return django.http.HttpResponse("slow but whole", content_type="text/plain")

    async def teapot(request: django.http.HttpRequest) -> django.http.HttpResponse:
        raise django.http.Http404("short and stout")

    def crash(request: django.http.HttpRequest) -> django.http.HttpResponse:
        raise LookupError("a mistake")

    def on_http_error(request: django.http.HttpRequest, exception: Exception) -> Any:
        return django.http.HttpResponse(f"handled: {exception}", status=404)

    def on_crash(request: django.http.HttpRequest) -> django.http.HttpResponse:
        return django.http.HttpResponse("handled: crash", status=500)

    urls: Any = types.ModuleType("urls")
    urls.handler404 = on_http_error
    urls.handler500 = on_crash
    serve = django.views.static.serve
    urls.urlpatterns = [
        django.urls.path("", home),
        django.urls.path("stream", stream),
        django.urls.path("endless", endless),
        django.urls.path("upload", upload),
        django.urls.path("slow", slow),
        django.urls.path("teapot", teapot),
        django.urls.path("crash", crash),
        django.urls.path("view/<path:path>", serve, {"document_root": static}),
    ]
    settings.ROOT_URLCONF = urls
    settings.DEBUG = False
    django.urls.clear_url_caches()
    site.app = on_trio(ASGIStaticFilesHandler(get_asgi_application()))
    site.around = open_loop()


MAKERS: dict[str, Callable[[Site, Path], None]] = {
    "starlette": starlette_site,
    "quart": quart_site,
    "django": django_site,
}
ALL = list(MAKERS)
# Django does not close the body of a request whose client has left, or that is cut: let it be
# collected in that test.
UNCLOSED = pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
WITH_LIFESPAN = ["starlette", "quart"]


@pytest.fixture
def static(kind: str, tmp_path: Path, django_static: Path) -> Path:
    folder = django_static if kind == "django" else tmp_path
    (folder / "file.txt").write_bytes(STATIC)
    return folder


@pytest.fixture
def site(kind: str, static: Path) -> Iterator[Site]:
    site = Site()
    MAKERS[kind](site, static)
    yield site
    if kind == "django":
        settings.DEBUG = True


@asynccontextmanager
async def served(site: Site, **options: Any) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    """The site on a listener, and a client for it."""
    async with site.around, serving_app(site, **options) as server:
        host, port = server.address
        url = f"http://{host}:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
            yield server, client


async def look_at(server: Server, path: str) -> None:
    """Ask for a page, and leave as soon as it begins to come."""
    async with await server.connect() as stream:
        await stream.send_all(request(f"GET {path} HTTP/1.1"))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


# What a browser sends: a field and a file.
FORM = (
    b'--limit\r\nContent-Disposition: form-data; name="word"\r\n\r\nplease\r\n'
    b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + UPLOAD + b"\r\n--limit--\r\n"
)
CHUNKED = {"content-type": "multipart/form-data; boundary=limit"}
SIZED = CHUNKED | {"content-length": str(len(FORM))}
UPLOADED = {"word": "please", "name": "a.bin", "digest": hashlib.sha256(UPLOAD).hexdigest()}


@pytest.mark.parametrize("kind", ALL)
async def test_a_streamed_response_arrives_piece_by_piece(site: Site) -> None:
    async with served(site) as (_, client):
        async with client.stream("GET", "/stream") as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/plain")
            assert response.headers["transfer-encoding"] == "chunked"
            parts = response.aiter_raw()
            assert await anext(parts) == b"one "
            site.go.set()  # only now is the next one made
            assert b"".join([part async for part in parts]) == b"two three"


@pytest.mark.parametrize("kind", ALL)
async def test_an_upload_of_a_form_with_a_file(site: Site, kind: str) -> None:
    async with served(site) as (_, client):
        files = {"file": ("a.bin", UPLOAD)}
        response = await client.post("/upload", data={"word": "please"}, files=files)
        assert response.json() == UPLOADED
        if kind != "django":  # which reads no form of which it is not told the length
            response = await client.post("/upload", content=in_pieces(FORM), headers=CHUNKED)
            assert response.request.headers["transfer-encoding"] == "chunked"
            assert response.json() == UPLOADED


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
@pytest.mark.parametrize("kind", ALL)
async def test_a_static_file_is_sent_whole_and_not_again_when_it_is_not_newer(site: Site) -> None:
    async with served(site) as (_, client):
        response = await client.get("/static/file.txt")
        assert response.content == STATIC
        assert response.headers["content-length"] == str(len(STATIC))
        assert response.headers["content-type"].startswith("text/plain")
        since = {"if-modified-since": response.headers["last-modified"]}
        assert email.utils.parsedate_to_datetime(since["if-modified-since"])
        again = await client.get("/static/file.txt", headers=since)
        assert (again.status_code, again.content) == (304, b"")
        head = await client.head("/static/file.txt")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(STATIC))
        assert (await client.get("/static/none.txt")).status_code == 404
        assert (await client.get("/")).json()["port"]  # all on a connection that still works


@pytest.mark.parametrize("kind", WITH_LIFESPAN)
async def test_a_static_file_by_its_etag_and_in_ranges(site: Site) -> None:
    async with served(site) as (_, client):
        etag = (await client.get("/static/file.txt")).headers["etag"]
        again = await client.get("/static/file.txt", headers={"if-none-match": etag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        part = await client.get("/static/file.txt", headers={"range": "bytes=5-14"})
        assert (part.status_code, part.content) == (206, b"5678901234")
        assert part.headers["content-range"] == f"bytes 5-14/{len(STATIC)}"
        past = await client.get("/static/file.txt", headers={"range": "bytes=200000-"})
        assert past.status_code == 416


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
@pytest.mark.parametrize("kind", ["django"])
async def test_djangos_view_for_static_files(site: Site) -> None:
    async with served(site) as (_, client):
        response = await client.get("/view/file.txt")
        assert response.content == STATIC
        since = {"if-modified-since": response.headers["last-modified"]}
        again = await client.get("/view/file.txt", headers=since)
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("kind", WITH_LIFESPAN)
async def test_a_background_task_does_not_hold_up_the_next_request_of_its_connection(
    site: Site,
) -> None:
    async with served(site) as (_, client):
        first = await client.get("/background")
        second = await client.get("/")
        assert first.json()["port"] == second.json()["port"]
        assert "worked" not in site.seen
        site.go.set()
        await site.has_seen("worked")


@pytest.mark.parametrize("kind", ["starlette"])
async def test_a_stop_waits_for_a_background_task(site: Site) -> None:
    async with served(site) as (server, client):
        await client.get("/background")
        server.group.stop()
        await wait_all_tasks_blocked()
        assert site.seen == ["startup"]
        site.go.set()
        await server.ended.wait()
    assert site.seen == ["startup", "worked", "shutdown"]
    assert server.report.exit_code == 0


@pytest.mark.parametrize("kind", WITH_LIFESPAN)
async def test_the_lifespan_is_around_all_requests(site: Site) -> None:
    async with served(site) as (server, client):
        assert site.seen == ["startup"]
        await client.get("/")
        assert site.seen == ["startup"]
        await server.stop()
        assert site.seen == ["startup", "shutdown"]


@pytest.mark.parametrize("kind", ["starlette"])
async def test_the_state_of_the_lifespan_is_in_each_request(site: Site) -> None:
    async with served(site) as (_, client):
        assert (await client.get("/")).json()["state"] == "hello"


@pytest.mark.parametrize("kind", ["django"])
async def test_django_has_no_lifespan_and_that_is_fine(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_run")
    async with served(site) as (server, client):
        assert (await client.get("/")).status_code == 200
    assert server.report.exit_code == 0
    [line] = lines_of(caplog, "lifespan")
    assert line.levelno == logging.DEBUG


@pytest.mark.parametrize("kind", ALL)
async def test_exceptions_go_to_the_apps_own_handlers_and_the_connection_goes_on(
    site: Site, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(site) as (_, client):
        port = (await client.get("/")).json()["port"]
        teapot = await client.get("/teapot")
        assert teapot.status_code == (404 if kind == "django" else 418)
        assert teapot.text == "handled: short and stout"
        crash = await client.get("/crash")
        assert (crash.status_code, crash.text) == (500, "handled: crash")
        assert (await client.get("/")).json()["port"] == port
    # Starlette raises it again, for the server to log; the others log it themselves.
    told = lines_of(caplog, "the app failed")
    assert len(told) == (1 if kind == "starlette" else 0)
    for line in told:
        assert line.exc_info is not None
        assert isinstance(line.exc_info[1], LookupError)


@UNCLOSED
@pytest.mark.parametrize("kind", ALL)
async def test_a_client_that_leaves_ends_the_stream_with_one_line_of_log(
    site: Site, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(site) as (server, client):
        await look_at(server, "/endless")
        await site.has_seen("left")
        assert (await client.get("/")).status_code == 200  # others are served
        await server.stop()
    lines = [each for each in caplog.records if each.name == "trio_run" and "left" in each.msg]
    if kind == "django" and not lines:
        pass  # http.disconnect came to it before the error of its send did: it returned in silence
    else:
        assert [each.levelno for each in lines] == [logging.INFO]
        assert "/endless" in lines[0].getMessage()
        assert "ExceptionGroup" not in lines[0].getMessage()
    assert lines_of(caplog, "failed") == []
    gc.collect()


# Middleware.


@pytest.fixture
def stamped(tmp_path: Path) -> Site:
    site = Site()
    starlette_site(site, tmp_path, (Middleware(Stamp),))
    return site


async def test_starlettes_base_http_middleware(
    stamped: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(stamped) as (_, client):
        assert (await client.get("/")).headers["x-stamp"] == "/"
        response = await client.post("/upload", content=in_pieces(FORM), headers=CHUNKED)
        assert response.json() == UPLOADED
        async with client.stream("GET", "/stream") as streamed:
            parts = streamed.aiter_raw()
            assert await anext(parts) == b"one "
            stamped.go.set()
            assert b"".join([part async for part in parts]) == b"two three"
        first = await client.get("/background")
        assert first.json()["port"] == (await client.get("/")).json()["port"]
        assert (await client.get("/crash")).text == "handled: crash"
    assert len(lines_of(caplog, "the app failed")) == 1  # the crash


async def test_a_client_that_leaves_under_starlettes_base_http_middleware(
    stamped: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(stamped) as (server, _):
        await look_at(server, "/endless")
        await stamped.has_seen("left")
        await server.stop()
    assert server.report.exit_code == 0
    assert lines_of(caplog, "failed") == []


# WebSockets.


async def in_thread(function: Callable[[], Any]) -> Any:
    with trio.fail_after(TIMEOUT):
        return await trio.to_thread.run_sync(function, abandon_on_cancel=True)


def connect(server: Server, **options: Any) -> websockets.sync.client.ClientConnection:
    host, port = server.address
    options = {"subprotocols": ["chat"], "open_timeout": TIMEOUT, "proxy": None} | options
    return websockets.sync.client.connect(f"ws://{host}:{port}/talk", **options)


@pytest.mark.parametrize("kind", WITH_LIFESPAN)
async def test_a_websocket(site: Site) -> None:
    def talk() -> tuple[object, ...]:
        with connect(server) as websocket:
            websocket.send("hello")
            heard = websocket.recv(TIMEOUT)
            websocket.send("x" * 100_000)
            assert websocket.recv(TIMEOUT) == "X" * 100_000
            websocket.send("bye")
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                websocket.recv(TIMEOUT)
            return websocket.subprotocol, heard, websocket.close_code, websocket.close_reason

    async with served(site) as (server, _):
        assert await in_thread(talk) == ("chat", "HELLO", 3000, "bye")


@pytest.mark.parametrize("kind", WITH_LIFESPAN)
async def test_a_websocket_that_the_app_refuses(site: Site) -> None:
    def talk() -> None:
        with connect(server, subprotocols=None):
            pass

    async with served(site) as (server, _):
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            await in_thread(talk)
    assert caught.value.response.status_code == 403


@pytest.mark.parametrize("kind", WITH_LIFESPAN)
async def test_a_websocket_whose_client_closes_it(site: Site, kind: str) -> None:
    def talk() -> int | None:
        with connect(server) as websocket:
            websocket.close(1000)
            return websocket.close_code

    async with served(site) as (server, _):
        assert await in_thread(talk) == 1000
        await site.has_seen(1000 if kind == "starlette" else "disconnected")


@pytest.mark.parametrize("kind", WITH_LIFESPAN)
async def test_rule_10_an_open_websocket_gets_1001_and_its_app_is_told(
    site: Site, kind: str
) -> None:
    def talk() -> int | None:
        with connect(server) as websocket:
            websocket.send("hello")
            websocket.recv(TIMEOUT)
            trio.from_thread.run_sync(server.group.stop)
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                websocket.recv(TIMEOUT)
            return websocket.close_code

    async with served(site) as (server, _):
        assert await in_thread(talk) == 1001
        await server.ended.wait()
    assert site.seen == ["startup", 1001 if kind == "starlette" else "disconnected", "shutdown"]
    assert server.report.exit_code == 0


# Rule 10: interrupted while a request is in flight.


def ends(site: Site, kind: str) -> list[object]:
    """What comes last: the app has no more requests when its lifespan ends."""
    return ["answered"] if kind == "django" else ["answered", "shutdown"]


@pytest.mark.parametrize("kind", ALL)
async def test_rule_10_a_request_in_flight_is_answered_whole_and_then_the_lifespan_ends(
    site: Site, kind: str
) -> None:
    async def ask() -> None:
        response = await client.get("/slow")
        assert response.text == "slow but whole"
        assert response.headers["connection"] == "close"

    async with served(site) as (server, client), trio.open_nursery() as nursery:
        await client.get("/")  # on a connection that is kept
        nursery.start_soon(ask)
        await site.has_seen("slow")
        server.group.stop()
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionRefusedError):
            server.connect_now()
        site.go.set()
        await server.ended.wait()
    assert site.seen[-2:] == (["slow", *ends(site, kind)])[-2:]
    assert server.report.exit_code == 0
    assert "1 drained, 0 cut" in server.detail


@pytest.mark.parametrize("kind", ALL)
async def test_rule_10_an_upload_in_flight_is_read_and_answered_whole(
    site: Site, kind: str
) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def in_two() -> AsyncIterator[bytes]:
        half = len(FORM) // 2
        yield FORM[:half]
        begun.set()
        await go_on.wait()
        yield FORM[half:]

    async def ask() -> None:
        response = await client.post("/upload", content=in_two(), headers=SIZED)
        assert response.json() == UPLOADED
        assert response.headers["connection"] == "close"

    async with served(site) as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await begun.wait()
        if kind == "django":  # it reads the whole body first
            await wait_all_tasks_blocked()
        else:
            await site.has_seen("upload")
        server.group.stop()
        await wait_all_tasks_blocked()
        go_on.set()
        await server.ended.wait()
    assert site.seen[-len(ends(site, kind)) :] == ends(site, kind)
    assert server.report.exit_code == 0


@pytest.mark.parametrize("kind", ALL)
async def test_rule_10_a_stream_that_has_begun_is_sent_whole(site: Site) -> None:
    async with served(site) as (server, client):
        async with client.stream("GET", "/stream") as response:
            parts = response.aiter_raw()
            assert await anext(parts) == b"one "
            server.group.stop()
            await wait_all_tasks_blocked()
            site.go.set()
            assert b"".join([part async for part in parts]) == b"two three"
        await server.ended.wait()
    assert server.report.exit_code == 0


@UNCLOSED
@pytest.mark.parametrize("kind", ALL)
async def test_rule_08_what_does_not_end_is_cut_with_the_grace(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        with pytest.raises(httpx.ReadError):
            await client.get("/slow")

    async with served(site, grace=0.1) as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await site.has_seen("slow")
        await server.stop()
        assert "1 cut" in server.detail
    assert site.seen[-1] == "slow"
    gc.collect()
    # Django waits for http.disconnect meanwhile, and gets it.
    assert "ClosedResourceError" not in caplog.text


async def test_a_page_may_be_busy_inside_a_request(tmp_path: Path) -> None:
    """In Quart a WebSocket's messages are read ahead: what is to be answered says so."""
    site = Site()
    quart_site(site, tmp_path)

    @site.app.websocket("/careful")
    async def careful() -> None:
        while True:
            text = await quart.websocket.receive()
            with busy():
                site.saw("busy")
                await site.go.wait()
                await quart.websocket.send(text.upper())

    def talk() -> tuple[object, int | None]:
        host, port = server.address
        with websockets.sync.client.connect(f"ws://{host}:{port}/careful", proxy=None) as websocket:
            websocket.send("hello")
            trio.from_thread.run(site.has_seen, "busy")
            trio.from_thread.run_sync(server.group.stop)
            trio.from_thread.run(wait_all_tasks_blocked)
            trio.from_thread.run_sync(site.go.set)
            heard = websocket.recv(TIMEOUT)
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                websocket.recv(TIMEOUT)
            return heard, websocket.close_code

    async with served(site) as (server, _):
        assert await in_thread(talk) == ("HELLO", 1001)
        await server.ended.wait()
