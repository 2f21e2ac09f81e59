"""Rule P6: the status page in a real browser, while a stop with a slow actor goes on."""

import os
import signal
from collections.abc import Iterator

import pytest
import trio
from selenium.webdriver import Chrome

from trio_run.testing import open_program

from .. import TIMEOUT
from ..browser import PHONE, Browser, chromium
from ..ports import free_port
from ..programs import script

DESKTOP = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}
SCREENS = {"desktop": DESKTOP, "phone": PHONE}
EVIL = "<img src=x onerror=\"document.title='broken in'\">"

PROGRAM = f"""
    import signal, sys, trio
    from trio_run import Group, SignalReceiver, StatusPage, TCPListener, run

    class Till:
        name = "till"
        status = "taking orders"

        def __init__(self):
            self.closing, self.done = trio.Event(), trio.Event()

        async def execute(self):
            await self.closing.wait()
            self.status = "printing the last receipt"
            await self.done.wait()
            self.status = {EVIL!r}

        def interrupt(self, cause):
            self.closing.set()

    async def echo(stream):
        async for chunk in stream:
            await stream.send_all(chunk)

    till = Till()
    group = Group(name="shop", grace=PATIENCE)
    office = Group(name="office")
    office.add(trio.sleep_forever, name="ledger " + "x" * 100)
    opened = group.add(office)
    group.add(StatusPage(PORT, can_stop=True))
    group.add(TCPListener(echo, 0, host="127.0.0.1", name="door"), needs=[opened])
    group.add(till)
    group.add(SignalReceiver(signal.SIGTERM, handlers={{signal.SIGUSR1: till.done.set}}))
    sys.exit(run(group, signals=()))
"""


def program(port: int, grace: float = 60) -> list[str]:
    return script(PROGRAM.replace("PORT", str(port)).replace("PATIENCE", str(grace)))


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


def text(id_: str) -> str:
    return f"document.getElementById('{id_}')?.textContent"


def of_row(name: str, what: str) -> str:
    return f"document.querySelector('[data-name=\"{name}\"] {what}')"


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_stop_with_a_slow_actor(browser: Browser, screen: str, scheme: str) -> None:
    browser.emulate(scheme, SCREENS[screen])
    port = free_port()
    with trio.fail_after(TIMEOUT):
        async with open_program(program(port)) as shop:
            await shop.line_with("shop: ready")
            await browser.open(port)
            await browser.until(text("state"), lambda said: said == "running")
            assert await browser.run(f"return {of_row('till', '.what b')}.textContent") == "running"
            names = "[...document.querySelectorAll('[data-name]')].map(row => row.dataset.name)"
            assert await browser.run(f"return {names}") == [
                *("office", "ledger " + "x" * 100, f"status:{port}", "door", "till", "signals")
            ]
            await check_looks(browser, screen)
            take_picture(browser, f"{screen}-{scheme}-running")

            shop.signal(signal.SIGTERM)
            await browser.until(text("state"), lambda said: said == "stopping")
            late = f"{of_row('till', '.bar')}.className"
            await browser.until(late, lambda look: look == "bar late")
            await browser.until(
                text("holdup"), lambda said: said == "Waiting for till (printing the last receipt)"
            )
            assert await browser.run(f"return {of_row('office', '.bar')}.className") == "bar"
            assert str(await browser.run(f"return {text('about')}")).startswith("SIGTERM received")
            width = f"{of_row('till', '.bar')}.getBoundingClientRect().width"
            grown = await browser.run(f"return {width}")
            await browser.until(width, lambda now: now != grown)  # it grows by itself
            await check_looks(browser, screen)
            take_picture(browser, f"{screen}-{scheme}-stopping")

            shop.signal(signal.SIGUSR1)
            verdict = await browser.until(text("verdict"), bool)
            assert await shop.exit_code() == 0
        assert str(verdict).startswith("shop stopped in ")
        assert str(verdict).endswith(" s: SIGTERM received (exit code 0)")
        assert await browser.run("return document.getElementById('verdict').className") == "good"
        assert await browser.run(f"return {text('state')}") == "stopped"
        assert await browser.run(f"return {text('holdup')}") == ""
        assert await browser.run(f"return {of_row('till', '.detail')}.textContent") == EVIL
        assert await browser.run("return document.querySelectorAll('img').length") == 0
        first = "document.querySelector('#events li').textContent"
        assert "signals" in str(await browser.run(f"return {first}"))  # a daemon
        await check_looks(browser, screen)
        take_picture(browser, f"{screen}-{scheme}-stopped")


async def test_what_is_cut_is_red_and_named_in_the_last_line(browser: Browser) -> None:
    port = free_port()
    with trio.fail_after(TIMEOUT):
        async with open_program(program(port, grace=1.5)) as shop:
            await shop.line_with("shop: ready")
            await browser.open(port)
            await browser.until(text("state"), lambda said: said == "running")
            shop.signal(signal.SIGTERM)
            verdict = await browser.until(text("verdict"), bool)
            assert str(verdict).endswith("(exit code 0; cut: till)")
            assert await browser.run("return document.getElementById('verdict').className") == "bad"
            assert await browser.run(f"return {of_row('till', '.bar')}.className") == "bar cut"
            assert await shop.exit_code() == 0


async def test_who_has_not_stopped_when_all_is_cut_is_named_in_the_last_line(
    browser: Browser,
) -> None:
    port = free_port()
    deaf = "with trio.CancelScope(shield=True):\n                await self.done.wait()"
    command = [part.replace("await self.done.wait()", deaf) for part in program(port, grace=0.5)]
    with trio.fail_after(TIMEOUT):
        async with open_program(command) as shop:
            await shop.line_with("shop: ready")
            await browser.open(port)
            await browser.until(text("state"), lambda said: said == "running")
            shop.signal(signal.SIGTERM)
            verdict = await browser.until(text("verdict"), bool)
            assert "shop was cut after 0.5" in str(verdict)
            assert str(verdict).endswith(" s, still waiting for till: SIGTERM received")
            assert await browser.run(f"return {text('state')}") == "cut"
            shop.signal(signal.SIGUSR1)
            await shop.exit_code()


async def test_the_button_stops_it_after_a_question_and_the_page_comes_back(
    browser: Browser,
) -> None:
    port = free_port()
    with trio.fail_after(TIMEOUT):
        async with open_program(program(port)) as shop:
            await shop.line_with("shop: ready")
            await browser.open(port)
            await browser.until(text("state"), lambda said: said == "running")
            await browser.run("confirm = () => false; document.getElementById('stop').click()")
            await browser.run("confirm = () => true; document.getElementById('stop').click()")
            await browser.until(text("state"), lambda said: said == "stopping")
            assert await browser.run("return document.getElementById('stop').hidden")
            shop.signal(signal.SIGUSR1)
            assert await shop.exit_code() == 0
        assert shop.output.count("a stop was requested on the status page by 127.0.0.1") >= 1
        async with open_program(program(port)) as shop:  # which has a token of its own
            await browser.until(text("state"), lambda said: said == "running")
            await browser.run("confirm = () => true; document.getElementById('stop').click()")
            await browser.until(text("state"), lambda said: said == "stopping")
            shop.signal(signal.SIGKILL)
            await browser.until(text("link"), lambda said: "Trying again" in str(said))
            assert "ERR_INCOMPLETE_CHUNKED_ENCODING" in "".join(browser.complaints())


async def test_a_time_is_shown_only_where_it_is_known(browser: Browser) -> None:
    port = free_port()
    with trio.fail_after(TIMEOUT):
        async with open_program(program(port)) as shop:
            await shop.line_with("shop: ready")
            await browser.open(port)
            await browser.until(text("state"), lambda said: said == "running")
            what = "return whatOf({actor: {...shown.actors[0], ...arguments[0]}, group: shown})"
            assert await browser.run(what, {"fit": False}) == ["not ready", "", "wait"]
            assert await browser.run(what, {"state": "starting"}) == ["starting", "", "wait"]
            running = await browser.run(what, {})
            assert isinstance(running, list)
            assert running[0] == "running"
            assert running[1].endswith(" s")
            shop.signal(signal.SIGUSR1)
            shop.signal(signal.SIGTERM)
            assert await shop.exit_code() == 0


async def test_of_a_page_of_another_site_nothing_is_to_be_had(browser: Browser) -> None:
    """Its name leads here, as with DNS rebinding; and it may send a POST."""
    port = free_port()
    with trio.fail_after(TIMEOUT):
        async with open_program(program(port)) as shop:
            await shop.line_with("shop: ready")
            foreign = "http://foreign.localhost"  # Chromium takes it for this machine
            await browser.open(port, foreign)
            assert "no name of this machine" in str(
                await browser.run("return document.body.textContent")
            )
            sent = (
                f"return fetch('http://127.0.0.1:{port}/stop', {{method: 'POST', mode: 'no-cors'}})"
                ".then(() => 'sent')"
            )
            assert await browser.run(sent) == "sent"
            assert "stopping" not in shop.output
            browser.complaints()  # of the 403
            shop.signal(signal.SIGUSR1)
            shop.signal(signal.SIGTERM)
            assert await shop.exit_code() == 0


async def check_looks(browser: Browser, screen: str) -> None:
    """Nothing has to be scrolled sideways, and all text stands out, by 4.5 to 1."""
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert int(str(await browser.run(overflow))) <= 0
    contrast = """
        const luminance = color => color.match(/[0-9.]+/g).slice(0, 3)
            .map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
            .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
        const paper = luminance(getComputedStyle(document.body).backgroundColor);
        const all = 'h1, h2, #state, #about, .name, .what b, .what span, .detail, li, time';
        return [...document.querySelectorAll(all)].map(element => {
            const ink = luminance(getComputedStyle(element).color);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        });
    """
    contrasts = await browser.run(contrast)
    assert isinstance(contrasts, list)
    assert len(contrasts) > 20
    assert min(contrasts) >= 4.5


def take_picture(browser: Browser, name: str) -> None:
    """For who wants to look, into the folder of that variable."""
    if folder := os.environ.get("SCREENSHOTS"):
        browser.driver.save_screenshot(f"{folder}/{name}.png")
