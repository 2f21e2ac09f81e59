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
from cryptography.hazmat.primitives import serialization

from trio_run import _serve, _supervise
from trio_run.testing import open_program

from .ports import free_port
from .programs import script
from .shop import get, serve, stop, url_of, write_shop


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    return write_shop(tmp_path)


@pytest.mark.parametrize("app", [["shop:app"], ["shop:site.app"], ["shop:make", "--factory"]])
async def test_an_app_is_served_until_a_signal_comes(shop: Path, app: list[str]) -> None:
    async with open_program(serve(shop, *app, "--port", "0")) as program:
        url = await url_of(program)
        assert url.startswith("http://127.0.0.1:")
        assert (await get(f"{url}/a")).text == "http /a"
        assert '"GET /a HTTP/1.1" 200' in await program.line_with("GET /a")
        await stop(program)
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
        await stop(program)
    assert "GET /a" not in program.output


@pytest.mark.parametrize(
    ("options", "environment", "client", "scheme"),
    [
        ([], {}, "192.0.2.7", "https"),
        ([], {"FORWARDED_ALLOW_IPS": "10.0.0.0/8"}, "127.0.0.1", "http"),
        (["--forwarded-allow-ips", "*"], {"FORWARDED_ALLOW_IPS": ""}, "192.0.2.7", "https"),
        (["--forwarded-allow-ips", ""], {}, "127.0.0.1", "http"),
    ],
)
async def test_it_believes_the_proxies_that_it_is_told(
    shop: Path, options: list[str], environment: dict[str, str], client: str, scheme: str
) -> None:
    arguments = serve(shop, "shop:app", "--port", "0", *options)
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    async with open_program(arguments, env=os.environ | environment) as program:
        url = await url_of(program)
        assert (await get(f"{url}/a", headers=headers)).text == f"{scheme} /a"
        assert client in await program.line_with("GET /a")
        await stop(program)


async def test_a_connection_has_an_age_and_a_number_of_requests(shop: Path) -> None:
    limits = ["--max-requests", "2", "--max-age", "1000"]
    async with open_program(serve(shop, "shop:app", "--port", "0", *limits)) as program:
        url = await url_of(program)
        async with httpx.AsyncClient() as client:
            ends = [(await client.get(f"{url}/a")).headers.get("connection") for _ in range(4)]
        assert ends == [None, "close", None, "close"]
        await stop(program)


async def test_it_takes_the_header_of_a_proxy(shop: Path) -> None:
    async with open_program(serve(shop, "shop:app", "--port", "0", "--proxy-protocol")) as program:
        port = int((await url_of(program)).rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 80\r\n")
            await stream.send_all(b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK")
        assert "192.0.2.7:56324" in await program.line_with("GET /a")
        await stop(program)


async def test_it_serves_those_who_have_a_certificate(shop: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    )
    (tmp_path / "key").write_bytes(encrypted)
    files = {
        "--ssl-certfile": tmp_path / "cert",
        "--ssl-keyfile": tmp_path / "key",
        "--ssl-keyfile-password": "sesame",
        "--ssl-ca-certs": tmp_path / "ca",
    }
    options = [str(word) for option in files.items() for word in option]
    arguments = ["shop:app", "--port", "0", "--host", "localhost", *options]
    async with open_program(serve(shop, *arguments)) as program:
        port = (await url_of(program)).rpartition(":")[2]
        context = ssl.create_default_context(cafile=str(tmp_path / "ca"))
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await get(f"https://localhost:{port}/a", verify=context)
        authority.issue_cert("me@example.org").configure_cert(context)
        assert (await get(f"https://localhost:{port}/a", verify=context)).text == "https /a"
        await stop(program)


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
        await stop(program)


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
            "--host and --port, --uds and --fd say where to listen: give one of them",
        ),
        (
            ["shop:app", "--fd", "99999"],
            "--fd 99999 is no socket of this process: Bad file descriptor",
        ),
        (["shop:app", "--ssl-keyfile", "key"], "--ssl-keyfile goes with --ssl-certfile"),
        (["shop:app", "--ssl-ca-certs", "ca"], "--ssl-ca-certs goes with --ssl-certfile"),
        (
            ["shop:app", "--root-path", "shop/"],
            "--root-path 'shop/' must begin with a slash and end without one: /shop",
        ),
        (
            ["shop:app", "--ssl-certfile", "no", "--ssl-keyfile", "key"],
            "no certificate can be read from no and key: [Errno 2] No such file or directory",
        ),
        (
            ["shop:app", "--lame-duck", "40"],
            (
                "lame_duck=40 leaves nothing of grace=30, "
                "which bounds the whole stop: make the grace longer"
            ),
        ),
        (
            ["shop:app", "--uds", "x" * 108],
            "the path of a Unix socket can have 107 bytes, and this one has 108: '"
            + "x" * 108
            + "'",
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


def test_a_certificate_that_nobody_can_read_is_one_sentence(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    pem = shop / "pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    arguments = ["--ssl-certfile", str(pem), "--ssl-ca-certs", str(shop / "shop.py")]
    assert _serve.main(["shop:app", "--app-dir", str(shop), *arguments]) == 2
    assert f"no certificates can be read from {shop}/shop.py: " in capsys.readouterr().err


def test_a_directory_that_is_gone_is_one_sentence(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = shop / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert _serve.main(["shop:app"]) == 2
    assert capsys.readouterr().err == "there is no directory '.': No such file or directory\n"


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("import no_such_thing\n", "Traceback ", "Error: No module named 'no_such_thing'\n"),
        ("def app(:\n", '  File "FILE", line 1\n', "SyntaxError: invalid syntax\n"),
    ],
)
async def test_what_the_module_itself_raises_is_shown_from_there_on(
    shop: Path, text: str, begin: str, end: str
) -> None:
    file = shop / "broken.py"
    file.write_text(text)
    async with open_program(serve(shop, "broken:app")) as program:
        assert await program.exit_code() == 1
    assert program.output.startswith(begin.replace("FILE", str(file)))
    assert program.output.endswith(end)
    assert program.output.count("  File ") == 1


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--grace", "-1", "'-1' is no number of seconds"),
        ("--grace", "nan", "'nan' is no number of seconds"),
        ("--stuck-after", "0", "'0' is no number of seconds greater than 0"),
        ("--grace", "soon", "'soon' is no number of seconds"),
        ("--uds-mode", "rw", "'rw' are no permissions: 660, say"),
        ("--port", "65536", "'65536' is no port: a whole number from 0 to 65535"),
        ("--port", "-1", "'-1' is no port: a whole number from 0 to 65535"),
        ("--backlog", "0", "'0' is no whole number from 1 on"),
        ("--backlog", "many", "'many' is no whole number from 1 on"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_sentence(
    option: str, value: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        _serve.main(["shop:app", f"{option}={value}"])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("app", ["shop:app", "long:app"])
@pytest.mark.parametrize("what", ["--port", "--status-port"])
async def test_a_port_in_use_is_one_sentence(what: str, app: str, shop: Path) -> None:
    (shop / "long.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.shutdown.complete'})\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--port": "0", what: port}
        arguments = [word for option in ports.items() for word in option]
        async with open_program(serve(shop, app, *arguments)) as program:
            assert await program.exit_code() == 2
    assert program.output == (
        f"cannot listen on 127.0.0.1:{port}: it is in use; stop the process that listens there, "
        "or choose another\n"
    )


async def test_an_app_that_fails_later_is_a_failure(shop: Path) -> None:
    (shop / "late.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    raise ValueError('too late')\n"
    )
    async with open_program(serve(shop, "late:app", "--port", "0")) as program:
        assert await program.exit_code() == 1
    assert "ValueError: too late" in program.output


async def test_the_level_of_the_log_can_be_set(shop: Path) -> None:
    port = str(free_port())
    arguments = ["shop:app", "--port", port, "--log-level", "warning", "--grace", "5"]
    async with open_program(serve(shop, *arguments)) as program:
        transport = httpx.AsyncHTTPTransport(retries=10)  # it says nowhere when it listens
        assert (await get(f"http://127.0.0.1:{port}/a", transport=transport)).text == "http /a"
        await stop(program)
    assert program.output == ""


EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
INI = """
[loggers]
keys=root
[handlers]
keys=stderr
[formatters]
keys=line
[logger_root]
level=INFO
handlers=stderr
[handler_stderr]
class=StreamHandler
formatter=line
args=(sys.stderr,)
[formatter_line]
format=INI %(message)s
"""


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
@pytest.mark.parametrize("name", ["logging.json", "logging.ini"])
async def test_logging_may_be_set_up_by_a_file(name: str, workers: list[str], shop: Path) -> None:
    file = shop / name
    shown = (EXAMPLES / "logging.json").read_text().replace("%(asctime)s", "JSON")
    file.write_text(shown if name.endswith("json") else INI)
    arguments = ["shop:app", "--port", "0", *workers, "--log-config", str(file)]
    async with open_program(serve(shop, *arguments)) as program:
        url = (await program.line_with("serving at ")).split("serving at ")[1].strip()
        await get(f"{url}/a")
        await program.line_with('"GET /a HTTP/1.1" 200')
        await stop(program)
    lines = program.output.partition("actor ")[0].splitlines()  # the report has several
    assert len(lines) > 4
    assert {line.split()[0] for line in lines} == {file.suffix[1:].upper()}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("none.json", None, "FileNotFoundError: "),
        ("none.ini", None, "FileNotFoundError: "),
        ("a.json", "{", "JSONDecodeError: "),
        ("a.json", "[]", "TypeError: "),
        ("a.json", "{}", "ValueError: dictionary doesn't specify a version"),
        ("a.yaml", "version: 1", ""),
    ],
)
def test_a_file_that_sets_up_no_logging_is_a_sentence(
    name: str, text: str | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    for begin in (lambda option: _serve.main(["shop:app", *option]), _supervise_with):
        assert begin(["--log-config", str(file)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"no logging can be set up by {file}: {why}")
        assert said.count("\n") == 1


def _supervise_with(option: list[str]) -> int:
    return _supervise.main([*option, "--", "true"])


async def test_it_has_a_status_page(shop: Path) -> None:
    port = str(free_port())
    arguments = ["shop:app", "--port", "0", "--backlog", "100", "--status-port", port]
    async with open_program(serve(shop, *arguments)) as program:
        await url_of(program)
        assert (await get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        await stop(program)


async def test_a_proxy_may_have_taken_a_path_off(shop: Path) -> None:
    (shop / "mounted.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        return\n"
        "    names = ['root_path', 'path', 'raw_path']\n"
        "    body = repr([scope[name] for name in names]).encode()\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': body})\n"
    )
    arguments = ["mounted:app", "--port", "0", "--root-path", "/käse"]
    async with open_program(serve(shop, *arguments)) as program:
        answer = await get(f"{await url_of(program)}/a")
        assert answer.text == "['/käse', '/käse/a', b'/k%C3%A4se/a']"
        await stop(program)


async def test_it_listens_on_a_descriptor(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = "http://{}:{}/a".format(*listening.getsockname())
        process = await trio.lowlevel.open_process(
            serve(shop, "shop:app", "--fd", str(listening.fileno())),
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
    try:
        assert (await get(url)).text == "http /a"
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_without_a_terminal_sighup_changes_nothing(shop: Path) -> None:
    command = serve(shop, "shop:app", "--port", "0")
    source = f"import os; os.setsid(); os.execv({command[0]!r}, {command!r})"
    async with open_program(script(source)) as program:
        url = await url_of(program)
        program.signal(signal.SIGHUP)
        await program.line_with("shop:app: there is nothing to reload without --workers")
        assert (await get(f"{url}/a")).text == "http /a"
        await stop(program)


@pytest.mark.skipif(sys.platform == "win32", reason="there are other terminals")
@pytest.mark.parametrize("ignored", [False, True])
async def test_in_a_terminal_sighup_stops_it_unless_it_is_ignored(
    shop: Path, ignored: bool
) -> None:
    command = serve(shop, "shop:app", "--port", "0")
    source = f"""
        import fcntl, os, signal, termios
        ours, terminal = os.openpty()
        os.set_inheritable(ours, True)
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        if {ignored}:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execv({command[0]!r}, {command!r})
    """
    async with open_program(script(source)) as program:
        await url_of(program)
        program.signal(signal.SIGHUP)
        if ignored:
            await program.line_with("there is nothing to reload")
            await stop(program)
        else:
            assert await program.exit_code() == 0
            assert "shop:app: stopping: SIGHUP received" in program.output
