"""Rules 21, 22 and 28: a process ends, with its code, whatever holds it up. Real processes, real time."""

from __future__ import annotations

import signal
import sys
import textwrap

import pytest
import trio

from trio_run import Group, run
from trio_run._arrivals import Arrivals

from .process import open_program

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
    async with open_program(source=program(body)) as server:
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
    async with open_program(source=program(body)) as server:
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
    async with open_program(source=program(body)) as server:
        assert await server.exit_code() == 0
        assert "its own affair" in server.output


async def test_rule_28_a_loop_that_hangs_in_python_is_shown_once_and_then_ended() -> None:
    body = """
        async def spin():
            while True:
                pass
        sys.exit(run(spin, stuck_after=0.4))
    """
    async with open_program(source=program(body)) as server:
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
    async with open_program(source=program(body)) as server:
        assert await server.exit_code() == 1
        assert "in count\n" in server.output


async def test_rule_28_a_loop_that_comes_round_again_goes_on() -> None:
    body = """
        async def slow():
            began = time.monotonic()
            while time.monotonic() < began + 0.6:
                pass
            await trio.sleep(0.3)
            print("goes on")
        sys.exit(run(slow, stuck_after=0.4))
    """
    async with open_program(source=program(body)) as server:
        assert await server.exit_code() == 0
        assert "the event loop has not come round for" in server.output
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
    async with open_program(source=program(body)) as server:
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
    async with open_program(*command, sys.executable, "-c", program(body)) as server:
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
    async with open_program(source=program(body)) as server:
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
    async with open_program(source=program(body)) as server:
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
    async with open_program(source=program(body)) as server:
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
    async with open_program(source=program(body)) as server:
        await server.line_with("returned 0 True")


def test_arrivals_leave_alone_what_c_code_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _signum: None)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Arrivals([signal.SIGTERM]):
            monkeypatch.undo()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
