"""The guide and the README: they build without a warning, and their code is run or checked."""

import ast
import asyncio
import configparser
import inspect
import itertools
import json
import re
import runpy
import shutil
import signal
import ssl
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import httpx
import pytest
import trio
import trustme
import uvicorn
from trio.testing import MockClock

import trio_run
from benchmarks import lost
from trio_run import lessons, testing
from trio_run.testing import Program, open_program

from . import TIMEOUT
from .ports import free_port
from .programs import python, script

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
PAGES = sorted(
    page
    for page in DOCS.rglob("*.rst")
    if "_build" not in page.parts and not page.name.startswith("lesson_")
)

# The names that a fragment may use without having made them.
PRELUDE = """
import asyncio, logging, signal, sys
from functools import partial
import trio
from trio_run import *

class Store:
    async def execute(self):
        await trio.sleep_forever()

class Listening:
    def close(self):
        pass

async def serve():
    await trio.sleep_forever()

async def echo(stream):
    async for chunk in stream:
        await stream.send_all(chunk)

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"Hello!"})

async def handle(reader, writer):
    writer.close()

async def nothing(*_):
    pass

class config:
    bind = ["127.0.0.1:0"]

Metrics = Store
server = listener = Listening()
worker, handler, intake = serve, echo, echo
clean_up = delete_old_lines = migrate = apply_migrations = fetch = nothing
urls = ["a", "b"]
group = Group()
group.add(worker)
"""

LOGGING = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
"""


class Block(NamedTuple):
    """A block of code on a page."""

    place: str
    language: str
    text: str


def blocks_of_guide() -> Iterator[Block]:
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if not (found := re.fullmatch(r"( *)\.\. code-block:: *(\S*)", line)):
                continue
            indent = len(found[1])
            body = itertools.takewhile(
                lambda line, indent=indent: not line or line[: indent + 1].isspace(),
                lines[number + 1 :],
            )
            text = textwrap.dedent("\n".join(body))
            text = re.sub(r"^(:[\w-]+:.*\n)+", "", text).strip("\n") + "\n"
            yield Block(f"{page.relative_to(DOCS)}:{number + 1}", found[2], text)


def blocks_of_readme() -> Iterator[Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(f"README.md:{line}", found[1], found[2])


GUIDE, README = list(blocks_of_guide()), list(blocks_of_readme())
BLOCKS = GUIDE + README
RUNS = re.compile(r"^(?:sys\.exit\(|raise SystemExit\()?(?:trio\.)?run\(", re.MULTILINE)


def blocks(*languages: str, if_: Callable[[Block], object] = bool) -> Any:
    chosen = [block for block in BLOCKS if block.language in languages and if_(block)]
    assert chosen, f"there is no block in {languages}"
    return pytest.mark.parametrize("block", chosen, ids=[block.place for block in chosen])


def is_program(block: Block) -> bool:
    return RUNS.search(block.text) is not None


def at_port(source: str, port: int) -> str:
    """The same program at other ports, and on the loopback interface alone."""
    source = source.replace("StatusPage(8081", f"StatusPage({free_port()}")
    for number, ours in ("8081", free_port()), (r"\d{4}", port):
        here = rf'\g<1>{ours}, host="127.0.0.1"'
        source = re.sub(rf"(Listener\(.*?, ){number}\b(?!, host)", here, source)
    source = source.replace("0.0.0.0", "127.0.0.1")
    return re.sub(r"\b(7000|8000|8080)\b", str(port), source)


# Every block.


def test_every_block_says_what_it_is_so_that_it_is_checked() -> None:
    checked = {"python", "sh", "go", "ini", "docker", "yaml", "text", "none"}
    assert {block.language for block in GUIDE} == checked
    assert {block.language for block in README} <= {"python", "sh", ""}
    for page in PAGES:  # there is another way to begin one, which says nothing
        assert not re.search(r"^(?! *\.\. ).*::$", page.read_text(encoding="utf-8"), re.MULTILINE)


@blocks("python", if_=lambda block: not is_program(block))
def test_a_fragment_runs(block: Block) -> None:
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    code = compile(
        at_port(block.text, free_port()), block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )

    async def execute() -> None:
        names["stop"] = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            with trio.fail_after(60):
                pending = eval(code, names)
                if inspect.iscoroutine(pending):
                    await pending
                if "main" in names:
                    await names["main"]()
            nursery.cancel_scope.cancel()

    async def end() -> None:
        await trio.sleep(1)  # on a clock that jumps: all that there is to do has been done
        names["stop"].set()
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            signal.raise_signal(signal.SIGTERM)

    async def execute_asyncio() -> None:
        eval(code, names)
        asyncio.get_running_loop().call_later(0.1, signal.raise_signal, signal.SIGTERM)
        await asyncio.wait_for(names["main"](), TIMEOUT)

    if "asyncio." in block.text:
        asyncio.run(execute_asyncio())
    elif "uvicorn." in block.text:
        names["uvicorn"] = Recorder(uvicorn.run)
        exec(code, names)
        assert names["uvicorn"].called
    else:
        trio.run(execute, clock=MockClock(autojump_threshold=0))


class Recorder:
    """A module whose run() only looks at its arguments."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._signature = inspect.signature(function)
        self.called = False

    def run(self, *args: object, **options: object) -> None:
        self._signature.bind(*args, **options)
        self.called = True


@blocks("python", if_=is_program)
async def test_a_whole_program_starts_and_stops(block: Block) -> None:
    source = PRELUDE + LOGGING + at_port(block.text, free_port())
    async with open_program(script(source)) as program:
        await program.line_with("group: ready")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0, program.output


@blocks("sh")
def test_a_shell_command_is_one(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


@blocks("go")
@pytest.mark.skipif(shutil.which("gofmt") is None, reason="Go is not installed")
def test_go_is_go(block: Block) -> None:
    subprocess.run(["gofmt", "-e"], input=block.text, text=True, check=True, capture_output=True)


@blocks("ini")
def test_a_unit_is_one(block: Block) -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.read_string(block.text)
    assert set(unit.sections()) <= {"Unit", "Service", "Socket", "Install"}


@blocks("docker")
def test_a_dockerfile_gives_its_program_the_signals(block: Block) -> None:
    lines = dict(line.split(" ", 1) for line in block.text.splitlines())
    assert set(lines) <= {"FROM", "RUN", "USER", "ENV", "CMD"}
    assert json.loads(lines["CMD"])[0] == "python"


@blocks("yaml")
def test_a_manifest_is_indented_by_twos_and_has_no_tabs(block: Block) -> None:
    for line in block.text.splitlines():
        assert re.fullmatch(r"(  )*(- )?\w+:( \S.*)?", line), line


@blocks("none")
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")
def test_a_proxy_takes_its_configuration(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    times = "".join(f" timeout {what} 5s\n" for what in ("client", "connect", "server"))
    frontend = "frontend front\n bind 127.0.0.1:8080\n default_backend shop\n"
    file.write_text(f"defaults\n mode http\n{times}{frontend}{block.text}")
    subprocess.run(["haproxy", "-c", "-f", file], check=True, capture_output=True)


@blocks("text", "")
def test_what_a_program_writes_is_what_ours_does(block: Block) -> None:
    first = block.text.splitlines()[0]
    if " stopped in " in first:
        columns = block.text.splitlines()[1].split()
        assert columns[:3] == ["actor", "ready", "stop"]
    elif '"GET' in first:
        assert re.fullmatch(r'\S+ "GET / HTTP/1\.1" 200 \d+ \d\.\d{3}', first)
    else:
        assert any(pattern.fullmatch(first) for pattern in logged()), first


def test_the_guide_begins_as_the_readme_does() -> None:
    first = next(block for block in GUIDE if block.place.startswith("index.rst"))
    assert first.text == README[1].text  # after the one in plain Trio


def test_the_picture_in_the_readme_is_what_the_example_does_now() -> None:
    drawing = runpy.run_path(str(DOCS / "_ext" / "readme_picture.py"))
    assert drawing["PICTURE"].read_text(encoding="utf-8") == drawing["picture"]()
    assert f"]({drawing['PICTURE'].relative_to(ROOT)})" in (ROOT / "README.md").read_text()


async def test_what_the_readme_says_is_lost_is_measured() -> None:
    plain, ours = lost.programs()
    for program, is_all_answered in (plain, False), (ours, True):
        begun, answered = await lost.measure(program.replace("7000", str(free_port())))
        assert (begun == answered) == is_all_answered
        assert begun >= lost.CLIENTS


# The examples, which the pages include.


async def get(port: int, path: str = "/") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def asks_for_a_page(program: Program, port: int, _folder: Path) -> None:
    response = await get(port)
    assert (response.status_code, response.text) == (200, "Hello!\n")
    program.signal(signal.SIGTERM)


async def says(port: int, line: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(line)
        return await stream.receive_some()


async def sends_a_line(
    program: Program, port: int, _folder: Path, *, answer: bytes = b"hello\n"
) -> None:
    assert await says(port, b"hello\n") == answer
    program.signal(signal.SIGTERM)


async def stops_it_in_the_midst_of_an_order(program: Program, port: int, _folder: Path) -> None:
    async def order() -> None:
        assert (await get(port)).status_code == 202

    async with trio.open_nursery() as nursery:
        nursery.start_soon(order)
        await program.line_with("an order comes in")
        program.signal(signal.SIGTERM)
    await program.line_with("sent to ada@example.org")  # its task began after the signal


async def looks_at_a_lame_duck(program: Program, port: int, folder: Path) -> None:
    source = await trio.Path(folder, "readiness.py").read_text(encoding="utf-8")
    [health] = map(int, re.findall(r"StatusPage\((\d+)", source))

    async def asked(port: int, path: str = "/") -> tuple[int, str | None]:
        response = await get(port, path)
        return response.status_code, response.headers.get("connection")

    assert await asked(port) == (200, None)
    assert await asked(health, "/readyz") == (200, "close")
    async with await trio.open_tcp_stream("127.0.0.1", port) as slow:
        await slow.send_all(b"GET / HTTP/1.1\r\n")  # it holds up the stop
        program.signal(signal.SIGTERM)
        await program.line_with("stopping: SIGTERM received")
        assert await asked(port) == (200, "close")
        assert await asked(health, "/readyz") == (503, "close")
        assert await asked(health, "/livez") == (200, "close")
        program.signal(signal.SIGTERM)
        await program.line_with("the lame duck ends early")
        with pytest.raises(httpx.ConnectError):
            while True:
                await asked(port)
        assert (await asked(health, "/readyz"))[0] == 503
        assert (await asked(health, "/livez"))[0] == 200
        await slow.send_all(b"Host: shop\r\n\r\n")
        assert (await slow.receive_some()).startswith(b"HTTP/1.1 200 ")


async def has_it_reload(program: Program, port: int, folder: Path) -> None:
    assert await says(port, b"") == b"Hello!\n"
    program.signal(signal.SIGHUP)  # there is no file
    await program.line_with("the handler of SIGHUP failed")
    assert await says(port, b"") == b"Hello!\n"
    await trio.Path(folder, "greeting.txt").write_text("Good evening!\n")
    program.signal(signal.SIGHUP)
    await program.line_with("the greeting is now: Good evening!")
    assert await says(port, b"") == b"Good evening!\n"
    program.signal(signal.SIGTERM)


def write_certificate(folder: Path, *, key: bool = True) -> str:
    """Write a new pair of files, or the certificate alone; return the certificate."""
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "server.crt")
    if key:
        issued.private_key_pem.write_to_path(folder / "server.key")
    return issued.cert_chain_pems[0].bytes().decode()


async def certificate_at(port: int) -> str:
    """The one that a client is shown there, and is greeted under."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", port, ssl_context=context, https_compatible=True
    ) as stream:
        assert await stream.receive_some() == b"Hello!\n"
        return ssl.DER_cert_to_PEM_cert(stream.getpeercert(binary_form=True))


async def has_it_reload_its_certificate(program: Program, port: int, folder: Path) -> None:
    first = await certificate_at(port)
    assert first == (folder / "server.crt").read_text()
    write_certificate(folder, key=False)  # the two do not fit
    program.signal(signal.SIGHUP)
    await program.line_with("the handler of SIGHUP failed")
    assert await certificate_at(port) == first
    second = write_certificate(folder)
    program.signal(signal.SIGHUP)
    await program.line_with("the certificate has been reloaded")
    assert await certificate_at(port) == second
    program.signal(signal.SIGTERM)


async def waits_for_its_third_life(program: Program, _port: int, _folder: Path) -> None:
    await program.line_with("connection 3 to the upstream")
    program.signal(signal.SIGTERM)


async def is_heard_of(
    program: Program, _port: int, _folder: Path, *, says: str, stopping: str
) -> None:
    await program.line_with(says)
    program.signal(signal.SIGTERM)
    await program.line_with(stopping)


async def counts_what_happens(program: Program, _port: int, folder: Path) -> None:
    source = await trio.Path(folder, "events_prometheus.py").read_text(encoding="utf-8")
    [port] = map(int, re.findall(r"StatusPage\((\d+)", source))
    text = (await get(port, "/metrics")).text
    assert 'shop_happened_total{actor="worker",kind="ready"} 1.0' in text
    assert 'trio_run_events_total{group="shop",kind="ready"}' in text
    program.signal(signal.SIGTERM)


async def has_its_workers_replaced(program: Program, port: int, _folder: Path) -> None:
    answers = [b"from process %d\n" % pid for pid in await pids_in(program, 2)]
    assert await says(port, b"") in answers
    program.signal(signal.SIGHUP)
    await program.line_with("workers: replaced, all 2")
    new = [b"from process %d\n" % pid for pid in (await pids_in(program, 4))[2:]]
    while await says(port, b"") not in new:
        await trio.sleep(0.01)
    program.signal(signal.SIGTERM)


async def pids_in(program: Program, count: int) -> list[int]:
    """Those of so many workers, once they are ready."""
    found: list[str] = []
    with trio.fail_after(TIMEOUT):
        while len(found) < count:
            await trio.sleep(0.01)
            found = re.findall(r"^workers \d: ready, pid (\d+)$", program.output, re.MULTILINE)
    return list(map(int, found))


async def waits(_program: Program, _port: int, _folder: Path) -> None:
    """It ends by itself."""


CLIENTS: dict[str, Callable[[Program, int, Path], Awaitable[None]]] = {
    "a_stop": waits,
    "an_order": waits,
    "background": stops_it_in_the_midst_of_an_order,
    "django_app": asks_for_a_page,
    "events_opentelemetry": partial(
        is_heard_of, says="shop: ready", stopping='"name": "stop of the shop"'
    ),
    "events_prometheus": counts_what_happens,
    "events_structlog": partial(is_heard_of, says="actor=worker", stopping="stop began"),
    "hypercorn_app": asks_for_a_page,
    "order": partial(sends_a_line, answer=b"ok\n"),
    "quart_app": asks_for_a_page,
    "readiness": looks_at_a_lame_duck,
    "reload": has_it_reload,
    "reload_certificate": has_it_reload_its_certificate,
    "restart": waits_for_its_third_life,
    "starlette_app": asks_for_a_page,
    "systemd_socket": sends_a_line,
    "workers": has_its_workers_replaced,
}


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if not e.stem.startswith("test_")], ids=lambda e: e.stem
)
async def test_an_example_starts_serves_and_stops(example: Path, tmp_path: Path) -> None:
    port = free_port()
    source = await trio.Path(example).read_text(encoding="utf-8")
    file = trio.Path(tmp_path, example.name)
    await file.write_text(LOGGING + at_port(source, port), encoding="utf-8")
    command = [str(file)]
    if example.stem == "reload_certificate":
        write_certificate(tmp_path)
    if example.stem == "systemd_socket":
        command = ["-c", AS_SYSTEMD_DOES, str(port), str(file)]
    async with open_program(python(*command), cwd=tmp_path) as program:
        if CLIENTS[example.stem] is not waits:
            await program.line_with(": ready")
        await CLIENTS[example.stem](program, port, tmp_path)
        assert await program.exit_code() == 0, program.output
    assert " stopped in " in program.output


AS_SYSTEMD_DOES = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {
    "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "shop.socket"
}
os.execv(sys.executable, [sys.executable, "-u", sys.argv[2]])
"""


def test_the_examples_of_tests_pass(tmp_path: Path) -> None:
    tests = [example for example in EXAMPLES if example.stem.startswith("test_")]
    for file in [*tests, DOCS / "examples" / "background.py"]:
        source = file.read_text(encoding="utf-8")
        (tmp_path / file.name).write_text(at_port(source, free_port()), encoding="utf-8")
    settings = ["-p", "no:cacheprovider", "-W", "error", "-o", "trio_mode=true"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *settings, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout


async def test_the_stream_without_an_end_ends_at_a_stop() -> None:
    (block,) = (block for block in GUIDE if "def events" in block.text)
    port = free_port()
    source = PRELUDE + block.text.replace(
        "trio.sleep(1)", "trio.sleep_forever()"
    )  # but for the stop
    source += f"""
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/", events)])
sys.exit(run(HTTPListener(app, {port}, host="127.0.0.1"), grace=600))
"""
    url = f"http://127.0.0.1:{port}/"
    async with (
        open_program(script(source)) as program,
        httpx.AsyncClient(trust_env=False, timeout=TIMEOUT) as client,
    ):
        await program.line_with("group: ready")
        async with client.stream("GET", url) as response:
            chunks = response.aiter_text()
            assert await anext(chunks) == "data: tick\n\n"
            program.signal(signal.SIGTERM)
            rest = "".join([chunk async for chunk in chunks])
        assert rest.replace("data: tick\n\n", "") == ""
        assert await program.exit_code() == 0
        assert "1 drained, 0 cut" in program.output


# What the pages say about the code.


def logged() -> list[re.Pattern[str]]:
    """What the library logs above DEBUG, on trio_run: a pattern for each line."""
    patterns = []
    package = Path(trio_run.__file__).parent
    for file in [*package.glob("_*.py"), *package.glob("_listeners/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "_log":  # the group's journal
                words, before = node.args[1], "%s: "
            elif ast.unparse(node.func.value) == "logger" and node.func.attr in {
                *("info", "warning", "error", "exception", "log"),
            }:
                words, before = node.args[node.func.attr == "log"], ""
            else:
                continue
            if isinstance(words, ast.JoinedStr):  # what _log does
                continue
            assert isinstance(words, ast.Constant)
            text = before + words.value.replace("\n%s", "")
            if text != "%s":  # the report
                patterns.append(
                    re.compile(
                        re.sub(r"%(\.\d)?[a-z]", ".+", re.escape(text).replace(r"%\.", "%."))
                    )
                )
    assert len(patterns) > 15
    return patterns


def test_every_line_that_is_logged_is_in_the_reference_and_no_other() -> None:
    page = (DOCS / "reference" / "log.rst").read_text(encoding="utf-8")
    said = [
        line.removesuffix(" ...") for line in re.findall(r"^``(.*)`` : [A-Z]+$", page, re.MULTILINE)
    ]
    patterns = logged()
    for pattern in patterns:
        assert any(map(pattern.fullmatch, said)), pattern
    for line in said:
        assert any(pattern.fullmatch(line) for pattern in patterns), line


def test_what_troubleshooting_quotes_is_a_line_that_is_logged() -> None:
    page = (DOCS / "troubleshooting.rst").read_text(encoding="utf-8")
    known = (DOCS / "reference" / "log.rst").read_text(encoding="utf-8")
    quoted = [" ".join(quote.split()) for quote in re.findall(r'\*\*"([^"]+)"', page)]
    assert len(quoted) > 8
    for quote in quoted:
        assert quote.removesuffix(" ...") in known, quote
    outcomes = get_args(get_type_hints(trio_run.ActorReport)["outcome"])
    assert re.findall(r"^``([\w ]+)``  ", page, re.MULTILINE) == list(outcomes)


def test_every_rule_is_on_the_page() -> None:
    page = (DOCS / "rules.rst").read_text(encoding="utf-8")
    rules = [str(number) for number in range(1, 29)] + [f"L{number}" for number in range(1, 11)]
    rules += ["P1", "P2", "P3", "P4", "P6"]
    assert re.findall(r"^\.\. _rule-(\w+):\n\n\*\*(\w+)\. ", page, re.MULTILINE) == [
        (rule.lower(), rule) for rule in rules
    ]


def files_on_the_page() -> list[str]:
    """Those of the library, in the order in which they may import each other."""
    page = (DOCS / "building.rst").read_text(encoding="utf-8")
    folder, files = "", []
    heading, file = r"^\*\*.*\*\*(?:, in ``(\w+/)``)?", r"^``([\w/]+\.py)`` "
    for found in re.finditer(f"{heading}|{file}", page, re.MULTILINE):
        if found[2]:
            files.append(folder + found[2])
        else:
            folder = found[1] or ""
    return files


def imported_by(file: Path, package: Path) -> Iterator[str]:
    """The files of the library that this one imports when it is imported itself."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                path = folder.joinpath(*name.split(".")).with_suffix(".py")
                yield path.relative_to(package).as_posix()


def test_the_files_are_on_the_page_in_an_order_in_which_they_import_downwards_only() -> None:
    package = Path(trio_run.__file__).parent
    known = files_on_the_page()
    for file in [*package.glob("*.py"), *package.glob("_*/**/*.py")]:
        if file.name != "__init__.py":
            name = file.relative_to(package).as_posix()
            assert name in known
            not_above = set(known[known.index(name) :])
            assert not_above.isdisjoint(imported_by(file, package)), name


def test_who_waits_for_the_process_waits_longer_than_the_watchdog() -> None:
    options = inspect.signature(trio_run.run).parameters
    ours = options["grace"].default + options["abort_after"].default
    page = (DOCS / "deploy.rst").read_text(encoding="utf-8")
    theirs = re.findall(r"(?:stop-timeout |stop_grace_period: |PeriodSeconds: )(\d+)", page)
    assert len(theirs) >= 4
    assert all(int(seconds) > ours for seconds in theirs)
    assert f"grace of {options['grace'].default:g} s" in page
    assert f"abort_after of {options['abort_after'].default:g} s" in page
    idle = inspect.signature(trio_run.HTTPListener).parameters["idle_timeout"].default
    assert f"The default is {idle:g} s" in page


# The build.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built guide. Every link within it is looked at by Sphinx, and a warning is an error."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, folder / "source", ignore=shutil.ignore_patterns("_build", "lesson_*"))
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n"]
    built = subprocess.run(
        [*command, str(folder / "source"), str(folder / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder / "html"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = {
        line.split()[0]
        for line in zlib.decompress(inventory).decode().splitlines()
        if line.split()[1].startswith("py:")
    }
    assert {f"trio_run.{name}" for name in trio_run.__all__} <= documented
    assert {f"trio_run.testing.{name}" for name in testing.__all__} <= documented


def test_every_lesson_is_a_page_with_what_is_to_be_typed(site: Path) -> None:
    files = sorted(Path(lessons.__file__).parent.glob("lesson_*.py"))
    assert [page.stem for page in sorted((site / "tutorial").glob("lesson_*.html"))] == [
        file.stem for file in files
    ]
    page = (site / "tutorial" / "lesson_09_order.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]*>", "", page)
    assert "9. Order: what must outlive what" in text
    assert "python -m trio_run.lessons.ask udp://127.0.0.1:7090 garden 17.5" in text
    assert "class Logbook:" in text
    assert "What becomes of the datagram?" in text
    assert "TRY" not in text
    assert '<span class="hll">' in page  # what is new is marked


def test_the_pictures_show_what_the_programs_do(site: Path) -> None:
    page = (site / "rules.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<div class="picture">.*?</div>', page, re.DOTALL)
    assert len(pictures) == 2
    for picture, actors in zip(pictures, (3, 5), strict=True):
        assert picture.count('<rect class="works"') == actors
        assert picture.count('<rect class="cut"') == 1
    assert "the lame duck is over" in pictures[1]
    assert 'class="picture"' in (site / "deploy.html").read_text(encoding="utf-8")
