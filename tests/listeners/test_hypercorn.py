"""HypercornServer: where it listens, what it speaks, and how it stops.

The clients are httpx and http.client.
"""

import gc
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from hypercorn.config import Config
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import (
    CannotStart,
    Group,
    GroupFailed,
    HypercornServer,
    Member,
    Report,
    State,
    stopping,
)
from trio_run.testing import running, wait_stopped

from .. import TIMEOUT
from .http_serving import answer, request
from .serving import (
    HOST,
    connected_to,
)

# Where it fails Hypercorn leaves its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    yield
    gc.collect()


class App:
    """It notes what happens to it. Its lifespan, and the page /slow, wait until they are let go."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.begun = trio.Event()
        self.go = trio.Event()
        self.may_start = trio.Event()
        self.may_start.set()
        self.fails_at: str | None = None  # "startup" or "shutdown"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{what}"
                self.seen.append(what)
                await self.may_start.wait()
                how = "failed" if what == self.fails_at else "complete"
                message = {"message": "no database"} if what == self.fails_at else {}
                await send({"type": f"lifespan.{what}.{how}"} | message)
        elif scope["path"] == "/slow":
            self.begun.set()
            await self.go.wait()
            self.seen.append(("answered", stopping()))
            await answer(send, b"slow but whole")
        else:
            await answer(send, scope["http_version"].encode())


class Server:
    def __init__(self, app: App, config: Config, port: int, grace: float) -> None:
        self.address = HOST, port
        self.group = Group(grace=grace)
        self.member: Member = self.group.add(HypercornServer(app, config))

    async def stop(self) -> Report:
        self.group.stop()
        return await wait_stopped(self.group)


@asynccontextmanager
async def serving(app: App, *, grace: float = 30.0, **settings: Any) -> AsyncIterator[Server]:
    """It listens on a socket that is bound already: that tells where."""
    with socket.create_server((HOST, 0)) as bound:
        port = bound.getsockname()[1]
        config = config_of(f"fd://{bound.detach()}", **settings)
    server = Server(app, config, port, grace)
    with trio.fail_after(TIMEOUT):
        async with running(server.group, wait_ready=False):
            yield server


def config_of(bind: str, **settings: Any) -> Config:
    config = Config()
    config.bind = [bind]
    config.errorlog = None
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def client_of(server: Server, scheme: str = "http", **options: Any) -> httpx.AsyncClient:
    url = f"{scheme}://{server.address[0]}:{server.address[1]}"
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT, **options)


async def failure_of(server: HypercornServer) -> tuple[Exception, bool]:
    """Run it, and stop it when it is ready: it must fail.

    With what, and whether it was ready before.
    """
    group = Group()
    member = group.add(server)

    async def stop() -> None:
        group.stop()

    group.add(stop, needs=[member], on_return="ignore")
    with trio.fail_after(TIMEOUT), pytest.raises(GroupFailed) as caught:
        await group.run()
    [error] = caught.value.exceptions
    assert isinstance(error, Exception)
    return error, member.ready_at is not None


# What it is given.


def test_its_name_and_grace() -> None:
    server = HypercornServer(App(), config_of("127.0.0.1:0"))
    assert (server.name, server.grace) == ("hypercorn", None)
    server = HypercornServer(App(), config_of("127.0.0.1:0"), name="shop", grace=3)
    assert (server.name, server.grace) == ("shop", 3)


@pytest.mark.parametrize(
    ("app", "config", "text"),
    [
        (None, Config(), "the app must be an ASGI app, not None"),
        ("shop:app", Config(), "the app must be an ASGI app, not 'shop:app'"),
        (App(), {"bind": "x"}, "config must be a hypercorn.config.Config, not {'bind': 'x'}"),
        (App(), None, "config must be a hypercorn.config.Config, not None"),
    ],
)
def test_rule_01_what_cannot_be_right(app: Any, config: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        HypercornServer(app, config)
    assert str(caught.value) == text


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypercorn.trio", None)
    with pytest.raises(ImportError, match=r"pip install 'trio-run\[hypercorn\]'"):
        HypercornServer(App(), Config())


# Serving.


async def test_rule_01_it_is_ready_when_it_listens() -> None:
    app = App()
    app.may_start = trio.Event()
    async with serving(app) as server:
        await wait_all_tasks_blocked()
        assert not server.group.ready
        app.may_start.set()
        await server.member.wait_ready()
        with connected_to(server.address) as client:  # with no checkpoint since it was ready
            client.sendall(request())
            client.setblocking(False)
            await trio.lowlevel.wait_readable(client)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


async def test_rule_01_execute_tells_where_it_listens() -> None:
    server = HypercornServer(App(), config_of(f"{HOST}:0"))
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(server.execute)
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            assert (await client.get(address)).text == "1.1"
        nursery.cancel_scope.cancel()


async def test_http_1() -> None:
    async with serving(App()) as server, client_of(server) as client:
        await server.member.wait_ready()
        response = await client.get("/")
        assert (response.status_code, response.http_version) == (200, "HTTP/1.1")
        assert response.text == "1.1"


async def test_an_app_without_a_lifespan_is_fine() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await answer(send, b"here")

    async with serving(app) as server, client_of(server) as client:  # type: ignore[arg-type]
        await server.member.wait_ready()
        assert (await client.get("/")).text == "here"


async def test_the_state_of_the_lifespan_is_in_each_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["word"] = b"kept"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await answer(send, scope["state"].pop("word"))

    async with serving(app) as server, client_of(server) as client:  # type: ignore[arg-type]
        await server.member.wait_ready()
        for _ in range(2):
            assert (await client.get("/")).text == "kept"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, dict[str, str]]:
    """A client's context, and what Hypercorn is to be told."""
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    files = {"certfile": str(tmp_path / "chain.pem"), "keyfile": str(tmp_path / "key.pem")}
    for blob in issued.cert_chain_pems:
        blob.write_to_path(files["certfile"], append=True)
    issued.private_key_pem.write_to_path(files["keyfile"])
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context, files


async def test_http_2(certificate: tuple[ssl.SSLContext, dict[str, str]]) -> None:
    async def ask() -> None:
        response = await client.get("/")
        assert (response.status_code, response.http_version) == (200, "HTTP/2")
        assert response.text == "2"

    context, files = certificate
    async with serving(App(), **files) as server:
        await server.member.wait_ready()
        async with client_of(server, "https", http2=True, verify=context) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)


# Stopping.


async def test_a_stop_at_rest_is_clean_and_the_lifespan_shuts_down() -> None:
    app = App()
    async with serving(app) as server, client_of(server) as client:
        await server.member.wait_ready()
        await client.get("/")  # its connection is kept, and idle
        report = await server.stop()
        assert app.seen == ["startup", "shutdown"]
        assert (report.exit_code, report.actors[0].outcome) == (0, "returned")
        with pytest.raises(ConnectionRefusedError):
            connected_to(server.address)


async def test_a_request_in_flight_is_answered() -> None:
    async def ask() -> None:
        assert (await client.get("/slow")).text == "slow but whole"

    app = App()
    async with serving(app, graceful_timeout=TIMEOUT) as server, client_of(server) as client:
        await server.member.wait_ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await app.begun.wait()
            server.group.stop()
            await wait_all_tasks_blocked()
            app.go.set()
        report = await server.stop()
    assert app.seen == ["startup", ("answered", True), "shutdown"]
    assert report.actors[0].outcome == "returned"


@asynccontextmanager
async def stuck(app: App, **options: Any) -> AsyncIterator[Server]:
    """One with a request in flight that never ends."""
    async with serving(app, **options) as server:
        await server.member.wait_ready()
        with connected_to(server.address) as client:
            client.sendall(request("GET /slow HTTP/1.1"))
            await app.begun.wait()
            yield server
            assert server.group.state is State.STOPPED
            assert client.recv(100) == b""  # no reply


async def test_graceful_timeout_bounds_the_stop(clock: MockClock) -> None:
    app = App()
    async with stuck(app, graceful_timeout=5) as server:
        report = await server.stop()
    assert report.duration == pytest.approx(5, abs=0.5)
    assert report.actors[0].outcome == "returned"
    assert app.seen == ["startup", "shutdown"]


async def test_the_end_of_the_grace_cuts_it_where_graceful_timeout_is_longer(
    clock: MockClock,
) -> None:
    app = App()
    async with stuck(app, graceful_timeout=60, grace=5) as server:
        report = await server.stop()
    assert report.duration == pytest.approx(5, abs=0.5)
    assert report.actors[0].outcome == "cut"
    assert app.seen == ["startup"]


async def test_interrupted_while_the_app_starts_up_it_gives_that_up() -> None:
    app = App()
    app.may_start = trio.Event()
    async with serving(app) as server:
        await wait_all_tasks_blocked()
        report = await server.stop()
    assert app.seen == ["startup"]
    assert report.actors[0].outcome == "returned"


async def test_an_app_that_stays_after_its_shutdown_has_a_second_to_return(
    clock: MockClock,
) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})
        began = trio.current_time()
        try:
            await trio.sleep_forever()
        finally:
            seen.append(trio.current_time() - began)

    async with serving(app) as server:  # type: ignore[arg-type]
        await server.member.wait_ready()
        report = await server.stop()
    assert seen == [pytest.approx(1, abs=0.1)]
    assert report.actors[0].outcome == "returned"


# What fails.


async def test_rule_01_a_port_in_use() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        error, ready = await failure_of(HypercornServer(App(), config_of(f"{HOST}:{port}")))
    assert isinstance(error, CannotStart)
    assert isinstance(error, OSError)
    assert str(error).startswith(f"cannot listen on {HOST}:{port}: it is in use")
    assert not ready


async def test_rule_01_all_addresses_are_named() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        config = config_of(f"{HOST}:0")
        config.bind += [f"{HOST}:{port}"]
        error, _ = await failure_of(HypercornServer(App(), config))
    assert str(error).startswith(f"cannot listen on {HOST}:0, {HOST}:{port}: it is in use")


async def test_an_app_that_cannot_start_up_says_why() -> None:
    app = App()
    app.fails_at = "startup"
    error, _ = await failure_of(HypercornServer(app, config_of(f"{HOST}:0")))
    assert isinstance(error, CannotStart)
    assert "no database" in str(error)
    assert "\n" not in str(error)
    assert app.seen == ["startup"]


async def test_an_app_that_cannot_start_up_is_never_ready() -> None:
    app = App()
    app.fails_at = "startup"
    _, ready = await failure_of(HypercornServer(app, config_of(f"{HOST}:0")))
    assert not ready


async def test_an_app_that_cannot_shut_down_says_why() -> None:
    """It has started: that is no CannotStart, which is told without a traceback."""
    app = App()
    app.fails_at = "shutdown"
    error, ready = await failure_of(HypercornServer(app, config_of(f"{HOST}:0")))
    assert ready
    assert "no database" in str(only(error))
    assert not isinstance(only(error), CannotStart)


async def test_a_certificate_that_is_missing_is_no_trouble_with_the_address(tmp_path: Path) -> None:
    missing = {"certfile": str(tmp_path / "none.pem"), "keyfile": str(tmp_path / "none.pem")}
    error, _ = await failure_of(HypercornServer(App(), config_of(f"{HOST}:0", **missing)))
    assert "cannot listen" not in str(error)


async def test_any_other_failure_is_left_as_it_is() -> None:
    error, _ = await failure_of(HypercornServer(App(), config_of("fd://not a number")))
    assert isinstance(only(error), ValueError)


def only(error: BaseException) -> BaseException:
    """What is in the groups of nurseries."""
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    return error
