"""``python -m trio_run serve``: which app it serves, where, and what it says if it can't."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from trio_run import _serve
from trio_run.testing import Program, open_program

from .programs import python, script

SHOP = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        body = (scope["scheme"] + " " + scope["path"]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    class site:
        app = app

    def make():
        return app

    nothing = None
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    lines = [line[4:] for line in SHOP.splitlines()]
    (tmp_path / "shop.py").write_text("\n".join(lines))
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    return tmp_path


def serve(directory: Path, *arguments: str) -> list[str]:
    return python("-W", "error", "-m", "trio_run", "serve", "--app-dir", str(directory), *arguments)


async def url_of(program: Program) -> str:
    return (await program.line_with("serving at ")).split("serving at ")[1].strip()


async def get(url: str, **options: object) -> httpx.Response:
    async with httpx.AsyncClient(**options) as client:  # type: ignore[arg-type]
        return await client.get(url)


@pytest.mark.parametrize("app", [["shop:app"], ["shop:site.app"], ["shop:make", "--factory"]])
async def test_an_app_is_served_until_a_signal_comes(shop: Path, app: list[str]) -> None:
    async with open_program(serve(shop, *app, "--port", "0")) as program:
        url = await url_of(program)
        assert url.startswith("http://127.0.0.1:")
        assert (await get(f"{url}/a")).text == "http /a"
        assert '"GET /a HTTP/1.1" 200' in await program.line_with("GET /a")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0
    assert f"{app[0]} stopped in" in program.report
    assert "Traceback" not in program.output


async def test_it_listens_on_a_unix_socket(shop: Path) -> None:
    path = shop / "socket"
    arguments = ["shop:app", "--uds", str(path), "--uds-mode", "660", "--no-access-log"]
    async with open_program(serve(shop, *arguments)) as program:
        assert await url_of(program) == f"http://{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        assert (await get("http://shop/a", transport=transport)).text == "http /a"
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0
    assert "GET /a" not in program.output


async def test_it_serves_tls(shop: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    arguments = ["shop:app", "--port", "0", "--host", "localhost", "--ssl-certfile"]
    async with open_program(serve(shop, *arguments, str(tmp_path / "pem"))) as program:
        port = (await url_of(program)).rpartition(":")[2]
        context = ssl.create_default_context(cafile=str(tmp_path / "ca"))
        answer = await get(f"https://localhost:{port}/a", verify=context)
        assert answer.text == "https /a"


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="descriptors are handed over there")
async def test_it_serves_on_what_a_service_manager_hands_over(shop: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        handing_over = f"""
            import os
            os.dup2({listening.fileno()}, 3)
            os.environ |= {{"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}}
            command = {serve(shop, "shop:app")!r}
            os.execv(command[0], command)
        """
        process = await trio.lowlevel.open_process(
            script(handing_over), pass_fds=[listening.fileno()], stderr=subprocess.DEVNULL
        )
    try:
        assert (await get(f"http://127.0.0.1:{port}/a")).text == "http /a"
    finally:
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["shop"], "'shop' names no app: write MODULE:APP, as in shop.web:app"),
        (["shop:"], "'shop:' names no app: write MODULE:APP, as in shop.web:app"),
        (["ship:app"], "there is no module 'ship' in DIR: --app-dir says where to look"),
        (["shop.web:app"], "there is no module 'shop.web' in DIR: --app-dir says where to look"),
        (["shop:ap"], "the module 'shop' has no 'ap'"),
        (["shop:site.ap"], "the module 'shop' has no 'site.ap'"),
        (["shop:nothing"], "shop:nothing is no ASGI app: it can't be called"),
        (["shop:nothing", "--factory"], "shop:nothing is no factory: it can't be called"),
        (
            ["shop:app", "--uds", "socket", "--port", "80"],
            "--uds takes the place of --host and --port: give it alone",
        ),
        (["shop:app", "--ssl-keyfile", "key"], "--ssl-keyfile goes with --ssl-certfile"),
        (
            ["shop:app", "--ssl-certfile", "no", "--ssl-keyfile", "key"],
            "no certificate can be read from no and key: [Errno 2] No such file or directory",
        ),
        (
            ["shop:app", "--max-connections", "0"],
            "max_connections must be a positive whole number or None, not 0",
        ),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    arguments: list[str],
    sentence: str,
    shop: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    assert _serve.main(["--app-dir", str(shop), *arguments]) == 2
    assert capsys.readouterr().err == sentence.replace("DIR", str(shop)) + "\n"


def test_a_certificate_and_times_do_not_make_up_for_what_is_wrong(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    pem = shop / "pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    arguments = ["--ssl-certfile", str(pem), "--grace", "5", "--lame-duck", "1", "--backlog", "0"]
    assert _serve.main(["shop:app", "--app-dir", str(shop), *arguments]) == 2
    assert "backlog must be a positive whole number" in capsys.readouterr().err


async def test_what_the_module_itself_raises_is_shown_whole(shop: Path) -> None:
    async with open_program(serve(shop, "broken:app")) as program:
        assert await program.exit_code() == 1
    assert "No module named 'no_such_thing'" in program.output
    assert "Traceback" in program.output


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--grace", "-1", "'-1' is no number of seconds"),
        ("--grace", "nan", "'nan' is no number of seconds"),
        ("--grace", "soon", "'soon' is no number of seconds"),
        ("--uds-mode", "rw", "'rw' are no permissions: 660, say"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_sentence(
    option: str, value: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        _serve.main(["shop:app", f"{option}={value}"])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


async def test_a_port_in_use_is_one_sentence(shop: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with open_program(serve(shop, "shop:app", "--port", port)) as program:
            assert await program.exit_code() == 1
    assert "Traceback" not in program.output
    assert port in program.output
