"""The lessons as their readers run them: real processes, the commands that are printed, what is
said, and what a changed line changes.
"""

import contextlib
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_run.lessons import __main__ as runner
from trio_run.lessons import ask
from trio_run.lessons.course import PORTS, course
from trio_run.testing import Program, open_program

from . import TIMEOUT
from .ports import free_port
from .programs import python, script

COURSE = course()
MODULE = ["-W", "error", "-m", "trio_run.lessons"]
RULE = runner.RULE + "\n"
TREE = "An error came out of the program:\n\n"


class Running:
    """A lesson that runs, and its reader at another terminal."""

    def __init__(self, program: Program, port: int) -> None:
        self.program = program
        self.port = port
        self.exit_code = program.exit_code
        introduction = program.output.partition(RULE)[0]
        lines = introduction.splitlines()
        self.commands = [line.strip() for line in lines if re.match(r"    .*(ask |kill )", line)]

    @property
    def said(self) -> str:
        """What it has written since its introduction, and until its end."""
        return self.program.output.split(RULE)[1]

    async def says(self, text: str) -> str:
        return await self.program.line_with(text)

    def ctrl_c(self) -> None:
        self.program.signal(signal.SIGINT)

    async def type(self, command: str) -> str:
        """Type a command that was printed; wait until it has ended; return what it printed."""
        process = await trio.run_process(["sh", "-c", command], check=False, capture_stdout=True)
        return process.stdout.decode()

    @asynccontextmanager
    async def typing(self, command: str) -> AsyncIterator[list[str]]:
        """Type a command while a block runs. What it printed is in the list after the block."""
        printed: list[str] = []

        async def type_it() -> None:
            printed.append(await self.type(command))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(type_it)
            yield printed

    @property
    def duration(self) -> float:
        """The report: how many seconds the stop took."""
        [seconds] = re.findall(r"^\S+ stopped in ([\d.]+) s: ", self.said_plain, re.MULTILINE)
        return float(seconds)

    @property
    def said_plain(self) -> str:
        """The same, without the time before a line of the log."""
        return re.sub(r"^\d\d:\d\d:\d\d ", "", self.said, flags=re.MULTILINE)

    @property
    def rows(self) -> dict[str, str]:
        """The report: for each actor its outcome and detail."""
        _, _, table = self.said.rpartition("  outcome\n")  # workers have theirs before it
        cells = (re.split(r"  +", line) for line in table.splitlines())
        return {row[0]: " ".join(row[3:]).lstrip("= ") for row in cells if len(row) > 3}

    @property
    def bars(self) -> dict[str, tuple[int, int]]:
        """The report: for each actor the columns in which its bar begins and ends."""
        found = (re.match(r"(\S+) [ \d.]*(=+)", line) for line in self.said.splitlines())
        return {match[1]: match.span(2) for match in found if match}

    def said_in_this_order(self, *lines: str) -> None:
        places = [self.said.index(line) for line in lines]
        assert places == sorted(places)


def free_ports() -> int:
    """The first of as many as a lesson may have."""
    while True:
        first = free_port()
        if [free_port() for _ in range(PORTS - 1)] == list(range(first + 1, first + PORTS)):
            return first


@asynccontextmanager
async def open_lesson(lesson: int | Path) -> AsyncIterator[Running]:
    """Start one, or a copy, on free ports; wait until its reader has heard what to do."""
    with trio.fail_after(TIMEOUT):
        port = free_ports()
        async with open_program(python(*MODULE, str(lesson), "--port", str(port))) as program:
            await program.line_with(RULE.strip())
            yield Running(program, port)


def changed(number: int, folder: Path) -> Path:
    """A copy of a lesson with the line changed that its reader is to change."""
    lesson = COURSE[number]
    found = re.match(
        r"(?:.*\. )?In (?:(\w+)\.)?(\w+)\(\), change\n\n    (.+)\n\ninto\n\n    (.+)\n\n",
        lesson.change,
    )
    assert found, lesson.change
    source = lesson.file.read_text()
    place = source.index(f"class {found[1]}:") if found[1] else 0
    place = source.index(f"def {found[2]}(", place)
    rest = source[place:].partition("\n\n\n")[0]
    assert rest.count(found[3]) == 1
    copy = folder / lesson.copy
    copy.write_text(source[:place] + source[place:].replace(found[3], found[4], 1))
    return copy


async def output_of(*arguments: str, code: int = 0, cwd: Path | None = None) -> str:
    async with open_program(python(*MODULE, *arguments), cwd=cwd) as program:
        assert await program.exit_code() == code, program.output
        return program.output


# The course as a whole.


async def test_the_list_names_each_in_a_line_with_the_extras_that_it_needs() -> None:
    lines = (await output_of()).splitlines()
    last = len(COURSE)
    for line, lesson in zip(lines[:last], COURSE.values(), strict=True):
        needs = f"  (needs {', '.join(lesson.needs)})" if lesson.needs else ""
        assert line == f"{lesson.number:2}  {lesson.title}{needs}"
    assert lines[last : last + 4] == [
        "",
        "Have a second terminal at hand: most of them run until you press Ctrl-C.",
        "Run one by its number:",
        "    " + "python -m trio_run.lessons 1",
    ]
    assert lines[last + 4 :] == [
        "For all of them:",
        "    pip install 'trio-run[http,metrics,websocket]'",
    ]


@pytest.mark.parametrize("lesson", COURSE.values(), ids=lambda lesson: lesson.file.stem)
def test_a_lesson_is_short_and_fits_a_terminal(lesson: Any) -> None:
    assert len(f"Lesson {lesson.number}: {lesson.title}") < 80
    texts = [lesson.text, lesson.to_try, lesson.change, lesson.elsewhere]
    assert " Go " in lesson.elsewhere
    assert " Go " not in lesson.text
    for line in "\n".join(texts).splitlines():
        assert len(line) <= 80 or line.startswith("    ")  # a command is one line, however long
    assert len(lesson.text.splitlines()) <= 36
    if lesson.number > 1:
        assert lesson.text.startswith("The last change: ")
    assert re.search(r"\?( \(.*\))?\Z", lesson.change)
    if lesson.before:
        before = COURSE[lesson.before].program().splitlines()
        assert sum(line not in before for line in lesson.program().splitlines()) <= 42


def test_nothing_is_to_be_typed_but_what_is_installed() -> None:
    for lesson in COURSE.values():
        for line in f"{lesson.to_try}\n{lesson.text}".splitlines():
            if line.startswith("    ") and not re.match(r" +\d s   ", line):
                assert re.match(
                    r" +(\{python\} -m trio_run\.lessons\.ask |kill -(TERM|HUP) )", line
                ), line


async def test_what_is_new_in_a_lesson_is_shown() -> None:
    said = await output_of("4", "--diff")
    assert "+    group.add(SignalReceiver())  # SIGINT and SIGTERM\n" in said
    assert "-        nursery.start_soon(show)\n" in said
    assert "TRY" not in said
    everything = (await output_of("1", "--diff")).splitlines()
    assert all(line.startswith("+") or not line for line in everything)


async def test_a_copy_is_the_file_and_does_not_replace_another(tmp_path: Path) -> None:
    said = await output_of("1", "--copy", cwd=tmp_path)
    assert said == "This is lesson 1: lesson_01.py\n"
    assert (tmp_path / "lesson_01.py").read_bytes() == COURSE[1].file.read_bytes()
    said = await output_of("1", "--copy", cwd=tmp_path, code=2)
    assert said == "lesson_01.py can't be written: File exists.\n"


async def test_a_copy_that_is_no_program_is_one_sentence(tmp_path: Path) -> None:
    assert "No such file" in await output_of("lesson_77.py", cwd=tmp_path, code=2)
    (tmp_path / "lesson_01.py").write_text("async def")
    said = await output_of("lesson_01.py", cwd=tmp_path, code=2)
    assert said.startswith("lesson_01.py can't be used: SyntaxError: ")
    assert said.count("\n") == 1


async def test_an_unknown_number_is_one_sentence() -> None:
    for number in ("0", "99", "-1", "one"):
        said = await output_of("--", number, code=2)
        assert said == f"There is no lesson {number}: they are 1 to {len(COURSE)}.\n"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("offset", [0, PORTS - 1])
async def test_a_port_in_use_is_one_sentence(kind: socket.SocketKind, offset: int) -> None:
    port = free_ports()
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", port + offset))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        said = await output_of("3", "--port", str(port), code=2)
    why = f"The ports {port} to {port + PORTS - 1} can't be used: Address already in use."
    assert said == f"{why} Choose others with --port.\n"


async def test_a_port_that_is_none_is_one_sentence() -> None:
    said = await output_of("3", "--port", "70000", code=2)
    assert re.fullmatch(r"The ports 70000 to 70003 can't be used: .*\w\. Choose others .*\n", said)


async def test_without_port_lesson_12_has_port_7120() -> None:
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # then somebody else has it: just as well
            taken.bind(("127.0.0.1", 7120))
            taken.listen()
        assert (await output_of("12", code=2)).startswith("The ports 7120 to 7123 can't be used: ")


async def test_what_is_not_installed_is_named_with_the_cure() -> None:
    source = """
        import sys
        sys.modules |= {"httptools": None, "trio_websocket": None}
        from trio_run.lessons.__main__ import main
        sys.exit(main(["13", "--port", "0"]))
    """
    async with open_program(script(source)) as program:
        assert await program.exit_code() == 2
    cure = f"{sys.executable} -m pip install 'trio-run[http,websocket]'"
    assert program.output == f"Lesson 13 needs more than is installed here: {cure}\n"


# The client.

ASK = ["-W", "error", "-m", "trio_run.lessons.ask"]


@pytest.mark.parametrize("scheme", ["tcp", "udp", "ws", "http"])
async def test_a_client_of_nobody_says_so(scheme: str) -> None:
    async with open_program(python(*ASK, f"{scheme}://127.0.0.1:{free_port()}", "roof")) as asking:
        assert await asking.exit_code() == 1
    assert asking.output == "(refused: nobody listens there)\n"


async def test_a_client_who_does_not_wait_leaves_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with open_program(python(*ASK, f"tcp://127.0.0.1:{port}")) as asking:
            await asking.line_with("(connected, and silent)")
            asking.signal(signal.SIGINT)
            assert await asking.exit_code() == 130
    assert asking.output == "(connected, and silent)\n"


@pytest.mark.parametrize("arguments", [[], ["roof"], ["ftp://127.0.0.1:1"], ["tcp://127.0.0.1"]])
def test_what_a_client_can_t_ask_is_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask.main(arguments) == 2
    said = capsys.readouterr().err
    assert "tcp://" in said
    assert said.count("\n") == 1


def test_a_client_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m trio_run.lessons.ask URL")


# Each lesson, in order. Many are played at the same time: most of it is waiting.

AT_ONCE = 12

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

    async def play(name: str, limit: trio.CapacityLimiter) -> None:
        try:
            async with limit:
                await SCENES[name](tmp_path_factory.mktemp(name))
        except Exception as exc:
            failures[name] = exc

    async def play_all() -> None:
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for name in SCENES:
                nursery.start_soon(play, name, limit)

    trio.run(play_all)
    return failures


@scene("battery", "Ctrl-C", "changed")
async def lesson_01_what_stops_one_stops_the_other(tmp_path: Path, case: str) -> None:
    async with open_lesson(changed(1, tmp_path) if case == "changed" else 1) as lesson:
        if case == "Ctrl-C":
            # While a Trio program starts, there are moments when a KeyboardInterrupt gets lost.
            await lesson.says("show: roof 20.1")
            lesson.ctrl_c()
        began = trio.current_time()
        assert await lesson.exit_code() == (130 if case == "Ctrl-C" else 1)
    assert trio.current_time() - began < 30
    program, tree = lesson.said.split("\n" + TREE)
    assert set(program.splitlines()[-2:]) == {"measure: stopped", "show: stopped"}
    if case == "Ctrl-C":
        assert "KeyboardInterrupt" in tree
    else:
        assert tree == (
            "    ExceptionGroup: Exceptions from Trio nursery (1 sub-exception)\n"
            "      OSError: the battery is empty\n"
        )


@scene(signal.SIGTERM, signal.SIGINT)
async def lesson_02_a_signal_cancels_both(tmp_path: Path, case: signal.Signals) -> None:
    async with open_lesson(2) as lesson:
        await lesson.says("show: roof 20.1")
        [stop] = lesson.commands
        if case == signal.SIGTERM:
            await lesson.type(stop)
        else:
            lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    *_, came, one, other, both = lesson.said.splitlines()
    assert came == f"signals: {case.name} came"
    assert {one, other} == {"measure: stopped", "show: stopped"}
    assert both == "station: all have stopped"


@scene()
async def lesson_02_changed_the_first_signal_stops_nothing(tmp_path: Path) -> None:
    async with open_lesson(changed(2, tmp_path)) as lesson:
        await lesson.says("show: roof 20.1")
        lesson.ctrl_c()
        await lesson.says("signals: I am busy")
        await lesson.says("show: roof 20.4")
        lesson.ctrl_c()
        assert await lesson.exit_code() == 130
    assert "KeyboardInterrupt" in lesson.said


@scene()
async def lesson_03_a_stop_cuts_off_whoever_is_answered(tmp_path: Path) -> None:
    async with open_lesson(3) as lesson:
        await lesson.says("show: roof 20.1")
        async with lesson.typing(lesson.commands[0]) as printed:
            await lesson.says("somebody asks for roof")
            lesson.ctrl_c()
        assert "degrees" not in printed[0]
        assert await lesson.exit_code() == 0
    assert lesson.said.endswith("station: all have stopped\n")


@scene("as it is", "changed")
async def lesson_03_an_error_of_one_client_is_the_end(tmp_path: Path, case: str) -> None:
    async with open_lesson(changed(3, tmp_path) if case == "changed" else 3) as lesson:
        await lesson.says("show: roof 20.1")
        roof, cellar = lesson.commands
        assert re.fullmatch(r"2\d\.\d degrees\n\(end of the stream\)\n", await lesson.type(roof))
        if case == "changed":
            assert "0.0 degrees\n" in await lesson.type(cellar)
            port = int(re.findall(r"tcp://127.0.0.1:(\d+)", cellar)[0])
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(b"\xff\n")
        else:
            await lesson.type(cellar)
        assert await lesson.exit_code() == 1
    tree = lesson.said.partition(TREE)[2].splitlines()
    assert [line.split(":")[0] for line in tree] == [
        "    ExceptionGroup",
        "      ExceptionGroup",
        "        UnicodeDecodeError" if case == "changed" else "        KeyError",
    ]


@scene()
async def lesson_04_a_client_gets_its_answer_and_the_error_of_one_is_its_own(
    tmp_path: Path,
) -> None:
    async with open_lesson(4) as lesson:
        await lesson.says("station: ready")
        cellar, roof, _ = lesson.commands
        assert "degrees" not in await lesson.type(cellar)
        assert "the handler failed for 127.0.0.1:" in lesson.said
        assert "KeyError: 'cellar'\n" in lesson.said
        async with lesson.typing(roof) as printed:
            await lesson.says("somebody asks for roof")
            lesson.ctrl_c()
        assert re.fullmatch(r"2\d\.\d degrees\n\(end of the stream\)\n", printed[0])
        assert await lesson.exit_code() == 0
    assert " s: SIGINT received (exit code 0)\n" in lesson.said
    [tcp] = [name for name in lesson.rows if name.startswith("tcp:")]
    assert lesson.rows[tcp] == "returned 1 drained, 0 cut, 1 failed"
    assert "measure: stopped" in lesson.said


@scene()
async def lesson_04_an_actor_that_returns_stops_all(tmp_path: Path) -> None:
    async with open_lesson(4) as lesson:
        await lesson.says("station: ready")
        await lesson.type(lesson.commands[2])
        assert await lesson.exit_code() == 0
    assert "wait_for_quit: I return\n" in lesson.said
    assert " s: 'wait_for_quit' returned (exit code 0)\n" in lesson.said
    assert len(lesson.rows) == 5


@scene()
async def lesson_04_changed_an_actor_that_fails_stops_all_as_gently(tmp_path: Path) -> None:
    async with open_lesson(changed(4, tmp_path)) as lesson:
        await lesson.says("station: ready")
        _, roof, leave = lesson.commands
        async with lesson.typing(roof) as printed:
            await lesson.says("somebody asks for roof")
            await lesson.type(leave)
        assert "degrees\n" in printed[0]
        assert await lesson.exit_code() == 1
    assert "  outcome\n" not in lesson.said
    tree = lesson.said.partition(TREE)[2]
    assert tree.startswith("    GroupFailed: ")
    assert "      OSError: I don't like to be asked that\n" in tree


@scene("once", "twice", "changed")
async def lesson_05_the_reading_is_finished_unless_somebody_cannot_wait(
    tmp_path: Path, case: str
) -> None:
    async with open_lesson(changed(5, tmp_path) if case == "changed" else 5) as lesson:
        await lesson.says("station: ready")
        await lesson.says("thermometer: a reading begins")
        lesson.ctrl_c()
        await lesson.says("thermometer: SIGINT received: this is my last reading")
        if case == "twice":
            lesson.ctrl_c()
        assert await lesson.exit_code() == (130 if case == "twice" else 0)
    finished = "thermometer: a reading ends" in lesson.said
    assert finished == (case == "once")
    assert lesson.rows["thermometer"] == ("returned" if finished else "cut")
    assert lesson.rows["show"] == "returned"
    if finished:
        assert lesson.bars["show"][1] < lesson.bars["thermometer"][1]
        assert lesson.duration < 5
    assert (0.9 < lesson.duration < 3) or case != "changed"


@scene()
async def lesson_06_the_idle_client_ends_at_once_and_the_busy_one_has_its_answer(
    tmp_path: Path,
) -> None:
    async with open_lesson(6) as lesson:
        await lesson.says("station: ready")
        idle, roof = lesson.commands
        async with open_program(idle.split()) as silent, lesson.typing(roof) as printed:
            await silent.line_with("(connected, and silent)")
            await lesson.says("somebody asks for roof")
            lesson.ctrl_c()
            await silent.line_with("(end of the stream)")
            assert printed == []
            assert await silent.exit_code() == 0
        assert re.fullmatch(r"2\d\.\d degrees\n\(end of the stream\)\n", printed[0])
        assert await lesson.exit_code() == 0
    [tcp] = [name for name in lesson.rows if name.startswith("tcp:")]
    assert lesson.rows[tcp] == "returned 2 drained, 0 cut"
    assert lesson.said.count("a reading begins") == lesson.said.count("a reading ends")


@scene()
async def lesson_06_a_second_ctrl_c_cuts_the_answer(tmp_path: Path) -> None:
    async with open_lesson(6) as lesson:
        await lesson.says("station: ready")
        _, roof = lesson.commands
        async with lesson.typing(roof) as printed:
            await lesson.says("somebody asks for roof")
            lesson.ctrl_c()
            await lesson.says("stopping: SIGINT received")
            lesson.ctrl_c()
        assert printed == ["(reset: something is missing)\n"]
        assert await lesson.exit_code() == 130


@scene()
async def lesson_06_changed_the_reading_is_broken_off(tmp_path: Path) -> None:
    async with open_lesson(changed(6, tmp_path)) as lesson:
        await lesson.says("station: ready")
        lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    assert "a reading begins" in lesson.said
    assert "a reading ends" not in lesson.said
    assert lesson.rows["measure"] == "returned"


@scene()
async def lesson_07_a_datagram_is_noted_and_a_broken_one_stops_nobody(tmp_path: Path) -> None:
    async with open_lesson(7) as lesson:
        await lesson.says("station: ready")
        good, bad, ask = lesson.commands
        assert await lesson.type(good) == "noted\n"
        async with lesson.typing(bad) as printed:
            await lesson.says("ValueError: could not convert string to float")
        assert printed == ["(no reply)\n"]
        assert await lesson.type(ask) == "17.5 degrees\n(end of the stream)\n"
        lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    [udp] = [name for name in lesson.rows if name.startswith("udp:")]
    assert lesson.rows[udp] == "returned 1 handled, 1 failed"


@scene()
async def lesson_07_changed_a_handler_is_waited_for(tmp_path: Path) -> None:
    async with open_lesson(changed(7, tmp_path)) as lesson:
        await lesson.says("station: ready")
        async with lesson.typing(lesson.commands[0]) as printed:
            await lesson.says("note: a datagram came")
            lesson.ctrl_c()
        assert printed == ["noted\n"]
        assert await lesson.exit_code() == 0


@scene("as it is", "changed")
async def lesson_08_the_viewer_hears_of_the_stop_at_once(tmp_path: Path, case: str) -> None:
    async with open_lesson(changed(8, tmp_path) if case == "changed" else 8) as lesson:
        await lesson.says("station: ready")
        [follow] = lesson.commands
        async with open_program(follow.split()) as viewer:
            await viewer.line_with("roof 2")
            lesson.ctrl_c()
            await viewer.exit_code()
            heard = trio.current_time()
        assert viewer.output.endswith("(closed: 1001 GOING_AWAY)\n")
        assert await lesson.exit_code() == 0
        assert (trio.current_time() - heard > 4) == (case == "changed")
    [websocket] = [name for name in lesson.rows if name.startswith("ws:")]
    assert lesson.rows[websocket] == "returned 1 drained, 0 cut"


@scene("as it is", "changed")
async def lesson_09_the_logbook_outlives_the_datagram(tmp_path: Path, case: str) -> None:
    async with open_lesson(changed(9, tmp_path) if case == "changed" else 9) as lesson:
        await lesson.says("station: ready")
        await lesson.says("(1 in the logbook)")  # the thermometer rests now
        async with lesson.typing(lesson.commands[0]) as printed:
            await lesson.says("note: a datagram came")
            lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    bars = lesson.bars
    [udp] = [name for name in lesson.rows if name.startswith("udp:")]
    if case == "changed":
        assert printed == ["(no reply)\n"]
        assert "AssertionError: the logbook is closed" in lesson.said
        assert bars["logbook"][0] < bars[udp][1]
    else:
        assert printed == ["noted\n"]
        assert bars[udp][1] - 1 <= bars["logbook"][0]
        lesson.said_in_this_order(
            "stopping: SIGINT received",
            "logbook: whoever needs me has stopped, so I close",
            "logbook: closed, with ",
            "station stopped in ",
        )
    assert bars["show"][0] >= max(bars[udp][1], bars["logbook"][1]) - 1  # a daemon


@scene()
async def lesson_10_the_log_names_who_hangs_and_where(tmp_path: Path) -> None:
    async with open_lesson(10) as lesson:
        await lesson.says("station: ready")
        lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    lesson.said_in_this_order(
        "station: stopping: SIGINT received",
        "station: the grace of 2 s is over: cut logbook (sending the day's report)",
        "station: 5 s into the stop, waiting for logbook (sending the day's report)",
        "station: 'logbook' has not returned 5 s after a hard cancel. It is here:\n",
        f'File "{COURSE[10].file}", line ',
        ", in send_by_radio\n",
        "station stopped in ",
    )
    assert lesson.duration >= 9
    assert lesson.rows["logbook"] == "returned sent"  # no cancel has ever reached it
    stamps = re.findall(r"^(\d\d):(\d\d):(\d\d) station: ", lesson.said, re.MULTILINE)
    seconds = [int(hour) * 3600 + int(minute) * 60 + int(second) for hour, minute, second in stamps]
    stop, cut, waiting, stacks = seconds[-4:]
    assert [round((at - stop) % 86400) for at in (cut, waiting, stacks)] == pytest.approx(
        [2, 5, 7], abs=1
    )


@scene()
async def lesson_10_changed_a_shield_with_a_limit_lets_it_stop(tmp_path: Path) -> None:
    async with open_lesson(changed(10, tmp_path)) as lesson:
        await lesson.says("station: ready")
        lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    assert 1 <= lesson.duration < 5
    assert lesson.rows["logbook"] == "returned sent"


@scene("wait", "again")
async def lesson_11_the_lame_duck_serves_and_says_that_it_is_not_ready(
    tmp_path: Path, case: str
) -> None:
    async with open_lesson(11) as lesson:
        await lesson.says("station: ready")
        page, readyz = lesson.commands
        assert (await lesson.type(page)).startswith("200 OK\nroof 20.")
        assert await lesson.type(readyz) == "200 OK\nready\n"
        lesson.ctrl_c()
        await lesson.says("stopping: SIGINT received")
        assert await lesson.type(readyz) == "503 Service Unavailable\nnot ready\n"
        assert (await lesson.type(page)).startswith("200 OK\nroof 20.")
        if case == "again":
            lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    assert ("station: the lame duck ends early: SIGINT" in lesson.said) == (case == "again")
    assert lesson.duration >= 10 or case == "again"


@scene()
async def lesson_11_changed_it_does_not_start(tmp_path: Path) -> None:
    async with open_lesson(changed(11, tmp_path)) as lesson:
        assert await lesson.exit_code() == 1
    assert re.search(r"    ValueError: .*lame_duck.*grace", lesson.said)


@scene()
async def lesson_12_its_tests_pass_without_waiting(tmp_path: Path) -> None:
    async with open_lesson(12) as lesson:
        assert lesson.commands == []
        assert await lesson.exit_code() == 0
    passed = re.findall(r"passed: (\w+)\n +([\d,]+) s for Trio, ([\d.]+) ms for us", lesson.said)
    names = re.findall(r"^async def (test_\w+)", COURSE[12].file.read_text(), re.MULTILINE)
    assert [name for name, _, _ in passed] == names
    assert [seconds for _, seconds, _ in passed] == ["3", "3,602", "86,402"]
    why = "the block around it has ended"
    assert f"group stopped in 1.00 s: {why} (exit code 0)\n" in lesson.said
    assert len(lesson.said.splitlines()) < 24  # a screen


@scene()
async def lesson_12_changed_a_test_finds_it(tmp_path: Path) -> None:
    async with open_lesson(changed(12, tmp_path)) as lesson:
        assert await lesson.exit_code() == 1
    assert lesson.said.count("passed: ") == 1
    assert "    AssertionError" in lesson.said


@scene("stop", "too often")
async def lesson_13_the_neighbour_comes_back_and_the_third_failure_is_too_much(
    tmp_path: Path, case: str
) -> None:
    async with open_lesson(13) as lesson:
        await lesson.says("station: ready")
        cut, readyz = lesson.commands
        await lesson.type(cut)
        await lesson.says("life 1 of 'neighbour' failed")
        assert await lesson.type(readyz) == "503 Service Unavailable\nnot ready\n"
        await lesson.says("station: ready again")
        assert await lesson.type(readyz) == "200 OK\nready\n"
        if case == "stop":
            lesson.ctrl_c()
        else:
            await lesson.type(cut)
        assert await lesson.exit_code() == (0 if case == "stop" else 1)
    lesson.said_in_this_order(
        "neighbour: call 1",
        "life 1 of 'neighbour' failed: OSError: the cable is cut",
        "neighbour: call 2",
        "life 2 of 'neighbour' failed: OSError: no dial tone",
        "neighbour: call 3",
    )
    assert "neighbour: call 4" not in lesson.said
    assert ("'neighbour' failed 3 times in 60 s" in lesson.said) == (case != "stop")


@scene()
async def lesson_13_changed_the_start_waits_for_the_second_life(tmp_path: Path) -> None:
    async with open_lesson(changed(13, tmp_path)) as lesson:
        await lesson.says("station: ready")
        lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    lesson.said_in_this_order("neighbour: call 1", "no dial tone", "neighbour: call 2", ": ready")


@scene("as it is", "changed")
async def lesson_14_it_says_how_it_is_to_the_end(tmp_path: Path, case: str) -> None:
    async with open_lesson(changed(14, tmp_path) if case == "changed" else 14) as lesson:
        await lesson.says("station: ready")
        cut, readyz, status = lesson.commands
        assert await lesson.type(readyz) == "200 OK\nready\n"
        await lesson.type(cut)
        await lesson.says("life 1 of 'neighbour' failed")
        assert (await lesson.type(readyz)).startswith("503 ")
        shown = json.loads((await lesson.type(status)).partition("\n")[2])
        assert (shown["name"], shown["state"]) == ("station", "running")
        page = await lesson.type(status.removesuffix("status"))
        assert ('name="stop-token" content=""' not in page) == (case == "changed")
        await lesson.says("life 2 of 'neighbour' failed")
        lesson.ctrl_c()
        await lesson.says("stopping: SIGINT")
        shown = json.loads((await lesson.type(status)).partition("\n")[2])
        assert shown["state"] == "lame duck"
        lesson.ctrl_c()
        assert await lesson.exit_code() == 0


@scene("as it is", "changed")
async def lesson_15_a_worker_that_ends_is_begun_anew(tmp_path: Path, case: str) -> None:
    async with open_lesson(changed(15, tmp_path) if case == "changed" else 15) as lesson:
        await lesson.says("station: ready")
        roof, crash = lesson.commands
        assert "degrees" not in await lesson.type(crash)
        await lesson.says("ended by itself, begun anew in")
        printed = await lesson.type(roof)
        assert re.fullmatch(r"20\.0 degrees, says process \d+\n\(end of the stream\)\n", printed)
        lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    assert lesson.said.count("worker stopped in ") >= 2
    assert "1 restart" in lesson.rows["workers"]


@scene("as it is", "changed")
async def lesson_16_a_release_loses_no_request(tmp_path: Path, case: str) -> None:
    copy = tmp_path / COURSE[16].copy
    copy.write_bytes(COURSE[16].file.read_bytes())
    async with open_lesson(copy if case == "changed" else 16) as lesson:
        await lesson.says("station: ready")
        hup, roof = lesson.commands
        async with lesson.typing(roof) as before:
            if case == "changed":
                changed(16, tmp_path)
            await lesson.type(hup)
            await lesson.says("workers: replaced, all 2")
        assert re.match(r"(20\.0 degrees|293\.1 kelvin), says process", before[0])
        new = "293.1 kelvin" if case == "changed" else "20.0 degrees"
        assert (await lesson.type(roof)).startswith(f"{new}, says process ")
        lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    assert "2 replaced" in lesson.rows["workers"]


@scene(*(number for number in COURSE if 4 < number < 15 and number != 12))
async def lesson_by_lesson_what_has_grown_before_goes_on(tmp_path: Path, case: int) -> None:
    program = COURSE[case].program()
    async with open_lesson(case) as lesson:
        await lesson.says("station: ready")
        asking = f"{sys.executable} -W error -m trio_run.lessons.ask"
        tcp = f"{asking} tcp://127.0.0.1:{lesson.port}"
        assert "degrees\n" in await lesson.type(f"{tcp} roof")
        if "UDPListener" in program:
            udp = f"{asking} udp://127.0.0.1:{lesson.port}"
            assert await lesson.type(f"{udp} garden 17.5") == "noted\n"
            assert "17.5 degrees\n" in await lesson.type(f"{tcp} garden")
        if "WebSocketListener" in program:
            url = f"ws://127.0.0.1:{lesson.port + 1}"
            async with open_program(python("-m", "trio_run.lessons.ask", url)) as viewer:
                await viewer.line_with("garden 17.5")
        if "HTTPListener" in program:
            page = await lesson.type(f"{asking} http://127.0.0.1:{lesson.port + 2}/")
            assert "garden 17.5\n" in page
        if "quitting" in program:
            await lesson.type(f"{tcp} quit")
        else:
            lesson.ctrl_c()
        if "lame_duck" in program:
            await lesson.says("stopping: SIGINT received")
            lesson.ctrl_c()
        assert await lesson.exit_code() == 0
    assert "Traceback" not in lesson.said


@pytest.mark.parametrize("name", SCENES)
def test_a_lesson(name: str, failures: dict[str, Exception]) -> None:
    if name in failures:
        raise failures[name]
