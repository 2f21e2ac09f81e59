"""The lessons as their readers run them: real processes, the commands that are printed, what is
said.
"""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_run import lessons
from trio_run.lessons import __main__ as runner
from trio_run.testing import Program, open_program

from . import TIMEOUT
from .ports import free_port
from .programs import python, script

FILES = sorted(Path(lessons.__file__).parent.glob("lesson_*.py"))
COURSE = runner._course()
MODULE = ["-W", "error", "-m", "trio_run.lessons"]
DASHES = "-" * 80 + "\n"

# For a machine that lacks one of them: as much of each as the lessons use.
STAND_INS = {
    "curl": """
        import http.client, sys, urllib.parse
        url = urllib.parse.urlsplit(sys.argv[-1])
        try:
            client = http.client.HTTPConnection(url.netloc)
            client.request("GET", url.path)
            response = client.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as exc:
            sys.exit(f"curl: {exc!r}")
        if "-i" in sys.argv:
            print("HTTP/1.1", response.status, response.reason)
            print(response.headers, end="", flush=True)
        sys.stdout.buffer.write(body)
    """,
    "nc": """
        import socket, sys
        udp = "-u" in sys.argv
        client = socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        client.connect((sys.argv[-2], int(sys.argv[-1])))
        client.sendall(sys.stdin.buffer.read())
        while data := client.recv(65536):
            sys.stdout.buffer.write(data)
            if udp:
                break
    """,
}


class Lesson:
    """A lesson that runs, and its reader at another terminal."""

    def __init__(self, number: int, program: Program, path: str) -> None:
        self.program = program
        self.signal = program.signal
        self.exit_code = program.exit_code
        self._path = path
        introduction = program.output.partition(DASHES)[0]
        _, self.to_type = introduction.split(f"The program is {FILES[number - 1]}\n")
        lines = self.to_type.splitlines()
        self.commands = [line.strip() for line in lines if line.startswith("    ")]

    @property
    def said(self) -> str:
        """What it has written since its introduction."""
        return self.program.output.partition(DASHES)[2]

    async def says(self, text: str) -> str:
        return await self.program.line_with(text)

    async def type(self, command: str) -> str:
        """Type a command that was printed; wait until it has ended; return what it printed."""
        process = await trio.run_process(
            ["sh", "-c", command],
            env={"PATH": self._path},
            check=False,
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
        )
        return process.stdout.decode()

    @property
    def duration(self) -> float:
        """The report: how many seconds the stop took."""
        [seconds] = re.findall(r"^\S+ stopped in ([\d.]+) s: ", self.said, re.MULTILINE)
        return float(seconds)

    @property
    def rows(self) -> dict[str, str]:
        """The report: for each actor its outcome and detail."""
        _, table = self.said.split("  outcome\n")
        cells = (re.split(r"  +", line) for line in table.splitlines())
        return {row[0]: " ".join(row[3:]).lstrip("= ") for row in cells if len(row) > 3}

    @property
    def bars(self) -> dict[str, tuple[int, int]]:
        """The report: for each actor the columns in which its bar begins and ends."""
        found = (re.match(r"(\S+) [ \d.]*(=+)", line) for line in self.said.splitlines())
        return {match[1]: match.span(2) for match in found if match}


@asynccontextmanager
async def open_lesson(number: int, directory: Path) -> AsyncIterator[Lesson]:
    """Start one, on a free port, and wait until it has told its reader what to type."""
    path = sys.exec_prefix + "/bin:/usr/local/bin:/usr/bin:/bin"
    for name, source in STAND_INS.items():
        if shutil.which(name) is None:
            body = "\n".join(line[8:] for line in source.splitlines())
            (directory / name).write_text(f"#!{sys.executable}\n{body}")
            (directory / name).chmod(0o700)
    with trio.fail_after(TIMEOUT):
        port = str(free_port())
        async with open_program(python(*MODULE, str(number), "--port", port)) as program:
            await program.line_with(DASHES.strip())
            yield Lesson(number, program, f"{directory}:{path}")


async def output_of(*arguments: str, code: int = 0) -> str:
    async with open_program(python(*MODULE, *arguments)) as program:
        assert await program.exit_code() == code, program.output
        return program.output


# The course as a whole.


async def test_the_list_names_all_fourteen_each_in_a_line() -> None:
    lines = (await output_of()).splitlines()
    assert len(FILES) == 14
    assert lines[14:] == ["", "Run one by its number:", "    python -m trio_run.lessons 1"]
    for number, (line, path) in enumerate(zip(lines[:14], FILES, strict=True), 1):
        title = path.read_text().splitlines()[0].removeprefix('"""')
        assert title
        assert line == f"{number:2}  {title}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_lesson_is_short_and_fits_a_terminal(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 100
    assert max(map(len, lines)) <= 100
    lesson = COURSE[int(path.stem.split("_")[1])]
    title, empty, *text = (lesson.__doc__ or "").splitlines()
    assert len(f"Lesson 14: {title}") < 80
    assert not empty
    assert " Go" in " ".join(text)  # what the Go programs do is told in each
    for line in text + lesson.TRY.splitlines():
        assert len(line) < 80 or line.startswith("    ")  # a command is one line, however long
    program = [line for line in lines[lines.index('"""', 1) + 1 :] if line]
    assert 20 <= len(program) <= 70


def test_nothing_but_usual_programs_is_to_be_typed() -> None:
    for lesson in COURSE.values():
        for line in lesson.TRY.splitlines():
            if line.startswith("    "):
                first_words = re.findall(r"(?:^|[|&;]) *(\S+)", line)
                assert set(first_words) <= {"curl", "echo", "kill", "nc", "sleep", "{python}"}, line


async def test_an_unknown_number_is_one_sentence() -> None:
    for number in ("0", "15", "-1"):
        said = await output_of("--", number, code=2)
        assert said == f"There is no lesson {number}: they are 1 to 14.\n"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_port_in_use_is_one_sentence(kind: socket.SocketKind) -> None:
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        said = await output_of("3", "--port", str(port), code=2)
    cure = "Choose another with --port."
    assert said == f"Port {port} can't be used: Address already in use. {cure}\n"


async def test_a_port_that_is_none_is_one_sentence() -> None:
    said = await output_of("3", "--port", "70000", code=2)
    assert re.fullmatch(r"Port 70000 can't be used: .*\w\. Choose another with --port\.\n", said)


async def test_without_port_lesson_12_has_port_7012() -> None:
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # then somebody else has it: just as well
            taken.bind(("127.0.0.1", 7012))
            taken.listen()
        assert (await output_of("12", code=2)).startswith("Port 7012 can't be used: ")


@pytest.mark.parametrize(
    ("number", "package", "extra"), [(4, "httptools", "http"), (8, "trio_websocket", "websocket")]
)
async def test_what_is_not_installed_is_named_with_the_cure(
    number: int, package: str, extra: str
) -> None:
    source = f"""
        import sys
        sys.modules[{package!r}] = None
        from trio_run.lessons.__main__ import main
        sys.exit(main(["{number}", "--port", "0"]))
    """
    async with open_program(script(source)) as program:
        assert await program.exit_code() == 1
    said = program.output.partition(DASHES)[2]
    assert said.startswith("An error came out of the program: ImportError: ")
    assert said.endswith(f" pip install 'trio-run[{extra}]'\n")
    assert said.count("\n") == 1


# Each lesson, in order. They are played all at the same time: most of it is waiting.

SCENES: dict[str, Callable[[Path], Awaitable[None]]] = {}


def scene(*cases: Any) -> Callable[[Callable[..., Awaitable[None]]], object]:
    """Have it played, with each of the cases, as a test of its own."""

    def add(play: Callable[..., Awaitable[None]]) -> None:
        for case in cases:
            SCENES[f"{play.__name__}-{case}"] = partial(play, case=case)
        if not cases:
            SCENES[play.__name__] = play

    return add


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exception]:
    """Play all scenes. What has failed, and with what."""
    failures = {}

    async def play(name: str) -> None:
        try:
            await SCENES[name](tmp_path_factory.mktemp(name))
        except Exception as exc:
            failures[name] = exc

    async def play_all() -> None:
        async with trio.open_nursery() as nursery:
            for name in SCENES:
                nursery.start_soon(play, name)

    trio.run(play_all)
    return failures


@scene()
async def lesson_01_a_failure_stops_the_other_task_and_comes_out(tmp_path: Path) -> None:
    async with open_lesson(1, tmp_path) as lesson:
        await lesson.says("greeter: listening")
        ada, zoe = lesson.commands
        assert await lesson.type(ada) == "Hello, Ada!\n"
        await lesson.says("clock: tick 2")  # the one goes on beside the other
        assert await lesson.type(zoe) == ""
        assert await lesson.exit_code() == 1
    *_, one, other, both, error = lesson.said.splitlines()
    assert {one, other} == {"clock: stopped", "greeter: stopped"}
    assert both == "main: both have stopped"
    assert error.startswith("An error came out of the program: UnicodeDecodeError: 'ascii' codec")


@scene()
async def lesson_01_ctrl_c_stops_both_too(tmp_path: Path) -> None:
    async with open_lesson(1, tmp_path) as lesson:
        # While a Trio program starts, there are moments when a KeyboardInterrupt gets lost.
        await lesson.says("clock: tick 2")
        lesson.signal(signal.SIGINT)
        assert await lesson.exit_code() == 130
    *_, one, other, both, error = lesson.said.splitlines()
    assert {one, other} == {"clock: stopped", "greeter: stopped"}
    assert both == "main: both have stopped"
    assert error == "KeyboardInterrupt came out of the program"


@scene()
async def lesson_02_quit_stops_the_clock(tmp_path: Path) -> None:
    async with open_lesson(2, tmp_path) as lesson:
        await lesson.says("web: listening")
        hello, quit_it = lesson.commands
        assert await lesson.type(hello) == "Hello!\n"
        await lesson.says("clock: tick")
        assert await lesson.type(quit_it) == "Good bye!\n"
        assert await lesson.exit_code() == 0
    *_, asked, one, other, both = lesson.said.splitlines()
    assert asked == "web: I was asked to quit, and cancel everything"
    assert {one, other} == {"clock: stopped", "web: stopped"}
    assert both == "main: both have stopped"


@scene(signal.SIGTERM, signal.SIGINT)
async def lesson_03_a_signal_stops_the_loop_that_waits(
    tmp_path: Path, case: signal.Signals
) -> None:
    async with open_lesson(3, tmp_path) as lesson:
        await lesson.says("udp: listening")
        hello, stop = lesson.commands
        assert await lesson.type(hello) == "HELLO\n"
        await lesson.type(stop.replace("TERM", case.name.removeprefix("SIG")))
        assert await lesson.exit_code() == 0
    assert lesson.said.splitlines() == [
        "udp: listening",
        "udp: 6 bytes came",
        f"signals: {case.name} came, and I cancel everything",
        "udp: stopped; the socket is closed next",
        "main: both have stopped",
    ]


@scene()
async def lesson_04_the_signal_stops_all(tmp_path: Path) -> None:
    async with open_lesson(4, tmp_path) as lesson:
        await lesson.says("program: ready")
        hello, stop, _ = lesson.commands
        assert await lesson.type(hello) == "Hello!\n"
        await lesson.type(stop)
        assert await lesson.exit_code() == 0
    assert " s: SIGTERM received (exit code 0)\n" in lesson.said
    http, quitter, signals = sorted(lesson.rows)
    assert lesson.rows[http] == "returned 0 drained, 0 cut"
    assert lesson.rows[quitter] == lesson.rows[signals] == "returned"


@scene()
async def lesson_04_quit_stops_all(tmp_path: Path) -> None:
    async with open_lesson(4, tmp_path) as lesson:
        await lesson.says("program: ready")
        assert await lesson.type(lesson.commands[2]) == "Good bye!\n"
        assert await lesson.exit_code() == 0
    assert "quitter: somebody asked for /quit, so I return\n" in lesson.said
    assert " s: 'quitter' returned (exit code 0)\n" in lesson.said
    assert len(lesson.rows) == 3


@scene()
async def lesson_05_the_baker_finishes_the_loaf_and_the_others_do_not_wait(
    tmp_path: Path,
) -> None:
    async with open_lesson(5, tmp_path) as lesson:
        await lesson.says("ticker: 2 loaves so far")
        await lesson.says("baker: loaf 3 is ready")
        [stop] = lesson.commands
        await lesson.type(stop)
        assert await lesson.exit_code() == 0
    before, after = lesson.said.split("baker: SIGTERM received: I finish this loaf\n")
    assert "door: open\n" in before
    assert after.startswith("door: closed\nbaker: loaf 4 is ready\nbakery stopped in ")
    assert lesson.rows == {
        "baker": "returned 4 loaves",
        "open_door": "returned",
        "count every 5 s": "returned",
        "signals": "returned",
    }
    assert lesson.bars["open_door"][1] < lesson.bars["baker"][1]


@scene()
async def lesson_06_the_signal_stops_all(tmp_path: Path) -> None:
    async with open_lesson(6, tmp_path) as lesson:
        await lesson.says("shop: open")
        buy, stop, _ = lesson.commands
        assert await lesson.type(buy) == "That is 6 crowns.\n"
        await lesson.type(stop)
        assert await lesson.exit_code() == 0
    assert lesson.said.splitlines() == [
        "shop: open",
        "shop: sold 2",
        "signals: SIGTERM came",
        "main: all have stopped; the first one's error is None",
    ]


@scene()
async def lesson_06_a_failure_stops_all(tmp_path: Path) -> None:
    async with open_lesson(6, tmp_path) as lesson:
        await lesson.says("shop: open")
        await lesson.type(lesson.commands[2])
        assert await lesson.exit_code() == 1
    assert "main: all have stopped; the first one's error is ExceptionGroup(" in lesson.said
    assert "ValueError(" in lesson.said


@scene()
async def lesson_07_the_order_is_answered_and_its_mail_sent(tmp_path: Path) -> None:
    async with open_lesson(7, tmp_path) as lesson:
        await lesson.says("shop: ready")
        bug, in_one_line, _ = lesson.commands
        assert await lesson.type(bug) == "500 Internal Server Error: the server failed\n"
        assert "ValueError: this page has a bug\n" in lesson.said
        order, stop = in_one_line.split(" & sleep 1; ")
        answers = []

        async def place_order() -> None:
            answers.append(await lesson.type(order))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(place_order)
            await lesson.says("shop: an order comes in")
            await lesson.type(stop)
        assert answers == ["Thank you.\n"]
        assert await lesson.exit_code() == 0
    assert lesson.said.index("stopping: SIGTERM") < lesson.said.index("mails: the order is confirm")
    [http] = [name for name in lesson.rows if name.startswith("http:")]
    assert lesson.rows[http] == "returned 1 drained, 0 cut, 1 failed"
    assert lesson.rows["mails"] == "returned 1 done"
    assert lesson.bars["mails"][0] >= lesson.bars[http][1] - 1  # asked when that had stopped


@scene()
async def lesson_07_a_second_signal_cuts_the_order(tmp_path: Path) -> None:
    async with open_lesson(7, tmp_path) as lesson:
        await lesson.says("shop: ready")
        order, stop, again = re.split(r" & sleep 1; |; sleep 1; ", lesson.commands[2])
        answers = []

        async def place_order() -> None:
            answers.append(await lesson.type(order))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(place_order)
            await lesson.says("shop: an order comes in")
            await lesson.type(stop)
            await lesson.says("stopping: SIGTERM received")
            await lesson.type(again)
        assert answers == [""]
        assert await lesson.exit_code() == 128 + signal.SIGTERM
    assert "(exit code 143)" in lesson.said
    assert "forced by a second signal, SIGTERM" in lesson.said
    assert "confirmed" not in lesson.said
    [http] = [name for name in lesson.rows if name.startswith("http:")]
    assert lesson.rows[http] == "cut 0 drained, 1 cut"


@scene()
async def lesson_08_the_answer_comes_whole_and_then_the_close(tmp_path: Path) -> None:
    async with open_lesson(8, tmp_path) as lesson:
        await lesson.says("thinker: ready")
        connect, stop = lesson.commands
        client = await trio.lowlevel.open_process(
            connect.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdin is not None
        assert client.stdout is not None
        await lesson.says("thinker: somebody is here")
        await client.stdin.send_all(b"hello\n")
        await lesson.says("thinker: let me think")
        await lesson.type(stop)
        printed = b"".join([chunk async for chunk in client.stdout]).decode()
        await client.stdin.aclose()
        await client.stdout.aclose()
        assert await client.wait() == 0
        assert await lesson.exit_code() == 0
    answer = printed.index("< 'hello'? I think so.")
    assert answer < printed.index("Connection closed: 1001 (going away)")
    assert "thinker: the WebSocket is closed\n" in lesson.said
    [websocket] = [name for name in lesson.rows if name.startswith("ws:")]
    assert lesson.rows[websocket] == "returned 1 drained, 0 cut"


@scene()
async def lesson_09_the_ledger_outlives_the_order_and_the_heart_the_ledger(
    tmp_path: Path,
) -> None:
    async with open_lesson(9, tmp_path) as lesson:
        await lesson.says("shop: ready")
        [in_one_line] = lesson.commands
        order, stop = in_one_line.split(" & sleep 1; ")
        answers = []

        async def place_order() -> None:
            answers.append(await lesson.type(order))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(place_order)
            await lesson.says("shop: an order comes in")
            await lesson.type(stop)
        assert answers == ["It is in the ledger.\n"]
        assert await lesson.exit_code() == 0
    told = [
        "ledger: opening",
        "shop: open, since the ledger is ready",
        "shop: an order comes in",
        "shop: stopping: SIGTERM received",
        "ledger: the last order is in, so I close",
        "heart: beating; in the ledger: 1",
        "ledger: closed, with ['bread']",
    ]
    places = [lesson.said.index(line) for line in told]
    assert places == sorted(places)
    assert lesson.rows["orders"] == "returned 1 drained, 0 cut"
    bars = lesson.bars
    assert bars["orders"][1] - 1 <= bars["ledger"][0] < bars["ledger"][1] - 1 <= bars["heart"][0]


@scene()
async def lesson_10_the_log_names_who_hangs_and_where(tmp_path: Path) -> None:
    async with open_lesson(10, tmp_path) as lesson:
        await lesson.says("shop: ready")
        [stop] = lesson.commands
        await lesson.type(stop)
        assert await lesson.exit_code() == 0
    told = [
        "shop: stopping: SIGTERM received",
        "shop: the grace of 2 s is over: cut till (printing the last receipt)",
        "waiting for till (printing the last receipt)",
        "shop: 'till' has not returned 5 s after a hard cancel. It is here:\n",
        f'File "{FILES[9]}", line ',
        ", in print_receipt\n",
        ", in ask_printer\n",
        "shop stopped in ",
    ]
    places = [lesson.said.index(line) for line in told]
    assert places == sorted(places)
    assert lesson.duration >= 9
    assert lesson.rows["till"] == "cut closed"


@scene("wait", "again")
async def lesson_11_the_lame_duck_serves_and_says_that_it_is_not_ready(
    tmp_path: Path, case: str
) -> None:
    async with open_lesson(11, tmp_path) as lesson:
        await lesson.says("shop: ready")
        ready, stop, not_ready, hello, again = lesson.commands
        answer = await lesson.type(ready)
        assert answer.startswith("HTTP/1.1 200 ")
        assert answer.endswith(("\n\nready\n", "\r\n\r\nready\n"))
        assert "connection: close" not in answer.lower()
        await lesson.type(stop)
        await lesson.says("stopping: SIGTERM received")
        answer = await lesson.type(not_ready)
        assert answer.startswith("HTTP/1.1 503 ")
        assert "connection: close" in answer.lower()
        assert answer.endswith("not ready: send your clients elsewhere\n")
        assert (await lesson.type(hello)).startswith("HTTP/1.1 200 ")
        if case == "again":
            await lesson.type(again)
        assert await lesson.exit_code() == 0
    assert ("shop: the lame duck ends early: SIGTERM" in lesson.said) == (case == "again")
    assert (lesson.duration >= 10) == (case == "wait")
    [http] = [name for name in lesson.rows if name.startswith("http:")]
    assert lesson.rows[http] == "returned 0 drained, 0 cut"


@scene()
async def lesson_12_its_tests_pass_without_waiting(tmp_path: Path) -> None:
    async with open_lesson(12, tmp_path) as lesson:
        assert lesson.commands == []
        assert await lesson.exit_code() == 0
    passed = re.findall(r"passed: (\w+)\n +([\d,]+) s for Trio, ([\d.]+) ms for us", lesson.said)
    names = re.findall(r"^async def (test_\w+)", FILES[11].read_text(), re.MULTILINE)
    assert [name for name, _, _ in passed] == names
    assert [seconds for _, seconds, _ in passed] == ["9,000", "610"]
    why = "the block around it has ended"
    assert f"post office stopped in 10.00 s: {why} (exit code 0)\n" in lesson.said


@scene("stop", "too much")
async def lesson_13_the_prices_come_back_and_the_third_failure_is_too_much(
    tmp_path: Path, case: str
) -> None:
    async with open_lesson(13, tmp_path) as lesson:
        await lesson.says("shop: ready")
        break_it, ask, ask_again, stop = lesson.commands
        assert await lesson.type(break_it) == "It is broken.\n"
        assert await lesson.type(ask) == "Not ready: the prices are old.\n"
        await lesson.says("shop: ready again")
        assert await lesson.type(ask_again) == "Ready.\n"
        await lesson.type(stop if case == "stop" else break_it)
        assert await lesson.exit_code() == (0 if case == "stop" else 1)
    told = [
        "prices: connection 1",
        "life 1 of 'prices' failed: OSError: the exchange has hung up",
        "prices: connection 2",
        "life 2 of 'prices' failed: OSError: no route to the exchange",
        "prices: connection 3",
    ]
    places = [lesson.said.index(line) for line in told]
    assert places == sorted(places)
    assert "prices: connection 4" not in lesson.said
    assert ("'prices' failed 3 times in 60 s" in lesson.said) == (case == "too much")


@scene()
async def lesson_14_it_says_how_it_is_to_the_end(tmp_path: Path) -> None:
    async with open_lesson(14, tmp_path) as lesson:
        await lesson.says("bakery: ready")
        ready, status, stop, again = lesson.commands
        answer = await lesson.type(ready)
        assert answer.startswith("HTTP/1.1 200 ")
        assert answer.endswith("ready\n")
        shown = json.loads(await lesson.type(status))
        assert (shown["name"], shown["state"]) == ("bakery", "running")
        await lesson.type(stop)
        shown = json.loads(await lesson.type(again))
        assert shown["state"] == "stopping"
        oven = next(actor for actor in shown["actors"] if actor["name"] == "oven")
        assert oven["state"] == "stopping"
        assert oven["detail"].startswith("cooling down: ")
        assert await lesson.exit_code() == 0
    assert lesson.rows["oven"] == "returned cold"


@pytest.mark.parametrize("name", SCENES)
def test_a_lesson(name: str, failures: dict[str, Exception]) -> None:
    if name in failures:
        raise failures[name]
