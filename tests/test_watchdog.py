"""Rules 21, 22 and 28: a process ends, with its code, whatever holds it up.

Real processes, real time.
"""

from __future__ import annotations

import io
import signal
import sys
import textwrap
import threading

import pytest
import trio
from trio.testing import MockClock

from trio_run import Group, _watchdog, run
from trio_run._arrivals import Arrivals
from trio_run._watchdog import Watchdog
from trio_run.testing import open_program

from .programs import python, script

HEAD = """
import faulthandler, itertools, os, signal, sys, threading, time
import trio
from trio_run import run
"""


def program(body: str) -> str:
    return HEAD + textwrap.dedent(body)


async def test_rule_21_a_thread_that_never_ends_is_named() -> None:
    body = """
        async def actor():
            threading.Thread(target=threading.Event().wait, name="forgotten").start()
        sys.exit(run(actor, abort_after=0.3))
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 1
        assert "0.3 s after its main thread these threads run: 'forgotten'" in server.output


async def test_rule_21_a_thread_that_ends_in_time_is_waited_for() -> None:
    body = """
        go_on = threading.Event()
        async def actor():
            threading.Thread(target=lambda: (go_on.wait(), print("done"))).start()
        code = run(actor, abort_after=30)
        go_on.set()
        sys.exit(code)
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 0
        assert "done" in server.output


async def test_rule_21_a_thread_is_counted_from_the_end_of_the_main_thread() -> None:
    body = """
        go_on = threading.Event()
        async def actor():
            threading.Thread(target=go_on.wait).start()
        code = run(actor, abort_after=0.1)
        time.sleep(0.5)  # what a program does after run() is its own affair
        go_on.set()
        print("its own affair")
        sys.exit(code)
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 0
        assert "its own affair" in server.output


async def test_rule_28_a_loop_that_hangs_in_python_is_shown_once_and_then_ended() -> None:
    body = """
        async def spin():
            while True:
                pass
        sys.exit(run(spin, stuck_after=0.4))
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 1
        assert server.output.count("the event loop has not come round for") == 1
        assert "its event loop has not come round for" in server.output
        assert "in spin\n" in server.output


async def test_rule_28_a_loop_that_hangs_in_c_is_ended() -> None:
    body = """
        async def count():
            sum(itertools.repeat(1, 10**12))
        sys.exit(run(count, stuck_after=0.4))
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 1
        assert "in count\n" in server.output


async def test_rule_28_a_loop_that_comes_round_again_goes_on(tmp_path) -> None:
    body = f"""
        path = {str(tmp_path / "stderr")!r}
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), 2)
        async def slow():
            while "has not come round" not in open(path).read():
                pass
            await trio.sleep(1.5)  # and once more round within that time
            print("goes on")
        sys.exit(run(slow, stuck_after=1))
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 0
        assert "goes on" in server.output


async def test_rule_21_nobody_can_disarm_the_watchdog() -> None:
    body = """
        def inner():
            async def nothing():
                pass
            run(nothing, signals=())
        async def deaf():
            with trio.CancelScope(shield=True):
                faulthandler.cancel_dump_traceback_later()
                await trio.to_thread.run_sync(inner)
                try:
                    run()
                except RuntimeError as exc:
                    print(exc)
                await trio.sleep_forever()
        async def first():
            await trio.sleep(0.2)
        sys.exit(run(deaf, first, grace=0.1, abort_after=0.3))
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 1
        assert "run() begins a Trio program: in one, write await group.run()" in server.output
        assert "it has not ended within 0.3 s past its grace" in server.output


async def test_rule_21_stacks_go_into_no_file_that_has_the_number_of_stderr(tmp_path) -> None:
    body = f"""
        async def deaf():
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
        file = os.open({str(tmp_path / "data")!r}, os.O_CREAT | os.O_WRONLY)
        assert file == 2
        sys.exit(run(deaf, trio.lowlevel.checkpoint, grace=0, abort_after=0))
    """
    command = ["-c", "import os, sys; os.close(2); os.execv(sys.executable, sys.argv[1:])"]
    async with open_program(python(*command, sys.executable, "-c", program(body))) as server:
        assert await server.exit_code() == 1
        assert (tmp_path / "data").read_bytes() == b""


@pytest.mark.parametrize(
    "break_it",
    [
        "os.close(2)",
        "sys.stderr.close()",
        "sys.stderr = None",
        "os.dup2(os.pipe()[1], 2)",  # nobody reads at the other end
        "sys.stderr.reconfigure(encoding='ascii', errors='strict')",
    ],
)
async def test_rule_22_a_broken_stderr_changes_no_code(break_it: str) -> None:
    body = f"""
        async def actor():
            {break_it}
        async def fails():
            await trio.sleep(0.01)
            raise ValueError("Grüße")
        print(run(actor), run(fails), file=sys.stdout)
    """
    async with open_program(script(program(body))) as server:
        await server.line_with("0 1")


async def test_rule_22_a_traceback_that_can_t_be_had_changes_no_code() -> None:
    body = """
        class Odd(Exception):
            def __getattribute__(self, name):
                raise RuntimeError("no " + name)
        async def fails():
            raise Odd
        sys.exit(run(fails))
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 1


async def test_run_in_a_trio_program_is_refused_before_it_does_anything() -> None:
    before = signal.getsignal(signal.SIGTERM)
    group = Group()
    with pytest.raises(RuntimeError, match=r"write await group\.run\(\)"):
        run(group)
    assert group.members == ()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_stuck_after_is_a_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="stuck_after must be"):
        run(trio.lowlevel.checkpoint, stuck_after=seconds)


async def test_a_signal_before_the_receiver_is_there_stops_the_program() -> None:
    body = """
        class Group_:
            async def execute(self):
                await trio.sleep_forever()
            @property
            def name(self):
                os.kill(os.getpid(), signal.SIGTERM)  # add() asks for it: nothing runs yet
                return "early"
        sys.exit(run(Group_()))
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 0
        assert "SIGTERM received" in server.output


@pytest.mark.parametrize("more", ["", ", SignalReceiver(), signals=()"])
async def test_a_signal_as_trio_begins_stops_the_program(more: str) -> None:
    body = f"""
        from trio_run import SignalReceiver
        trio_s = trio.run
        def begin(*args):
            os.kill(os.getpid(), signal.SIGTERM)
            return trio_s(*args)
        trio.run = begin
        sys.exit(run(trio.sleep_forever{more}))
    """
    async with open_program(script(program(body))) as server:
        assert await server.exit_code() == 0
        assert "SIGTERM received" in server.output


async def test_a_signal_after_the_group_has_stopped_is_no_matter() -> None:
    body = """
        class Last(threading.Thread):
            pass
        import logging
        class Handler(logging.Handler):
            def emit(self, record):
                if "stopped in" in record.getMessage():  # the report: all is over
                    os.kill(os.getpid(), signal.SIGTERM)
        logging.getLogger("trio_run").addHandler(Handler())
        logging.getLogger("trio_run").setLevel(logging.INFO)
        async def actor():
            pass
        code = run(actor)
        print("returned", code, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    """
    async with open_program(script(program(body))) as server:
        await server.line_with("returned 0 True")


def test_arrivals_leave_alone_what_c_code_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _signum: None)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Arrivals() as arrivals:
            arrivals.hear([signal.SIGTERM])
            monkeypatch.undo()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_arrivals_leave_the_next_one_to_who_had_it_before() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: came.append(number))
    try:
        with Arrivals() as arrivals:
            arrivals.hear([signal.SIGUSR1])
            signal.raise_signal(signal.SIGUSR1)
            assert (came, arrivals.take(), arrivals.take()) == ([], [signal.SIGUSR1], [])
            arrivals.leave_to_python()
            signal.raise_signal(signal.SIGUSR1)
            assert (came, arrivals.take()) == ([signal.SIGUSR1], [])
    finally:
        signal.signal(signal.SIGUSR1, before)


# What its threads do, in this process: the real ones end it, and with it the count of covered
# lines.


class Ended(Exception):
    pass


@pytest.fixture
def never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(_watchdog.os, "_exit", end)
    monkeypatch.setattr(_watchdog._thread, "start_new_thread", lambda *_: None)


@pytest.mark.usefixtures("never_ends")
def test_the_thread_ends_a_process_that_is_late(capfd: pytest.CaptureFixture[str]) -> None:
    watchdog = Watchdog(grace=0, abort_after=0, stuck_after=None)
    watchdog.signal_arrived()
    with pytest.raises(Ended, match="1"):
        watchdog._watch()
    assert "it has not ended within 0 s past its grace: all stacks" in capfd.readouterr().err


@pytest.mark.usefixtures("never_ends")
def test_the_thread_says_once_that_a_loop_hangs_and_then_ends_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]

    def sleep(_seconds: float) -> None:
        now[0] += 1

    monkeypatch.setattr(_watchdog.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(_watchdog.time, "sleep", sleep)
    watchdog = Watchdog(grace=0, abort_after=0, stuck_after=3)
    watchdog._round_at = 100.0
    with pytest.raises(Ended):
        watchdog._watch()
    assert now == [106]
    error = capfd.readouterr().err
    assert error.count("the event loop has not come round for 3.0 s: all stacks") == 1
    assert "its event loop has not come round for 6.0 s" in error


@pytest.mark.usefixtures("never_ends")
def test_the_thread_waits_until_it_is_due_or_over(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog = Watchdog(grace=0, abort_after=1000, stuck_after=None)
    watchdog.signal_arrived()
    monkeypatch.setattr(_watchdog.time, "sleep", lambda _seconds: watchdog.over())
    watchdog._watch()


@pytest.mark.usefixtures("never_ends")
def test_the_thread_ends_with_the_run() -> None:
    watchdog = Watchdog(grace=0, abort_after=0, stuck_after=None)
    watchdog.over()
    watchdog._watch()


@pytest.mark.usefixtures("never_ends")
def test_the_threads_that_are_left_are_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="forgotten")
    watchdog = Watchdog(grace=0, abort_after=0, stuck_after=None)
    monkeypatch.setattr(threading.main_thread(), "join", lambda: None)
    watchdog._watch_threads()  # nobody is left
    thread.start()
    try:
        watchdog.over()
        with pytest.raises(Ended):
            watchdog._watch_threads()
    finally:
        go_on.set()
        thread.join()
    assert "these threads run: 'forgotten'" in capfd.readouterr().err


@pytest.mark.parametrize("stderr", [None, io.StringIO()])
def test_without_a_stderr_nothing_is_written(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "__stderr__", stderr)
    Watchdog(grace=0, abort_after=0, stuck_after=None)._write("nowhere")


async def test_a_loop_without_stderr_is_watched_all_the_same(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(sys, "__stderr__", None)
    monkeypatch.setattr(_watchdog._thread, "start_new_thread", lambda *_: None)
    watchdog = Watchdog(grace=0, abort_after=0, stuck_after=3)
    with trio.move_on_after(10):
        await watchdog.live()
    watchdog.over()
