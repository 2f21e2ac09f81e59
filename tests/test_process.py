"""Rule P3: a child process as an actor."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_run
from trio_run import (
    CannotStart,
    Cause,
    Group,
    GroupFailed,
    Process,
    ProcessFailed,
    Report,
    State,
    _child,
    _notices,
    _process,
)
from trio_run.testing import open_program, running, wait_stopped

from . import TIMEOUT
from .children import (
    SLEEP,
    exists,
    notifying,
    open_descriptors,
    quick,
    shell,
    state_of,
    until,
)
from .programs import script


async def run(*actors: object, **settings: Any) -> Report:
    group = Group(**settings)
    for actor in actors:
        group.add(actor)
    with trio.fail_after(TIMEOUT):
        return await group.run()


async def failure_of(process: Process) -> Exception:
    with pytest.raises(GroupFailed) as failed:
        await run(process)
    [error] = failed.value.exceptions
    return error


async def process_failed(process: Process) -> ProcessFailed:
    error = await failure_of(process)
    assert isinstance(error, ProcessFailed)
    return error


@contextlib.contextmanager
def log_of(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The lines that children write in the block."""
    lines: list[str] = []
    with caplog.at_level(logging.INFO, logger="trio_run"):
        yield lines
    lines += [one.getMessage() for one in caplog.records if one.name == "trio_run.process"]


def modes_of(*paths: Path) -> list[int]:
    """The permissions of those that are there."""
    return [stat.S_IMODE(path.stat().st_mode) for path in paths if path.exists()]


def bound_addresses() -> str:
    """What everybody can learn of Unix sockets."""
    return Path("/proc/net/unix").read_text()


# Its end.


async def test_rule_p3_exit_code_0_is_a_return() -> None:
    report = await run(Process(["true"]))
    [line] = report.actors
    assert (line.name, line.outcome, line.detail) == ("true", "returned", "exit code 0")
    assert str(report.cause) == "'true' returned"


async def test_rule_p3_another_exit_code_is_a_failure_that_says_with_what() -> None:
    error = await process_failed(Process(shell("exit 3"), name="shop"))
    assert str(error) == "'shop' ended with exit code 3"
    assert (error.exit_code, error.signal, error.stderr) == (3, None, "")
    assert error.command == ("sh", "-c", "exit 3")


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (37, "signal 37")])
async def test_rule_p3_so_is_the_end_by_a_signal(number: int, name: str) -> None:
    error = await process_failed(Process(shell(f"kill -{number} $$"), name="shop"))
    assert str(error) == f"'shop' was ended by {name}"
    assert (error.exit_code, error.signal) == (None, number)


async def test_rule_p3_the_stop_signal_that_nobody_here_has_sent_is_a_failure() -> None:
    error = await process_failed(Process(shell("kill $$")))
    assert error.signal == signal.SIGTERM


async def test_rule_p3_a_failure_has_the_last_lines_of_its_stderr() -> None:
    source = "for n in $(seq 20); do echo line $n >&2; done; echo out; printf whole >&2; exit 1"
    error = await process_failed(Process(shell(source), output="log"))
    lines = [*(f"line {n}" for n in range(12, 21)), "whole"]
    assert error.stderr == "\n".join(lines)
    assert str(error) == (
        "'sh' ended with exit code 1. Last on its stderr:"
        + "".join(f"\n  {each}" for each in lines)
    )


@pytest.mark.parametrize("how", ["exit 0", "kill -9 $$", "exec true"])
async def test_rule_p3_what_it_has_left_in_its_group_is_killed(how: str, tmp_path: Path) -> None:
    left = tmp_path / "left"
    process = Process(shell(f"sleep 1000 & echo $! > {left}; {how}"))
    with contextlib.suppress(GroupFailed):
        await run(process)
    await until(lambda: not state_of(int(left.read_text())))


# Its start.


async def test_rule_p3_what_can_not_be_started_is_said_in_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("text")
    program = tmp_path / "program"
    program.write_bytes(b"\0\0")
    program.chmod(0o700)
    closed = socket.create_server(("127.0.0.1", 0))
    process_with_closed = Process(["true"], sockets=[closed])
    closed.close()
    for process, sentence in [
        (Process(["no-such-program"]), "(no-such-program): No such file or directory"),
        (Process([str(text)]), f"({text}): Permission denied"),
        (Process([program]), f"({program}): Exec format error"),
        (Process(["true"], env={"PATH": "/nowhere"}), "(true): No such file or directory"),
        (
            Process(["true"], cwd=tmp_path / "nowhere"),
            "(true): its working directory: No such file or directory",
        ),
        (process_with_closed, "(true): a socket that it is to have is closed"),
    ]:
        error = await failure_of(process)
        assert isinstance(error, CannotStart)
        assert str(error) == f"cannot start {process.name!r} {sentence}"


@pytest.mark.parametrize("where", ["pipe", "process", "notices", "output"])
async def test_rule_p3_so_is_a_lack_of_descriptors(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = open_descriptors()
    with monkeypatch.context() as patch:
        if where == "notices":
            patch.setattr(socket.socket, "bind", exhausted)
        elif where == "process":
            patch.setattr(_child.subprocess, "Popen", exhausted)
        else:
            patch.setattr(_child.os, "pipe", exhausted)
        output: Any = "inherit" if where == "pipe" else "log"
        process = Process(["true"], notify=where == "notices", output=output)
        error = await failure_of(process)
    assert isinstance(error, CannotStart)
    assert str(error) == "cannot start 'true' (true): Too many open files"
    assert open_descriptors() == before


async def test_rule_p3_so_is_an_end_that_nobody_would_hear_of() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        error = await failure_of(Process(["true"]))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert isinstance(error, CannotStart)
    assert str(error) == (
        "cannot start 'true' (true): SIGCHLD is ignored here, so nobody would hear how it ends"
    )


async def test_rule_p3_one_that_ends_before_it_is_the_command_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "true")
        error = await failure_of(Process(["false"]))
    assert str(error) == "cannot start 'false' (false): it ended before it was there"


async def test_rule_p3_without_descriptors_to_watch_it_by_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted(_pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", exhausted)
        assert (await process_failed(Process(shell("sleep 0.1; exit 3")))).exit_code == 3


async def test_rule_p3_what_can_not_be_right_is_said_at_once() -> None:
    for command in ("true", Path("true"), 3, None):
        with pytest.raises(TypeError, match="command must be a list"):
            Process(command)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="command must be of strings and paths, not 1"):
        Process(["true", 1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="command must name a program"):
        Process([])
    with pytest.raises(ValueError, match="command must name a program"):
        Process([""])
    with pytest.raises(ValueError, match="no zero byte"):
        Process(["true", "a\0b"])
    with pytest.raises(
        ValueError,
        match='output must be "inherit" or "log"',
    ):
        Process(["true"], output="pipe")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sockets must be a list of bound sockets"):
        Process(["true"], sockets=[3])  # type: ignore[list-item]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for name in ("a:b", "a\nb", "ü", "a" * 256):
            with pytest.raises(ValueError, match="can't be the name of a socket"):
                Process(["true"], sockets={name: [listening]})
        with pytest.raises(TypeError, match="must be a string, not 3"):
            Process(["true"], sockets={3: [listening]})  # type: ignore[dict-item]
    with pytest.raises(
        TypeError, match="env must be a mapping, of names to values, not \\['A=1'\\]"
    ):
        Process(["true"], env=["A=1"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cwd must be a string or a path, not 3"):
        Process(["true"], cwd=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no zero byte in cwd"):
        Process(["true"], cwd="a\0b")
    for number in (0, 1000, "TERM"):
        with pytest.raises(ValueError, match=f"stop_signal must be one, .*, not {number!r}"):
            Process(["true"], stop_signal=number)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grace must be a number of seconds, 0 or more, not -1"):
        Process(["true"], grace=-1)
    with pytest.raises(TypeError, match="env must be of strings: 'A' is 1"):
        Process(["true"], env={"A": 1})  # type: ignore[dict-item]
    for name, value in (("", "x"), ("A=B", "x"), ("A", "x\0")):
        with pytest.raises(ValueError, match="there can be no variable"):
            Process(["true"], env={name: value})


async def test_rule_p3_it_runs_once() -> None:
    process = Process(["true"])
    await process.execute()
    with pytest.raises(RuntimeError, match="'true' has run before: a Process runs once"):
        await process.execute()


# What it is given.


async def test_rule_p3_it_begins_with_a_clean_sheet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.setenv(name, "1")
    source = """
        import os
        print(sorted(os.environ))
        print(os.readlink("/proc/self/fd/0"), os.getpgid(0) == os.getpid())
        for line in open("/proc/self/status"):
            if line[:6] in ("SigBlk", "SigIgn"):
                print(line.strip())
    """
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        with log_of(caplog) as lines:
            await run(Process(quick(source), output="log", name="it"))
            await run(Process(shell("grep Sig[BI] /proc/self/status; env"), output="log", env={}))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGUSR1, before)
    # Python ignores two by itself, and sets LC_CTYPE.
    names = sorted({*os.environ, "LC_CTYPE"} - {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
    names = [name for name in names if not name.startswith("LISTEN_")]
    if "LC_ALL" in os.environ or os.environ.get("LANG", "C") != "C":
        names = [name for name in names if name != "LC_CTYPE" or name in os.environ]
    assert lines[0] == f"it: {names}"
    assert lines[1] == "it: /dev/null True"
    # Signals 32 and 33 are glibc's own: it lets nobody set them, so they stay as they came.
    masks = [int(line.rpartition("\t")[2], 16) & ~(3 << 31) for line in lines[2:6]]
    assert masks == [0, 0x01001000, 0, 0]
    assert lines[6:] == [f"sh: PWD={Path.cwd()}"]  # it is the shell's own


async def test_rule_p3_it_has_the_environment_and_the_directory_that_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = 'import os; print(os.environ["A"], os.environ.get("LC_CTYPE"), os.getcwd())'
    with log_of(caplog) as lines:
        for locale in ("C.UTF-8", "POSIX"):
            env = {"A": "ü", "LC_CTYPE": locale, "LC_ALL": "C.UTF-8"}
            await run(Process(quick(source), env=env, cwd=tmp_path, output="log", name="it"))
    assert lines == [f"it: ü C.UTF-8 {tmp_path}", f"it: ü POSIX {tmp_path}"]


async def test_rule_p3_what_this_python_needs_to_begin_is_not_the_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    python = tmp_path / "python"
    needs = f'[ "$LD_LIBRARY_PATH" = /needed ] && exec {sys.executable} "$@"'
    python.write_text(f"#!/bin/sh\n{needs}\n")
    python.chmod(0o700)
    with log_of(caplog) as lines, monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        patch.setenv("LD_LIBRARY_PATH", "/needed")
        for env in (None, {}, {"LD_LIBRARY_PATH": "/own"}):
            await run(Process(shell("echo $LD_LIBRARY_PATH."), env=env, output="log", name="it"))
    assert lines == ["it: /needed.", "it: .", "it: /own."]


TELLS_SOCKETS = """
    import os
    from trio_run import inherited_sockets
    given = inherited_sockets()
    print({name: [each.getsockname()[1] for each in some] for name, some in given.items()})
    numbers = [each.fileno() for some in given.values() for each in some]
    print(numbers)
    # What is open beside the directory that is being read.
    print(sorted(int(number) for number in os.listdir("/proc/self/fd"))[:-1])
"""


@pytest.mark.parametrize("count", [2, 3, 20])
async def test_rule_p3_it_has_its_sockets_and_no_other_descriptor(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        ports = [each.getsockname()[1] for each in reversed(opened)]
        for each in opened[::2]:
            each.set_inheritable(True)  # by somebody's mistake
        sockets = {"web": opened[:0:-1], "control": opened[:1]}
        with log_of(caplog) as lines:
            process = Process(script(TELLS_SOCKETS), sockets=sockets, output="log", name="it")
            await run(process)
            listed = Process(script(TELLS_SOCKETS), sockets=opened[::-1], output="log", name="it")
            await run(listed)
            assert all(each.fileno() != -1 for each in opened)
    named = {"web": ports[:-1], "control": ports[-1:]}
    numbers = [*range(3, 3 + count)]
    what = [f"it: {numbers}", f"it: {[0, 1, 2, *numbers]}"]
    assert lines == [f"it: {named}", *what, f"it: { {'unknown': ports} }", *what]


async def test_rule_p3_a_socket_may_be_given_under_two_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(20)]
        sockets = {"web": opened[-1:], "too": opened[-1:]}
        with log_of(caplog) as lines:
            await run(Process(script(TELLS_SOCKETS), sockets=sockets, output="log", name="it"))
        port = opened[-1].getsockname()[1]
    assert lines[0] == f"it: { {'web': [port], 'too': [port]} }"


# Its stop.


async def test_rule_p3_interrupted_it_is_sent_the_stop_signal() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        process = Process(SLEEP, stop_signal=signum)
        async with running(process) as group:
            assert process.pid is not None
            assert process.status == f"pid {process.pid}"
            assert process.ready
        [line] = group.report.actors
        assert (line.outcome, line.detail) == ("returned", signum.name)
        assert process.pid is None
        assert not process.ready


async def test_rule_p3_what_it_does_then_is_its_own_affair(tmp_path: Path) -> None:
    # It alone gets the signal: what it has begun gets it from it, where it wants that.
    source = f"""
        sh -c 'trap "echo twice >> {tmp_path}/log" TERM; sleep 0.3; sleep 0.3' & child=$!
        trap 'echo once >> {tmp_path}/log; wait $child; exit 0' TERM
        echo ready > {tmp_path}/ready; wait
    """
    async with running(Process(shell(source))) as group:
        await until((tmp_path / "ready").exists)
    assert group.report.actors[0].outcome == "returned"
    assert (tmp_path / "log").read_text() == "once\n"


async def test_rule_p3_a_failure_during_the_stop_is_one(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    source = f"trap 'exit 5' TERM; echo > {ready}; while :; do sleep 0.01; done"
    with pytest.raises(GroupFailed) as failed:
        async with running(Process(shell(source))):
            await until(ready.exists)
    [error] = failed.value.exceptions
    assert isinstance(error, ProcessFailed)
    assert error.exit_code == 5


async def test_rule_p3_a_stop_before_it_runs_reaches_it_when_it_does() -> None:
    process = Process(SLEEP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.execute)
        while process.pid is None:
            await trio.lowlevel.checkpoint()
        assert not process.ready
        process.interrupt(Cause())
    assert process.status == "SIGTERM"


async def test_rule_p3_a_stop_before_it_is_ready_is_no_failure() -> None:
    process = Process(SLEEP, notify=True)
    async with running(process, wait_ready=False) as group:
        await until(lambda: process.pid is not None and state_of(process.pid) == "S")
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p3_one_that_is_paused_hears_of_a_stop() -> None:
    process = Process(SLEEP)
    async with running(process) as group:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        await until(lambda: state_of(process.pid) == "T")
    assert group.report.actors[0].detail == "SIGTERM"


async def test_rule_p3_cut_it_is_killed_with_its_group(tmp_path: Path) -> None:
    left = tmp_path / "left"
    source = f"trap '' TERM; sleep 1000 & echo $! > {left}; kill -STOP $$; while :; do :; done"
    process = Process(shell(source), grace=0.1)
    async with running(process) as group:
        pid = process.pid
        await until(left.exists)
        await until(lambda: state_of(pid) == "T")
    assert group.report.actors[0].outcome == "cut"
    assert group.report.actors[0].detail == "SIGKILL"
    assert not exists(pid)
    await until(lambda: not state_of(int(left.read_text())))


@pytest.mark.parametrize("notify", [False, True])
async def test_rule_p3_whenever_it_is_cancelled_nothing_is_left(notify: bool) -> None:
    pids = []
    before = open_descriptors()
    for number in range(30):
        process = Process(SLEEP, notify=notify, output="log")
        with trio.move_on_after(number * 0.002):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.execute)
                while process.pid is None:
                    await trio.lowlevel.checkpoint()
                pids.append(process.pid)
                await trio.sleep_forever()
    assert len(pids) > 20
    assert not any(map(exists, pids))
    assert open_descriptors() == before


async def test_rule_p3_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    parent = f"""
        from trio_run import Process, run
        run(Process(["sh", "-c", "echo $$ > {pid_file}; exec sleep 1000"]))
    """
    async with open_program(script(parent)) as program:
        await until(lambda: pid_file.exists() and pid_file.read_text())
        child = int(pid_file.read_text())
        assert state_of(child)
        program.signal(signal.SIGKILL)
        assert await program.exit_code() == -signal.SIGKILL
    await until(lambda: not state_of(child))


async def test_rule_p3_nor_one_that_ends_while_it_is_being_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_child.os, "getpid", lambda: 1)  # as if it had been another's child
        error = await failure_of(Process(["true"]))
    assert str(error) == "cannot start 'true' (true): it ended before it was there"


async def test_rule_p3_another_version_that_is_installed_meanwhile_changes_nothing(
    tmp_path: Path,
) -> None:
    shutil.copytree(Path(_child.__file__).parent, tmp_path / "trio_run")
    parent = f"""
        import pathlib, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from trio_run import Process, run
        pathlib.Path({str(tmp_path)!r}, "trio_run", "_launcher.py").write_text("no_launcher")
        sys.exit(run(Process(["echo", "launched"])))
    """
    # What is measured is not the copy.
    env = {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE")}
    async with open_program(script(parent), env=env) as program:
        assert await program.exit_code() == 0
    assert "launched" in program.output


# What it writes.


async def test_rule_p3_its_lines_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    source = r"""
        import os, time
        os.write(1, b"one\r\nt")
        time.sleep(0.1)
        os.write(1, b"wo\n\n\xff\xc3\xa9\n" + 20000 * b"x" + b"\nlast")
    """
    with log_of(caplog) as lines:
        await run(Process(quick(source), output="log", name="shop"))
    assert lines[:4] == ["shop: one", "shop: two", "shop: ", "shop: \\xffé"]
    assert lines[4:] == [
        "shop: [part 1] " + 16384 * "x",
        "shop: [part 2, the last] " + (20000 - 16384) * "x",
        "shop: last",
    ]


async def test_rule_p3_a_line_that_never_ends_is_logged_in_parts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = """
        import os, sys
        def write(data):
            while data:
                data = data[os.write(2, data):]
        write("€".encode() * 1_000_000 + 20000 * b"\\x80" + b"\\nnext\\n" + 16384 * b"x")
        sys.exit(1)
    """
    with log_of(caplog) as lines:
        error = await process_failed(Process(quick(source), output="log", name="shop"))
    *parts, following, exact = (line.removeprefix("shop: ") for line in lines)
    assert (following, exact) == ("next", 16384 * "x")
    marks, texts = zip(*(part.removeprefix("[").split("] ", 1) for part in parts), strict=True)
    numbers = [f"part {number}" for number in range(1, len(parts) + 1)]
    assert list(marks) == [*numbers[:-1], f"{numbers[-1]}, the last"]
    assert "".join(texts) == 1_000_000 * "€" + 20000 * "\\x80"
    assert max(len(text.encode()) for text in texts[:100]) <= 16384
    kept = error.stderr.splitlines()
    assert len(kept) == 10
    assert max(map(len, kept)) == 1003
    assert kept[-1] == 1000 * "x" + "..."


async def test_rule_p3_one_that_closes_its_output_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    process = Process(shell("echo one; exec >&- 2>&-; exec sleep 1000"), output="log")
    with log_of(caplog) as lines:
        async with running(process) as group:
            await until(lambda: "sh: one" in caplog.messages)
            await wait_all_tasks_blocked(0.05)
            assert group.state is State.RUNNING
    assert lines == ["sh: one"]


async def test_rule_p3_who_holds_its_output_when_it_has_ended_holds_up_nobody(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    # In a session of its own: that is no more of the process group.
    source = (
        f"setsid sh -c 'echo $$ > {left}; exec sleep 1000' & while ! test -s {left}; do :; done"
    )
    with log_of(caplog) as lines:
        await run(Process(shell(f"{source}; echo end"), output="log"))
    os.kill(int(left.read_text()), signal.SIGKILL)
    assert lines == ["sh: end"]


async def test_rule_p3_nor_does_who_goes_on_writing(caplog: pytest.LogCaptureFixture) -> None:
    left = "setsid sh -c 'echo $$; exec yes' & sleep 0.1"
    with log_of(caplog) as lines:
        await run(Process(shell(left), output="log"))
    os.kill(int(lines[0].removeprefix("sh: ")), signal.SIGKILL)
    assert lines[1] == "sh: y"


async def test_rule_p3_a_log_that_fails_harms_nothing() -> None:
    class Full(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            raise OSError(errno.ENOSPC, "full")

    logger = logging.getLogger("trio_run.process")
    handler = Full()
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        error = await process_failed(Process(shell("echo one >&2; exit 1"), output="log"))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert error.stderr == "one"


# What it says.


async def test_rule_p3_with_notify_it_is_ready_when_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    source = f"""
        say("STATUS=warming  up")
        while not os.path.exists({str(go)!r}):
            time.sleep(0.01)
        say("READY=1\\nSTATUS=\\xfcber 3 connections")
        say("READY=1")
        signal.pause()
    """
    monkeypatch.setattr(_process, "_AT_ONCE", 1)
    process = Process(notifying(source), notify=True)
    async with running(process, wait_ready=False) as group:
        await until(lambda: process.status == "warming up")
        assert not process.ready
        assert group.state is State.STARTING
        go.touch()
        await until(lambda: group.ready)
        assert process.ready
        assert process.status == "über 3 connections"
    assert group.report.actors[0].detail == "SIGTERM"


async def test_rule_p3_one_that_says_that_it_stops_is_not_ready() -> None:
    source = """
        say("READY=1")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        signal.signal(signal.SIGUSR1, lambda *_: say("STOPPING=1"))
        say("STATUS=listens")
        while True:
            time.sleep(10)
    """
    process = Process(notifying(source), notify=True)
    async with running(process) as group:
        await until(lambda: process.status == "listens")
        assert group.ready
        assert process.pid is not None
        os.kill(process.pid, signal.SIGUSR1)
        await until(lambda: not group.ready)
        assert group.state is State.RUNNING


async def test_rule_p3_one_that_ends_before_it_was_ready_has_failed() -> None:
    error = await process_failed(Process(["true"], notify=True))
    assert str(error) == "'true' ended with exit code 0 before it was ready"
    error = await process_failed(Process(["false"], notify=True))
    assert str(error) == "'false' ended with exit code 1 before it was ready"


async def test_rule_p3_what_it_says_last_is_heard() -> None:
    report = await run(Process(notifying('say("READY=1")'), notify=True))
    assert report.actors[0].outcome == "returned"
    assert report.actors[0].ready is not None


async def test_rule_p3_its_group_is_believed_and_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = notifying('say("STATUS=from inside"); signal.pause()')[-1]
    source = f"""
        import subprocess
        say("STATUS=" + os.environ["NOTIFY_SOCKET"])
        say("READY=1")
        signal.sigwait([signal.SIGUSR1])
        subprocess.run([sys.executable, "-c", {inner!r}])
    """
    blocked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
    command = notifying(source)
    command[-1] = blocked + command[-1]
    process = Process(command, notify=True, name="shop")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        async with running(process):
            address = process.status
            assert address.startswith("/")
            for text in ("STATUS=from outside", "STOPPING=1"):
                stranger.sendto(text.encode(), address)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGUSR1)
            await until(lambda: process.status != address)
            assert process.status == "from inside"
            assert process.ready
    [warning] = [one for one in caplog.messages if "passed over" in one]
    assert warning == (
        f"shop: STATUS= from process {os.getpid()} is passed over: "
        "that has ended, or is not in its group"
    )


async def test_rule_p3_nobody_else_learns_where_it_is_listened_to() -> None:
    source = 'say("STATUS=" + os.environ["NOTIFY_SOCKET"]); say("READY=1"); signal.pause()'
    process = Process(notifying(source), notify=True)
    async with running(process):
        address = Path(process.status)
        assert modes_of(address.parent, address) == [0o711, 0o666]
        known = bound_addresses()
        assert address.parent.name in known
        assert address.name not in known
        process.interrupt(Cause())
    assert modes_of(address.parent) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop rights")
async def test_rule_p3_one_that_has_dropped_its_rights_is_heard() -> None:
    source = 'os.setuid(65534); say("READY=1"); signal.pause()'
    process = Process(notifying(source), notify=True)
    async with running(process):
        assert process.ready
        process.interrupt(Cause())


async def test_rule_p3_nothing_is_left_of_where_it_could_not_be_listened_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound: list[Path] = []

    def refused(path: Path, _target: Path) -> Path:
        bound.append(path)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp") as where:
        patch.setattr(_notices, "_IN_MEMORY", where)
        patch.setattr(Path, "rename", refused)
        error = await failure_of(Process(["true"], notify=True))
        assert str(error) == "cannot start 'true' (true): Read-only file system"
        assert str(bound[0].parent.parent) == where
        assert modes_of(bound[0].parent) == []


async def test_rule_p3_where_its_word_could_not_be_sent_it_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_notices, "_IN_MEMORY", str(tmp_path / "none"))
    with tempfile.TemporaryDirectory(prefix="x" * 45, dir="/tmp") as deep:  # else not so long
        monkeypatch.setattr(tempfile, "tempdir", deep)
        assert "AF_UNIX path too long" in str(await failure_of(Process(["true"], notify=True)))


async def test_rule_p3_a_fork_that_ends_takes_no_ear_from_its_parent() -> None:
    source = """
        import os, sys
        from trio_run._notices import Notices
        notices = Notices("it")
        if not os.fork():
            sys.exit(0)
        os.wait()
        print("there:", os.path.exists(notices.address))
        notices.close()
        print("there:", os.path.exists(notices.address))
    """
    async with open_program(script(source)) as it:
        await it.line_with("there: True")
        await it.line_with("there: False")


async def test_rule_p3_what_a_parent_that_was_killed_has_left_is_removed() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as where:  # a path that is not too long
        source = f"""
            import time
            from trio_run import _notices
            _notices._IN_MEMORY = {where!r}
            notices = _notices.Notices("it")
            print(notices.address)
            time.sleep(1000)
        """
        async with open_program(script(source)) as killed, open_program(script(source)) as living:
            left, theirs = [Path(await each.line_with(where)) for each in (killed, living)]
            killed.signal(signal.SIGKILL)
            await killed.exit_code()
            assert left.exists()
            async with open_program(script(source)) as next_one:
                ours = Path(await next_one.line_with(where))
                assert modes_of(left.parent, theirs, ours) == [0o666, 0o666]


def test_rule_p3_nothing_else_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = _notices._remove_what_is_left.__wrapped__

    def left() -> Path:
        notices = _notices.Notices("it")
        notices._socket.close()
        return Path(notices.address)

    with tempfile.TemporaryDirectory(dir="/tmp") as where, monkeypatch.context() as patch:
        elsewhere = Path(where, "elsewhere")
        elsewhere.mkdir()
        patch.setattr(_notices, "_IN_MEMORY", str(elsewhere))
        Path(where, "trio_run-link").symlink_to(left().parent)
        patch.setattr(_notices, "_IN_MEMORY", where)
        coming = left()
        coming.rename(coming.with_name("bound___"))
        Path(where, "trio_run-new").mkdir()
        Path(where, "trio_run-file").touch()
        Path(where, "trio_run-of-files").mkdir()
        Path(where, "trio_run-of-files", "f" * 32).touch()
        Path(where, "trio_run-web").mkdir()
        with socket.socket(socket.AF_UNIX) as another_program:
            another_program.bind(f"{where}/trio_run-web/web.sock")
        before = sorted(Path(where).rglob("*"))
        old = left()
        with monkeypatch.context() as another_user:
            another_user.setattr(os, "geteuid", lambda: os.getuid() + 1)
            remove(where)
        assert old.exists()
        remove(where)
        assert sorted(Path(where).rglob("*")) == before


async def test_it_can_be_imported_from_an_archive(tmp_path: Path) -> None:
    package = Path(trio_run.__file__).parent
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        for path in package.rglob("*.py"):
            archive.write(path, path.relative_to(package.parent))
    source = f"""
        import sys
        sys.path.insert(0, {str(tmp_path / "app.zip")!r})
        import trio_run
        print(trio_run.__file__, trio_run.run(trio_run.Process(["true"])))
    """
    async with open_program(script(source)) as it:
        await it.line_with("app.zip/trio_run/__init__.py 0")


async def test_rule_p3_one_that_has_left_the_group_is_not_believed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = notifying('say("BARRIER=1"); say("READY=1"); signal.pause()')[-1]
    source = f"""
        import subprocess
        subprocess.Popen([sys.executable, "-c", {inner!r}], start_new_session=True).wait()
    """
    async with running(Process(notifying(source), notify=True), wait_ready=False) as group:
        await until(lambda: "READY= from process" in caplog.text)
        assert group.state is State.STARTING
        [left] = [int(word) for word in caplog.text.split() if word.isdecimal()]
    os.kill(left, signal.SIGKILL)


async def test_rule_p3_descriptors_that_come_along_are_closed() -> None:
    source = """
        address = os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.connect(address)
            for _ in range(10):
                socket.send_fds(sending, [b"READY=1\\nBARRIER=1"], [0, 1, 2])
        signal.pause()
    """
    before = open_descriptors()
    process = Process(notifying(source), notify=True)
    async with running(process):
        assert process.ready
        await wait_all_tasks_blocked(0.05)
        during = open_descriptors()
        process.interrupt(Cause())
    assert open_descriptors() == before
    assert during == before + 3  # its pidfd, where it reports its launch, and its notices


async def test_rule_p3_one_whose_sender_is_gone_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(_pid: int) -> int:
        raise ProcessLookupError

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpgid", gone)
        error = await process_failed(Process(notifying('say("READY=1")'), notify=True))
    assert str(error).endswith("before it was ready")


# Signs of life.


async def test_rule_p3_one_that_gives_no_sign_of_life_is_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = """
        say("READY=1")
        for _ in range(10):
            time.sleep(0.05)
            say("WATCHDOG=1")
        assert os.environ["WATCHDOG_PID"] == str(os.getpid())
        assert os.environ["WATCHDOG_USEC"] == "400000"
        time.sleep(1000)
    """
    process = Process(notifying(source), notify=True, name="shop")
    process.watchdog = 0.4
    seen: list[int | None] = []
    process.on_change = lambda: seen.append(process.pid)
    began = trio.current_time()
    error = await process_failed(process)
    assert trio.current_time() - began > 0.8
    assert str(error) == "'shop' gave no sign of life for 0.4 s: it was killed"
    assert error.signal == signal.SIGABRT
    assert f"shop (pid {seen[0]}): no sign of life for 0.4 s: it is killed" in caplog.text


async def test_rule_p3_so_is_one_that_does_not_end_by_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "_ABORT", 0.1)
    source = """
        signal.signal(signal.SIGABRT, signal.SIG_IGN)
        say("READY=1")
        time.sleep(1000)
    """
    process = Process(notifying(source), notify=True)
    process.watchdog = 0.2
    error = await process_failed(process)
    assert error.signal == signal.SIGKILL
    assert "no sign of life" in str(error)


async def test_rule_p3_none_is_expected_of_one_that_stops() -> None:
    source = """
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.4), sys.exit()))
        say("READY=1")
        say("STOPPING=1") if sys.argv[1:] else None
        time.sleep(0.4)
        signal.pause()
    """
    process = Process(notifying(source), notify=True)
    process.watchdog = 0.2
    async with running(process) as group:
        pass
    assert group.report.actors[0].detail == "exit code 0"
    process = Process([*notifying(source), "at once"], notify=True)
    process.watchdog = 0.2
    async with running(process) as group:
        await until(lambda: not process.ready)
        await trio.sleep(0.3)
    assert group.report.actors[0].detail == "exit code 0"


async def test_rule_p3_while_this_process_is_held_up_it_counts_for_nothing() -> None:
    source = """
        signal.signal(signal.SIGALRM, lambda *_: None)
        say("READY=1")
        time.sleep(0.7)
        while True:
            say("WATCHDOG=1")
            time.sleep(0.05)
    """
    process = Process(notifying(source), notify=True)
    process.watchdog = 0.3
    async with running(process) as group:
        time.sleep(0.6)  # noqa: ASYNC251 - that is the matter
        await trio.sleep(0.5)
        assert group.state is State.RUNNING
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p3_it_is_one_actor_among_others() -> None:
    process = Process(SLEEP)
    group = Group()
    group.add(process)
    group.add(Process(shell("sleep 0.1; exit 1"), name="short"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect_failure, group)
        await wait_stopped(group)
    outcomes = {line.name: (line.outcome, line.detail) for line in group.report.actors}
    assert outcomes == {"sleep": ("returned", "SIGTERM"), "short": ("failed", "exit code 1")}


async def _expect_failure(group: Group) -> None:
    with pytest.raises(GroupFailed):
        await group.run()


async def test_rule_p3_what_has_ended_is_sent_nothing_any_more() -> None:
    """Its number may be somebody else's by now."""
    process = Process(SLEEP)
    async with trio.open_nursery() as nursery:
        await nursery.start(process.execute)
        child = process._child
        assert child is not None
        nursery.cancel_scope.cancel()
    sent: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", lambda *what: sent.append(what))
        patch.setattr(os, "killpg", lambda *what: sent.append(what))
        child.signal(signal.SIGTERM)
        child.kill()
    assert sent == []
