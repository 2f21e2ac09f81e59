"""Web: what each path answers, and to whom."""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_run import Group, HTTPListener, WebSocketListener
from trio_run.skeleton import store as store_module
from trio_run.skeleton.counts import Counts
from trio_run.skeleton.hosts import Hosts
from trio_run.skeleton.store import Store
from trio_run.skeleton.tail import Tail
from trio_run.skeleton.web import Web
from trio_run.testing import running

from .. import TIMEOUT

LOCAL = ("127.0.0.1", 40000)


class Answer:
    def __init__(self, messages: list[dict[str, Any]]) -> None:
        start, body = messages
        self.status: int = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body: bytes = body["body"]

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Service:
    """The app, and what it asks."""

    def __init__(self, directory: Path) -> None:
        self.counts = Counts()
        self.tail = Tail(Hosts())
        self.store = Store(directory, publish=[self.counts.add])
        self.group = Group(grace=40)
        listener = WebSocketListener(self.tail.serve, 0, host="127.0.0.1")
        self.web = Web(self.group, self.store, self.counts, self.tail, listener, Hosts())
        storing = self.group.add(self.store)
        for actor in (self.counts, listener):
            self.group.add(actor, needs=[storing])
        self.tail_port = lambda: listener.addresses[0][1]

    async def ask(
        self,
        target: str,
        method: str = "GET",
        *,
        client: tuple[str, int] | None = LOCAL,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> Answer:
        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        messages: list[dict[str, Any]] = []
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "client": client,
            "server": ("127.0.0.1", 8000),
            "headers": [(b"host", b"127.0.0.1:8000"), *(headers or [])],
        }
        await self.web(scope, None, send)
        return Answer(messages)


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Service]:
    service = Service(directory)
    with trio.fail_after(TIMEOUT):
        async with running(service.group):
            yield service
            service.group.stop()


async def test_lines_are_the_last_ones_the_newest_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        await service.store.save(["one", "<b>two</b>"], "127.0.0.1")
        answer = await service.ask("/lines")
        assert answer.status == 200
        two, one = answer.json["lines"]
        assert (one["id"], one["source"], one["text"]) == (1, "127.0.0.1", "one")
        assert two["text"] == "<b>two</b>"
        assert set(two) == {"id", "received", "source", "text"}


async def test_lines_can_be_searched_and_limited(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        await service.store.save([f"line {number} grüße &" for number in range(300)], "test")
        for target, count in [
            ("/lines", 200),
            ("/lines?limit=1", 1),
            ("/lines?limit=1000", 300),
            ("/lines?search=LINE+29", 11),
            ("/lines?search=gr%C3%BC%C3%9Fe%20%26&limit=7", 7),
            ("/lines?search=nothing", 0),
            ("/lines?search=", 200),
            ("/lines?search=%FF", 0),
            ("/lines?unknown=1", 200),
        ]:
            assert len((await service.ask(target)).json["lines"]) == count, target


@pytest.mark.parametrize("search", ["x" * 1001, "a%00b"])
async def test_a_search_that_finds_nothing_ever_is_400(tmp_path: Path, search: str) -> None:
    async with serving(tmp_path) as service:
        answer = await service.ask(f"/lines?search={search}")
        assert answer.status == 400


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "many", "", "1.5", "9" * 5000])
async def test_a_limit_that_cannot_be_right_is_400(tmp_path: Path, limit: str) -> None:
    async with serving(tmp_path) as service:
        answer = await service.ask(f"/lines?limit={limit}")
        assert answer.status == 400
        assert answer.json == {"error": "limit must be a whole number from 1 to 1000"}


async def test_a_search_that_takes_too_long_is_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_SEARCH_TIMEOUT", -1.0)
    async with serving(tmp_path) as service:
        await service.store.save(["line"] * 5_000, "test")
        answer = await service.ask("/lines?search=needle")
        assert answer.status == 503
        assert "took too long" in answer.json["error"]


async def test_counts_are_by_source(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        await service.store.save(["one", "two"], "127.0.0.1")
        await trio.testing.wait_all_tasks_blocked()
        assert (await service.ask("/counts")).json == {"sources": {"127.0.0.1": 2}}


async def test_the_status_tells_the_page_where_the_tail_is(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        assert (await service.ask("/status")).json == {
            "state": "running",
            "ready": True,
            "trouble": "",
            "damage": "",
            "tail": {"port": service.tail_port(), "path": service.tail.path},
        }


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
async def test_quit_stops_for_who_is_on_this_machine(tmp_path: Path, address: str) -> None:
    async with serving(tmp_path) as service:
        assert service.group.ready
        answer = await service.ask("/quit", "POST", client=(address, 1))
        assert (answer.status, answer.body) == (202, b"stopping\n")
        assert not service.group.ready


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (("192.0.2.1", 1), []),
        (("2001:db8::1", 1), []),
        (("fe80::1%lo", 1), []),
        (None, []),
        (LOCAL, [(b"origin", b"http://evil.example")]),
        (LOCAL, [(b"origin", b"null")]),
    ],
)
async def test_quit_is_403_from_elsewhere_and_from_a_browser(
    tmp_path: Path, client: tuple[str, int] | None, headers: list[tuple[bytes, bytes]]
) -> None:
    async with serving(tmp_path) as service:
        answer = await service.ask("/quit", "POST", client=client, headers=headers)
        assert answer.status == 403
        assert service.group.ready


@pytest.mark.parametrize(
    ("target", "method", "allow"),
    [
        ("/quit", "GET", "POST"),
        ("/quit", "HEAD", "POST"),
        ("/", "POST", "GET, HEAD"),
        ("/lines", "DELETE", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_with_those_that_there_are(
    tmp_path: Path, target: str, method: str, allow: str
) -> None:
    async with serving(tmp_path) as service:
        answer = await service.ask(target, method)
        assert answer.status == 405
        assert answer.headers["allow"] == allow
        assert service.group.ready


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ((b"host", b"evil.example"), b"that is no name of this server: see --names\n"),
        ((b"origin", b"http://evil.example"), b"not for a page of another site\n"),
    ],
)
async def test_a_page_of_another_site_is_told_why_it_gets_nothing(
    tmp_path: Path, header: tuple[bytes, bytes], why: bytes
) -> None:
    async with serving(tmp_path) as service:
        answer = await service.ask("/lines", headers=[header])
        assert (answer.status, answer.body) == (403, why)


@pytest.mark.parametrize("target", ["/nothing", "/lines/", "//", "/page.html", "/../etc/passwd"])
async def test_another_path_is_404(tmp_path: Path, target: str) -> None:
    async with serving(tmp_path) as service:
        for method in ("GET", "POST"):
            assert (await service.ask(target, method)).status == 404


async def test_the_policy_of_the_page_allows_its_own_script_and_style_and_the_tail(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as service:
        answer = await service.ask("/")
        page = answer.body.decode()
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = dict(
            part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
        )
        hashes = {}
        for tag in ("script", "style"):
            (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
            digest = hashlib.sha256(content.encode()).digest()
            hashes[f"{tag}-src"] = f"'sha256-{base64.b64encode(digest).decode()}'"
        assert policy == hashes | {
            "default-src": "'none'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "img-src": "data:",
            "connect-src": "'self' ws://*:{0} wss://*:{0}".format(service.tail_port()),
        }


def test_the_page_asks_for_nothing_from_elsewhere_and_sets_no_html() -> None:
    page = Path(store_module.__file__).with_name("page.html").read_text("utf-8")
    assert set(re.findall(r"\w+://[\w.]*", page)) == set()
    assert not re.search(
        r"\bsrc=|@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|eval\(", page
    )
    assert not re.search(r" on\w+=", page)


async def test_every_answer_may_not_be_kept_nor_taken_for_something_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        for target in ("/", "/lines", "/counts", "/status", "/nothing"):
            headers = (await service.ask(target)).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"


async def test_it_is_an_app_of_an_http_listener(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        listener = HTTPListener(service.web, 0, host="127.0.0.1")
        await service.group.add(listener).wait_ready()
        async with await trio.open_tcp_stream(*listener.addresses[0]) as client:
            await client.send_all(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await client.receive_some()
            length = len((await service.ask("/")).body)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"content-length: %d\r\n" % length in head
            assert head.endswith(b"\r\n\r\n")
            await client.send_all(
                b"GET / HTTP/1.1\r\nHost: localhost\r\n"
                b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert (await client.receive_some()).startswith(b"HTTP/1.1 403 ")
