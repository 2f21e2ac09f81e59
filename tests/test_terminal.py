"""What becomes of a parent whose terminal is closed."""

import os
import signal
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Group, State, _terminal, busy
from trio_run.testing import open_program, running

from .programs import script
from .shop import serve, stop, url_of, write_shop

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are other terminals")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return serve(write_shop(tmp_path), "shop:app", "--port", "0", "--workers", "1")


def in_terminal(command: list[str], *, ignored: bool = False) -> list[str]:
    """The command with a terminal of its own, which SIGUSR1 closes. SIGHUP and SIGTERM it gets."""
    source = f"""
        import fcntl, os, signal, sys, termios
        ours, terminal = os.openpty()
        child = os.fork()
        if child == 0:
            os.close(ours)
            os.setsid()
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            if {ignored}:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execv({command[0]!r}, {command!r})
        for each in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(each, lambda signum, _frame: os.kill(child, signum))
        signal.signal(signal.SIGUSR1, lambda _signum, _frame: os.close(ours))
        os.close(terminal)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    return script(source)


async def test_a_terminal_that_is_closed_stops_it(command: list[str]) -> None:
    async with open_program(in_terminal(command)) as program:
        await url_of(program)
        program.signal(signal.SIGHUP)  # while it is there
        await program.line_with("workers: replaced, all 1")
        program.signal(signal.SIGUSR1)
        assert await program.exit_code() == 0
    assert "shop:app: stopping: its terminal was closed" in program.output


async def test_with_nohup_it_lives_on(command: list[str]) -> None:
    async with open_program(in_terminal(command, ignored=True)) as program:
        await url_of(program)
        program.signal(signal.SIGUSR1)
        await program.line_with("workers: replaced, all 1")
        await stop(program)


async def test_one_that_has_outlived_its_terminal_is_a_service(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there, reloads = True, 0

    def reload() -> None:
        nonlocal reloads
        reloads += 1

    monkeypatch.setattr(_terminal, "has_terminal", lambda: is_there)
    signals = _terminal.ParentsSignals({signal.SIGHUP: reload})
    async with running(signals, trio.sleep_forever) as group:
        await trio.sleep(10)
        is_there = False
        await trio.sleep(5)
        signal.raise_signal(signal.SIGHUP)
        await trio.sleep(1)
        assert (reloads, group.state) == (1, State.RUNNING)


@pytest.mark.parametrize("meanwhile", ["a replacing", "suspended"])
async def test_a_terminal_that_is_closed_while_it_can_not_look_stops_it(
    meanwhile: str, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there, reloads = True, 0

    async def reload() -> None:
        nonlocal reloads
        reloads += 1
        await trio.sleep_forever()

    monkeypatch.setattr(_terminal, "has_terminal", lambda: is_there)
    async with running(_terminal.ParentsSignals({signal.SIGHUP: reload}), hang) as group:
        if meanwhile == "a replacing":
            signal.raise_signal(signal.SIGHUP)
            await wait_all_tasks_blocked()
        mock_clock.jump(10)
        is_there = False
        signal.raise_signal(signal.SIGHUP)
        await wait_all_tasks_blocked()
        assert group.state is State.STOPPING
        assert reloads == (meanwhile == "a replacing")
        group.stop(grace=0)
    assert group.report.cause.reason == "its terminal was closed"


async def test_one_that_never_had_a_terminal_reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    reloaded = trio.Event()
    monkeypatch.setattr(_terminal, "has_terminal", lambda: False)
    signals = _terminal.ParentsSignals({signal.SIGHUP: reloaded.set})
    async with running(signals, trio.sleep_forever) as group:
        signal.raise_signal(signal.SIGHUP)
        await reloaded.wait()
        assert group.state is State.RUNNING


async def hang() -> None:
    with busy():
        await trio.sleep_forever()


async def test_in_a_terminal_a_second_signal_cuts_what_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_terminal, "has_terminal", lambda: True)
    group = Group()
    group.add(_terminal.ParentsSignals({signal.SIGHUP: lambda: None}))
    group.add(hang)
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            await wait_all_tasks_blocked()
    assert group.report.exit_code == 128 + signal.SIGTERM
