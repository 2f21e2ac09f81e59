"""The page in a real browser: headless Chromium, driven by Selenium, against the application as
people run it.
"""

import contextlib
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from selenium.webdriver import Chrome

from trio_run.testing import Program, open_program, read_to_end

from .. import TIMEOUT
from ..browser import PHONE, chromium
from ..browser import Browser as OurBrowser
from ..programs import python
from .running import FREE_PORTS, port_of, where
from .test_damage import destroy, fill

ATTACKS = [
    "<script>document.title = 'broken in'</script>",
    "<img src=x onerror=\"document.title='broken in'\">",
    "</li></ol><h1>broken in</h1>",
    "&lt;b&gt; ${document.title='broken in'} \u202e javascript:alert(1)",
]


class Browser(OurBrowser):
    """One window, on the page."""

    async def texts(self, *expected: str) -> None:
        """Wait until these are the lines that are shown, the newest first."""
        script = "[...document.querySelectorAll('#lines .text')].map(text => text.textContent)"
        await self.until(script, lambda texts: texts == list(expected))

    async def says(self, part: str) -> None:
        """Wait until the status has this text."""
        script = "document.getElementById('status').textContent"
        await self.until(script, lambda text: part in str(text))

    async def notes(self, part: str) -> None:
        script = "document.getElementById('note').textContent"
        await self.until(script, lambda text: part in str(text))

    async def search(self, text: str) -> None:
        await self.run(
            "const search = document.getElementById('search'); search.value = arguments[0];"
            "search.dispatchEvent(new Event('input'))",
            text,
        )


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def browser(driver: Chrome) -> Iterator[Browser]:
    browser = Browser(driver)
    browser.complaints()
    yield browser
    browser.close()


@asynccontextmanager
async def open_app(
    directory: Path, *options: str, web: int = 0, tail: int = 0
) -> AsyncIterator[Program]:
    ports = ["--web-port", str(web), "--tail-port", str(tail)]
    arguments = ["-m", "trio_run", *FREE_PORTS, *ports, "--dir", str(directory), *options]
    async with open_program(python(*arguments)) as program:
        await program.line_with("stop it: ")
        yield program


async def send(program: Program, *lines: str) -> None:
    """Have these stored."""
    data = "".join(f"{line}\n" for line in lines).encode()
    with trio.fail_after(TIMEOUT):
        async with await trio.open_tcp_stream(*await where(program)) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            answers = await read_to_end(stream)
    assert answers.count(b"ok ") == len(lines)


async def test_lines_appear_while_they_arrive(tmp_path: Path, browser: Browser) -> None:
    async with open_app(tmp_path) as program:
        await browser.open(await port_of(program, "http:"))
        await browser.says("Live")
        await browser.notes("No lines yet")
        await send(program, "one")
        await browser.texts("one")
        await send(program, "two", "three")
        await browser.texts("three", "two", "one")
        counts = "[...document.querySelectorAll('#sources li')].map(item => item.innerText)"
        await browser.until(counts, lambda told: told == ["127.0.0.1\n3"])


async def test_what_was_there_before_is_shown_and_no_more_than_the_last(
    tmp_path: Path, browser: Browser
) -> None:
    async with open_app(tmp_path) as program:
        await send(program, *[f"line {number}" for number in range(300)])
        await browser.open(await port_of(program, "http:"))
        await browser.texts(*[f"line {number}" for number in range(299, 99, -1)])
        await send(program, "one more")
        await browser.texts("one more", *[f"line {number}" for number in range(299, 100, -1)])


async def test_a_search_is_live_too(tmp_path: Path, browser: Browser) -> None:
    async with open_app(tmp_path) as program:
        await send(program, "Warning: hot", "all is well", "100 % sure")
        await browser.open(await port_of(program, "http:"))
        await browser.texts("100 % sure", "all is well", "Warning: hot")
        await browser.search("WARNING")
        await browser.texts("Warning: hot")
        await browser.notes("1 line with “WARNING”")
        await send(program, "nothing to see", "a second warning")
        await browser.texts("a second warning", "Warning: hot")
        await browser.search("%")
        await browser.texts("100 % sure")
        await browser.search("<b>")
        await browser.texts()
        await browser.notes("No line with “<b>”")
        await browser.search("")
        await browser.texts(
            "a second warning", "nothing to see", "100 % sure", "all is well", "Warning: hot"
        )


async def test_a_line_is_text_whatever_it_looks_like(tmp_path: Path, browser: Browser) -> None:
    async with open_app(tmp_path) as program:
        await send(program, *ATTACKS[:2])
        await browser.open(await port_of(program, "http:"))
        await browser.texts(*reversed(ATTACKS[:2]))
        await send(program, *ATTACKS[2:])  # live
        await browser.texts(*reversed(ATTACKS))
        await browser.search(ATTACKS[0])
        await browser.texts(ATTACKS[0])
        assert await browser.run("return document.title") == "Collector"
        inside = (
            "return document.querySelectorAll('#lines script, #lines img, #lines b, h1').length"
        )
        assert await browser.run(inside) == 1  # our own h1


async def test_the_policy_keeps_out_a_script_that_got_in_nevertheless(
    tmp_path: Path, browser: Browser
) -> None:
    async with open_app(tmp_path) as program:
        await browser.open(await port_of(program, "http:"))
        await browser.says("Live")
        await browser.run(
            "const script = document.createElement('script');"
            "script.textContent = \"document.title = 'broken in'\";"
            "document.body.append(script)"
        )
        assert await browser.run("return document.title") == "Collector"
        assert any("Content Security Policy" in message for message in browser.complaints())


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_when_the_server_goes_away_it_says_so_and_comes_back_with_what_it_missed(
    tmp_path: Path, browser: Browser, signum: signal.Signals
) -> None:
    async with open_app(tmp_path) as program:
        web, tail = [await port_of(program, door) for door in ("http:", "ws:")]
        await browser.open(web)
        await send(program, "one")
        await browser.texts("one")
        program.signal(signum)
        await program.exit_code()
        if signum == signal.SIGTERM:
            await browser.says("The server has gone away")
        await browser.says("Trying again")
        await browser.texts("one")  # what it has, it keeps
    async with open_app(tmp_path) as elsewhere:  # on other ports: the page can't see these come
        await send(elsewhere, "two", "three")
        elsewhere.signal(signal.SIGTERM)
        await elsewhere.exit_code()
    async with open_app(tmp_path, web=web, tail=tail) as program:
        await browser.says("Live")
        await browser.texts("three", "two", "one")
        await send(program, "four")
        await browser.texts("four", "three", "two", "one")


async def test_in_the_lame_duck_it_says_that_the_server_is_stopping_and_goes_on(
    tmp_path: Path, browser: Browser
) -> None:
    async with open_app(tmp_path, "--lame-duck", "50", "--grace", "60") as program:
        await browser.open(await port_of(program, "http:"))
        await browser.says("Live")
        program.signal(signal.SIGTERM)
        await browser.says("The server is stopping")
        await send(program, "one")
        await browser.texts("one")


async def test_behind_https_it_is_live_too(
    tmp_path: Path, browser: Browser, certificate: trustme.LeafCert
) -> None:
    """As with a proxy that speaks TLS, at another address, at the same ports."""

    async def forward(port: int, client: trio.abc.Stream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, client, server, nursery.cancel_scope)
                nursery.start_soon(copy, server, client, nursery.cancel_scope)

    async def copy(
        source: trio.abc.Stream, target: trio.abc.Stream, scope: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in source:
                await target.send_all(data)
        scope.cancel()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    async with open_app(tmp_path, "--names", "127.0.0.3") as program:
        web, tail = [await port_of(program, door) for door in ("http:", "ws:")]
        async with trio.open_nursery() as nursery:
            for port in (web, tail):
                handler = partial(forward, port)
                serve = partial(trio.serve_ssl_over_tcp, host="127.0.0.3")
                await nursery.start(serve, handler, port, context)
            await browser.open(web, "https://127.0.0.3")
            await browser.says("Live")
            await send(program, "one")
            await browser.texts("one")
            await browser.open(web)  # and so it leaves the proxy
            await browser.texts("one")
            nursery.cancel_scope.cancel()


async def test_it_says_why_lines_are_refused(tmp_path: Path, browser: Browser) -> None:
    async with open_app(tmp_path, "--max-size", "0.1") as program:
        await browser.open(await port_of(program, "http:"))
        await browser.says("Live")
        await send(program, "x" * 60_000, "y" * 60_000)
        async with await trio.open_tcp_stream(*await where(program)) as stream:
            await stream.send_all(b"one too many\n")
            assert (await stream.receive_some()).startswith(b"error it could not be stored: ")
        await browser.says("lines are refused: the database has its full size of 0.1 MB")


async def test_it_says_that_the_database_is_damaged(tmp_path: Path, browser: Browser) -> None:
    await fill(tmp_path)
    destroy(tmp_path, bytes(4096))
    async with open_app(tmp_path) as program:
        await program.line_with("is damaged, and lines may be lost")
        await browser.open(await port_of(program, "http:"))
        await browser.says("The database is damaged: ")
        shown = "document.querySelectorAll('#lines .text').length"
        await browser.until(shown, lambda count: count == 200)  # what is sound


async def test_on_a_phone_nothing_has_to_be_scrolled_sideways(
    tmp_path: Path, browser: Browser
) -> None:
    browser.emulate("light", PHONE)
    async with open_app(tmp_path) as program:
        lines = ["x" * 3_000, "word " * 200, "tab\t" * 50, "short"]
        await send(program, *lines)
        await browser.open(await port_of(program, "http:"))
        await browser.texts(*reversed(lines))
        assert await browser.run(
            "return [innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth]"
        ) == [390, 390, 390]
        font = "return parseFloat(getComputedStyle(document.querySelector('#lines li')).fontSize)"
        assert float(str(await browser.run(font))) >= 13


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_by_day_and_by_night(
    tmp_path: Path, browser: Browser, scheme: str
) -> None:
    """As the guidelines for accessibility want it: a contrast of 4.5 to 1."""
    contrast = """
        const luminance = color => color.match(/[0-9.]+/g).slice(0, 3)
            .map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
            .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
        const paper = luminance(getComputedStyle(document.body).backgroundColor);
        const all = 'h1, #status, time, .source, .text, aside span';
        return [...document.querySelectorAll(all)].map(element => {
            const ink = luminance(getComputedStyle(element).color);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        });
    """
    browser.emulate(scheme)
    async with open_app(tmp_path) as program:
        await send(program, "line")
        await browser.open(await port_of(program, "http:"))
        await browser.texts("line")
        contrasts = await browser.run(contrast)
        assert isinstance(contrasts, list)
        assert len(contrasts) >= 6
        assert min(contrasts) >= 4.5
