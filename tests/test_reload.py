"""``python -m trio_run serve --reload``: when the server begins anew, and who answers meanwhile."""

import os
import signal
import sys
from pathlib import Path

import httpx
import pytest
import trio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from trio_run import Group, _serve, busy
from trio_run._reload import Reload
from trio_run.testing import Program, open_program, running

from . import TIMEOUT
from .programs import script
from .shop import SHOP, get, serve, stop, url_of, write_shop

pytest.importorskip("watchfiles", reason="it is what looks for changes")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="it needs signals")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path)


def reloading(directory: Path, *arguments: str) -> list[str]:
    return serve(directory, "shop:app", "--port", "0", "--reload", *arguments)


async def text_of(url: str) -> str:
    return (await get(f"{url}/a")).text


def change(shop: Path, what: str) -> None:
    write_shop(shop, SHOP.replace('scope["scheme"] + " "', f'"{what} "'))


async def begins_anew(program: Program, times: int) -> None:
    with trio.fail_after(TIMEOUT):
        while program.output.count("has changed: beginning anew\n") < times:
            await trio.sleep(0.01)


async def test_whoever_asks_after_a_change_gets_the_new_code(shop: Path) -> None:
    async with open_program(reloading(shop)) as program:
        url = await url_of(program)
        assert await text_of(url) == "http /a"
        for times, what in enumerate(("one", "two"), 1):
            change(shop, what)
            await begins_anew(program, times)
            await program.line_with(f"'server {times}' stopped alone: returned")
            assert await text_of(url) == f"{what} /a"
        await stop(program)
    assert f"reload: {shop}/shop.py has changed" in program.output
    assert "Traceback" not in program.output


async def test_a_request_in_work_is_answered_by_the_old_code(shop: Path) -> None:
    gate = shop / "gate"
    wait = f"""
    import trio
    print("in work", flush=True)
    while not os.path.exists({str(gate)!r}):
        await trio.sleep(0.01)
"""
    write_shop(shop, SHOP.replace("    body =", wait + "    body =", 1))
    patient = f"""
        import sys
        from trio_run import _reload, _serve
        _reload._OLD = {TIMEOUT}
        sys.argv[1:] = {reloading(shop)[6:]!r}
        sys.exit(_serve.main(sys.argv[1:]))
    """
    async with open_program(script(patient)) as program:
        url = await url_of(program)

        async def ask() -> None:
            assert await text_of(url) == "http /a"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await program.line_with("in work")
            change(shop, "new")
            await program.line_with("]: stopping: SIGTERM")
            assert await text_of(url) == "new /a"
            gate.touch()
        await stop(program)


async def test_an_old_server_with_a_stream_without_an_end_is_soon_killed(shop: Path) -> None:
    stream = SHOP.replace(
        "async def app",
        """
import trio
async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        await trio.sleep(0.1)

async def app""",
    ).replace(
        "    body =",
        '    if scope["path"] == "/stream": await stream(scope, receive, send)\n    body =',
        1,
    )
    write_shop(shop, stream)
    async with open_program(reloading(shop)) as program:
        url = await url_of(program)
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            async with client.stream("GET", f"{url}/stream") as answer:
                assert answer.status_code == 200
                change(shop, "new")
                assert "reload: the old server was killed" in await program.line_with("killed")
        assert await text_of(url) == "new /a"
        await stop(program)


async def test_code_that_does_not_run_is_said_until_it_is_mended(shop: Path) -> None:
    async with open_program(reloading(shop)) as program:
        url = await url_of(program)
        write_shop(shop, "no Python\n")
        await program.line_with("SyntaxError: ")
        await program.line_with("before it was ready; waiting for a change")
        for _ in range(2):
            answer = await get(f"{url}/a")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "The app does not run" in answer.text
        with pytest.raises(InvalidStatus, match="403"):
            await trio.to_thread.run_sync(connect, url.replace("http", "ws"))
        change(shop, "mended")
        await begins_anew(program, 2)
        await program.line_with("'sorry' stopped alone: returned")
        assert await text_of(url) == "mended /a"
        await stop(program)


async def test_code_that_does_not_run_at_the_start_is_waited_for_too(shop: Path) -> None:
    write_shop(shop, "no Python\n")
    async with open_program(reloading(shop)) as program:
        await program.line_with("waiting for a change")
        change(shop, "mended")
        url = await url_of(program)
        await program.line_with("'sorry' stopped alone")
        assert await text_of(url) == "mended /a"
        await stop(program)


async def test_a_server_that_ends_by_itself_is_begun_anew_at_the_next_change(shop: Path) -> None:
    async with open_program(reloading(shop)) as program:
        url = await url_of(program)
        with pytest.raises(httpx.RemoteProtocolError):
            await get(f"{url}/end?0")
        await program.line_with("; waiting for a change")
        change(shop, "mended")
        await program.line_with("'sorry' stopped alone")
        assert await text_of(url) == "mended /a"
        await stop(program)


async def test_sighup_begins_it_anew_without_a_change(shop: Path) -> None:
    async with open_program(reloading(shop)) as program:
        url = await url_of(program)
        first = (await get(f"{url}/pid")).text
        program.signal(signal.SIGHUP)
        await program.line_with("'server 1' stopped alone: returned")
        assert (await get(f"{url}/pid")).text != first
        await stop(program)


async def test_other_files_count_where_they_are_included(shop: Path, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    arguments = ["--reload-dir", str(pages), "--reload-include", "*.html"]
    async with open_program(reloading(shop, *arguments)) as program:
        await url_of(program)
        (pages / "notes.txt").touch()
        change(shop, "elsewhere")
        with trio.fail_after(TIMEOUT):
            while f"{pages}/page.html has changed" not in program.output:
                (pages / "page.html").touch()
                await trio.sleep(0.1)
        await program.line_with("'server 1' stopped alone: returned")
        await stop(program)
    assert "notes.txt" not in program.output
    assert "shop.py" not in program.output


async def test_an_app_that_is_not_there_is_a_sentence(shop: Path) -> None:
    write_shop(shop, "")
    async with open_program(reloading(shop)) as program:
        assert await program.exit_code() == 2
    assert "the module 'shop' has no 'app'\n" in program.output
    assert "Traceback" not in program.output


async def test_a_stop_while_nothing_runs_ends_it(shop: Path) -> None:
    write_shop(shop, "no Python\n")
    async with open_program(reloading(shop)) as program:
        await program.line_with("waiting for a change")
        await stop(program)


async def test_nothing_is_begun_anew_in_a_stop(tmp_path: Path) -> None:
    serving = script("import trio, trio_run; trio_run.run(trio.sleep_forever)")
    reload = Reload(
        serving, {}, directories=[str(tmp_path)], patterns=[], ssl_context=None, grace=30
    )
    group = Group()
    member = group.add(reload)

    async def needs_it() -> None:  # so its server ends before it is interrupted itself
        with busy():
            await member.wait_stopped()

    group.add(needs_it, needs=[member])
    async with running(group):
        pass
    assert [each.name for each in group.report.actors] == ["reload", "needs_it", "server 1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workers", "2"], "--reload is for one process: leave --workers out"),
        (["--reload-dir", "nowhere"], "--reload-dir 'nowhere' is no directory"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(
    shop: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _serve.main(["shop:app", "--port", "0", "--reload", *arguments]) == 2
    assert capsys.readouterr().err == f"{sentence}\n"


def test_without_watchfiles_it_says_which_extra_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert _serve.main(["shop:app", "--port", "0", "--reload"]) == 2
    said = capsys.readouterr().err
    assert said == "--reload needs watchfiles: pip install 'trio-run[reload]'\n"
