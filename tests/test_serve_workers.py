"""``python -m trio_run serve --workers``: who serves, what the signals do, and what clients see."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from trio_run import _parent, _serve
from trio_run.testing import open_program

from . import TIMEOUT
from .ports import free_port
from .programs import script
from .shop import SHOP, get, gone, serve, stop, url_of, write_shop

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need signals")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path)


async def pids(url: str, count: int) -> set[int]:
    """Those who answer, as soon as there are so many."""
    found: set[int] = set()
    with trio.fail_after(TIMEOUT):
        while len(found) < count:
            found.add(int((await get(f"{url}/pid")).text))
    return found


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[list[str]]:
    """Clients that ask all the time, on connections that they keep. Each has to be answered."""
    answers: list[str] = []

    async def ask() -> None:
        # A connection that ends before the next request is not used again; one at that very moment
        # is tried once more, as most clients do for a GET.
        transport = httpx.AsyncHTTPTransport(retries=1)
        async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as client:
            while True:
                try:
                    answer = await client.get(f"{url}/a")
                except (httpx.RemoteProtocolError, httpx.ReadError):
                    answer = await client.get(f"{url}/a")
                assert answer.status_code == 200
                answers.append(answer.text)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask)
        yield answers
        nursery.cancel_scope.cancel()


async def test_sighup_replaces_each_by_the_code_that_is_on_disk_and_nobody_is_refused(
    shop: Path,
) -> None:
    command = serve(shop, "shop:app", "--port", "0", "--workers", "2", "--no-access-log")
    async with open_program(command) as program:
        url = await url_of(program)
        assert url.startswith("http://127.0.0.1:")
        first = await pids(url, 2)
        async with asking(url) as answers:
            (shop / "shop.py").write_text(SHOP.replace('scope["scheme"] + " "', '"new "'))
            program.signal(signal.SIGHUP)
            await gone(first)
            answers.clear()
            with trio.fail_after(TIMEOUT):
                while len(answers) < 100:
                    await trio.sleep(0.01)
        assert set(answers) == {"new /a"}
        await pids(url, 2)
        await stop(program)
    assert "\nshop:app stopped in " in program.output
    assert program.output.count("stopped in") == 1
    assert "Traceback" not in program.output


@pytest.mark.parametrize("app_dir", [".", "web"])
async def test_a_release_by_a_symbolic_link_is_followed(tmp_path: Path, app_dir: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name / app_dir).mkdir(parents=True)
        write_shop(tmp_path / name / app_dir, SHOP.replace('scope["scheme"]', repr(name)))
    current = tmp_path / "current"
    current.symlink_to("one")
    command = serve(Path(app_dir), "shop:app", "--port", "0", "--workers", "1")
    # A shell sets PWD, and knows the link by which it has come there.
    command = ["sh", "-c", f'cd {current}; exec "$@"', "sh", *command]
    async with open_program(command) as program:
        url = await url_of(program)
        assert (await get(f"{url}/a")).text == "one /a"
        first = await pids(url, 1)
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(current)
        shutil.rmtree(tmp_path / "one")
        program.signal(signal.SIGHUP)
        await gone(first)
        assert (await get(f"{url}/a")).text == "two /a"
        await stop(program)


@pytest.mark.parametrize("named", [None, "/nowhere", "/"])
def test_a_name_of_another_directory_is_none_of_ours(
    named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PWD", raising=False)
    if named is not None:
        monkeypatch.setenv("PWD", named)
    assert _parent._directory() is None


async def test_a_worker_has_a_report_where_something_was_cut_or_at_debug(shop: Path) -> None:
    (shop / "slow.py").write_text(
        "import trio\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http':\n"
        "        await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "        await send({'type': 'http.response.body', 'body': b'a', 'more_body': True})\n"
        "        await trio.sleep_forever()\n"
    )
    command = serve(shop, "slow:app", "--port", "0", "--workers", "1", "--grace", "0.5")
    async with open_program(command) as program:
        url = await url_of(program)
        port = int(url.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            await client.receive_some()
            await stop(program)
    assert re.search(
        r"^slow:app\[\d+\] stopped in .*^http .* cut +0 drained, 1 cut$",
        program.output,
        re.MULTILINE | re.DOTALL,
    )
    assert program.output.count("stopped in") == 2
    async with open_program([*command, "--log-level", "debug"]) as program:
        await url_of(program)
        await stop(program)
    assert program.output.count("stopped in") == 2


async def test_sigttin_and_sigttou_are_for_one_more_and_one_fewer(shop: Path) -> None:
    port = str(free_port())
    command = serve(shop, "shop:app", "--port", "0", "--workers", "1", "--status-port", port)

    async def workers(count: int) -> None:
        with trio.fail_after(TIMEOUT):
            while True:
                status = json.loads((await get(f"http://127.0.0.1:{port}/status")).text)
                [actor] = [each for each in status["actors"] if each["name"] == "workers"]
                if actor["detail"].startswith(f"{count} worker"):
                    return
                await trio.sleep(0.01)

    async with open_program(command) as program:
        await url_of(program)
        program.signal(signal.SIGTTIN)
        await workers(2)
        program.signal(signal.SIGTTOU)
        await workers(1)
        await stop(program)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ship:app"], "there is no module 'ship' in "),
        (["shop:ap"], "the module 'shop' has no 'ap'"),
        (["shop:app", "--ssl-certfile", "no"], "no certificate can be read from no: "),
    ],
)
async def test_what_no_worker_can_serve_is_said_once(
    shop: Path, arguments: list[str], sentence: str
) -> None:
    command = serve(shop, *arguments, "--port", "0", "--workers", "3")
    async with open_program(command) as program:
        assert await program.exit_code() == 2
    assert program.output.count(sentence) == 1
    assert "Traceback" not in program.output


async def test_a_port_in_use_is_said_once(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = serve(shop, "shop:app", "--port", port, "--workers", "2")
        async with open_program(command) as program:
            assert await program.exit_code() == 2
    assert program.output == (
        f"cannot listen on 127.0.0.1:{port}: it is in use; stop the process that listens there, "
        "or choose another\n"
    )


async def test_a_path_that_cannot_be_one_is_a_sentence(shop: Path) -> None:
    async with open_program(serve(shop, "shop:app", "--uds", "x" * 108, "--workers", "2")) as it:
        assert await it.exit_code() == 2
    assert it.output.startswith("the path of a Unix socket can have 107 bytes")


async def test_a_unix_socket_is_there_as_long_as_the_parent_serves(shop: Path) -> None:
    path = shop / "socket"
    command = serve(shop, "shop:app", "--uds", str(path), "--uds-mode", "660", "--workers", "2")
    async with open_program(command) as program:
        assert await url_of(program) == f"http://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        assert (await get("http://shop/a", transport=transport)).text == "http /a"
        await stop(program)
    assert not path.exists()
    assert "Traceback" not in program.output


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_sockets_that_were_handed_over_are_the_workers(
    shop: Path, family: socket.AddressFamily
) -> None:
    path = str(shop / "socket")
    with socket.socket(family) as listening:
        listening.bind(("127.0.0.1", 0) if family == socket.AF_INET else path)
        listening.listen()
        handing_over = f"""
            import os
            os.dup2({listening.fileno()}, 3)
            os.environ |= {{"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}}
            command = {serve(shop, "shop:app", "--workers", "1")!r}
            os.execv(command[0], command)
        """
        name = listening.getsockname()
        process = await trio.lowlevel.open_process(
            script(handing_over), pass_fds=[listening.fileno()]
        )
    try:
        if family == socket.AF_INET:
            assert (await get(f"http://127.0.0.1:{name[1]}/a")).text == "http /a"
        else:
            transport = httpx.AsyncHTTPTransport(uds=path)
            assert (await get("http://shop/a", transport=transport)).text == "http /a"
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_while_workers_are_lame_ducks_newcomers_are_served_and_then_refused(
    shop: Path,
) -> None:
    command = serve(shop, "shop:app", "--port", "0", "--workers", "1", "--lame-duck", "1")
    async with open_program(command) as program:
        url = await url_of(program)
        program.signal(signal.SIGTERM)
        await program.line_with("]: stopping: SIGTERM")
        assert (await get(f"{url}/a")).headers["connection"] == "close"
        assert await program.exit_code() == 0
        with pytest.raises(httpx.ConnectError):
            await get(f"{url}/a")


@pytest.mark.parametrize("how", [["--workers", "1"], ["--reload"]])
async def test_the_app_may_come_after_two_dashes(shop: Path, how: list[str]) -> None:
    command = serve(shop, "--port", "0", *how, "--lame-duck", "20", "--", "shop:app")
    async with open_program(command) as program:
        url = await url_of(program)
        assert (await get(f"{url}/a")).text == "http /a"
        if how == ["--reload"]:
            await stop(program)  # without a lame duck


async def test_a_worker_that_ends_is_begun_anew(shop: Path) -> None:
    command = serve(shop, "shop:app", "--port", "0", "--workers", "1", "--no-access-log")
    async with open_program(command) as program:
        url = await url_of(program)
        first = await pids(url, 1)
        with pytest.raises(httpx.RemoteProtocolError):
            await get(f"{url}/end?7")
        assert not first & await pids(url, 1)  # it has waited in the kernel's queue
        await stop(program)


async def test_a_signal_to_all_of_them_is_for_the_parent(shop: Path) -> None:
    (shop / "slow.py").write_text(
        "import shop, trio\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http' and scope['path'] == '/slow':\n"
        "        print('asked')\n"
        "        await trio.sleep(0.5)\n"
        "    await shop.app(scope, receive, send)\n"
    )
    command = serve(shop, "slow:app", "--port", "0", "--workers", "1", "--no-access-log")
    async with open_program(command) as program:
        url = await url_of(program)
        [worker] = await pids(url, 1)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert (await get(f"{url}/slow")).text == "http /slow"

            nursery.start_soon(ask)
            await program.line_with("asked")
            os.kill(worker, signal.SIGHUP)
        assert await pids(url, 1) == {worker}
        await stop(program)


async def test_an_option_of_python_is_the_workers_too(shop: Path) -> None:
    (shop / "dev.py").write_text(
        "import sys\nfrom shop import app\nprint('dev', sys.flags.dev_mode)\n"
    )
    command = serve(shop, "dev:app", "--port", "0", "--workers", "1")
    async with open_program([command[0], "-X", "dev", *command[3:]]) as program:
        await program.line_with("dev True")
        await url_of(program)
        await stop(program)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("python -m trio_run serve -W x", []),
        ("python -Im trio_run serve", ["-I"]),
        ("python -X dev -Wd -bbu -m trio_run serve", ["-X", "dev", "-W", "d", "-b", "-b", "-u"]),
        (
            "python --check-hash-based-pycs never -m trio_run serve",
            ["--check-hash-based-pycs", "never"],
        ),
        ("python -W ignore /x/run.py -m serve", ["-W", "ignore"]),
        ("python -O -c pass serve", ["-O"]),
    ],
)
def test_which_options_are_pythons_own(
    line: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = line.split()
    own = next(at for at, word in enumerate(words) if word in ("trio_run", "/x/run.py", "pass"))
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.setattr(sys, "argv", words[own:])
    assert _serve._interpreter_options() == options


async def test_it_needs_an_extra_for_the_status_page(shop: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "httptools.py").write_text("raise ImportError('no')\n")
    command = serve(shop, "shop:app", "--port", "0", "--workers", "1", "--status-port", "0")
    env = {**os.environ, "PYTHONPATH": str(missing)}
    async with open_program(command, env=env) as program:
        assert await program.exit_code() == 2
    assert "pip install 'trio-run[http]'" in program.output
