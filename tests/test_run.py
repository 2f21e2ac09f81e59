"""run(): rules 21 and 22, in real processes, and what it refuses."""

import io
import logging
import os
import signal
import threading

import pytest
import trio

from trio_run import Group, State, _run, run
from trio_run.testing import open_program

from .programs import script


def program(body: str, call: str) -> str:
    """The source of a program: its actors, and its call of run()."""
    return f"import signal, sys, time, trio\nfrom trio_run import *\n{body}\nsys.exit({call})\n"


FAILING = """
async def boiler():
    await trio.sleep(0)
    raise ValueError("too hot")
"""

# Says "stuck" from inside an actor, then blocks the event loop.
BLOCKING = """
async def spin():
    print("stuck")
    while True: pass
"""


async def test_rule_22_stopped_as_asked_is_0() -> None:
    async with open_program(script(program("", "run(trio.sleep_forever, name='shop')"))) as server:
        await server.line_with("shop: ready")
        server.signal(signal.SIGTERM)
        assert await server.exit_code() == 0
        assert "shop: stopping: SIGTERM received\n" in server.output
        assert "SIGTERM received (exit code 0)\n" in server.output
        assert "Traceback" not in server.output


async def test_rule_22_an_actor_that_returned_is_0() -> None:
    async with open_program(script(program("", "run(trio.lowlevel.checkpoint)"))) as server:
        assert await server.exit_code() == 0
        assert "'checkpoint' returned (exit code 0)" in server.output


async def test_rule_22_a_failed_actor_is_1_with_its_traceback_and_its_name() -> None:
    source = program(FAILING, "run(trio.sleep_forever, boiler)")
    async with open_program(script(source)) as server:
        assert await server.exit_code() == 1
        assert "Traceback (most recent call last):\n" in server.output
        assert "ValueError: too hot\nin actor 'boiler' of group 'group'\n" in server.output
        assert "in boiler\n" in server.output  # the line where it was raised
        assert "(exit code 1)" in server.output


async def test_rule_22_every_failure_has_its_traceback_nested_ones_too() -> None:
    body = (
        FAILING
        + """
async def pump():
    try:
        await trio.sleep_forever()
    finally:
        raise KeyError("dry")
inner = Group(name="cellar")
inner.add(boiler)
"""
    )
    async with open_program(script(program(body, "run(inner, pump)"))) as server:
        assert await server.exit_code() == 1
        assert "ValueError: too hot\nin actor 'boiler' of group 'cellar'\n" in server.output
        assert "KeyError: 'dry'\nin actor 'pump' of group 'group'\n" in server.output


async def test_rule_22_forced_by_a_second_signal_is_128_plus_n() -> None:
    body = """
async def stubborn():
    with busy():
        await trio.sleep_forever()
"""
    async with open_program(script(program(body, "run(stubborn)"))) as server:
        await server.line_with("ready")
        server.signal(signal.SIGTERM)
        await server.line_with("stopping: SIGTERM")
        server.signal(signal.SIGINT)
        assert await server.exit_code() == 128 + signal.SIGINT
        assert "forced by a second signal, SIGINT: cut stubborn" in server.output


async def test_rule_21_a_blocked_event_loop_is_ended_with_every_stack() -> None:
    source = program(BLOCKING, "run(spin, grace=0.2, abort_after=0.3)")
    async with open_program(script(source)) as server:
        await server.line_with("stuck")
        server.signal(signal.SIGTERM)
        assert await server.exit_code() == 1
        assert "in spin\n" in server.output


async def test_rule_21_the_watchdog_hears_of_a_signal_from_a_receiver_of_the_groups_own() -> None:
    body = (
        BLOCKING
        + """
group = Group(grace=0.2)
group.add(SignalReceiver())
group.add(spin)
"""
    )
    source = program(body, "run(group, abort_after=0.3, signals=())")
    async with open_program(script(source)) as server:
        await server.line_with("stuck")
        server.signal(signal.SIGTERM)
        assert await server.exit_code() == 1
        assert "in spin\n" in server.output


async def test_rule_21_a_second_signal_to_a_blocked_event_loop_leaves_it_only_abort_after() -> None:
    source = program(BLOCKING, "run(spin, grace=1000, abort_after=0.3)")
    async with open_program(script(source)) as server:
        await server.line_with("stuck")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        assert await server.exit_code() == 1
        assert "in spin\n" in server.output


async def test_rule_21_an_actor_that_ignores_its_hard_cancel_is_ended() -> None:
    body = """
async def deaf():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
"""
    source = program(body, "run(deaf, trio.lowlevel.checkpoint, grace=0.1, abort_after=0.3)")
    async with open_program(script(source)) as server:
        assert await server.exit_code() == 1
        assert (
            "the grace of 0.1 s is over: cut deaf (and, not yet interrupted, signals)\n"
            in server.output
        )
        assert "the process is ended: it has not ended within" in server.output


async def test_rule_21_a_loop_that_is_blocked_when_the_stop_has_another_cause_is_ended() -> None:
    body = (
        BLOCKING
        + """
async def first_to_exit():
    pass
async def later():
    await wait_stopping()
    await spin()
"""
    )
    source = program(
        body,
        "run(first_to_exit, (Pair := type('Pair', (), "
        "{'execute': staticmethod(later), 'interrupt': staticmethod(lambda cause: None)}))(),"
        " grace=0.1, abort_after=0.3)",
    )
    async with open_program(script(source)) as server:
        assert await server.exit_code() == 1
        assert "in spin\n" in server.output


async def test_rule_21_the_watchdog_is_off_when_run_has_returned() -> None:
    body = """
code = run(trio.lowlevel.checkpoint, grace=0.1, abort_after=0.1)
time.sleep(0.5)
"""
    async with open_program(script(program(body, "code + 7"))) as server:
        assert await server.exit_code() == 7


async def test_an_endless_grace_sets_no_watchdog() -> None:
    source = program("", "run(trio.sleep_forever, grace=float('inf'))")
    async with open_program(script(source)) as server:
        await server.line_with("ready")
        server.signal(signal.SIGTERM)
        assert await server.exit_code() == 0


async def test_what_a_person_can_mend_is_one_sentence() -> None:
    body = """
async def opener(*, task_status):
    raise CannotStart("the cellar is locked: fetch the key")
inner = Group()
inner.add(opener)
"""
    async with open_program(script(program(body, "run(inner, trio.sleep_forever)"))) as server:
        assert await server.exit_code() == 1
        assert server.output == "the cellar is locked: fetch the key\n"


async def test_a_process_that_failed_is_a_sentence_and_has_no_traceback_of_ours() -> None:
    body = """
from trio_run import Process, Restarting
def process(code):
    return Process(["sh", "-c", f"echo over {code} >&2; exit {code}"], output="log")
again = Restarting(lambda: process(3), first=0.0, most=0.0, limit=2, name="again")
group = Group()
group.add(process(4), on_error="ignore")
group.add(again)
"""
    async with open_program(script(program(body, "run(group)"))) as server:
        assert await server.exit_code() == 1
    assert "Traceback" not in server.output
    assert "'sh' failed: ProcessFailed: 'sh' ended with exit code 4" in server.output
    sentence = "'sh' ended with exit code 3. Last on its stderr:\n    over 3\n"
    assert f"\n'again' failed 3 times in 300 s:\n  {sentence}" in server.output


async def test_a_program_that_has_set_up_logging_keeps_it() -> None:
    body = "import logging\nlogging.basicConfig(level='WARNING', format='LOG %(message)s')"
    source = program(body + FAILING, "run(boiler)")
    async with open_program(script(source)) as server:
        assert await server.exit_code() == 1
        assert server.output.startswith(
            "LOG group: stopping: 'boiler' failed: ValueError: too hot\n"
        )
        assert "exit code" not in server.output


async def test_ctrl_c_without_a_receiver_stops_gracefully_and_propagates() -> None:
    body = """
async def careful():
    try:
        with busy():
            await wait_stopping()
            print("asked")
    finally:
        print("cleaned up")
async def teller():
    await trio.testing.wait_all_tasks_blocked()
    print("begun")
    await trio.sleep_forever()
"""
    source = "import trio.testing\n" + program(body, "run(careful, teller, signals=())")
    async with open_program(script(source)) as server:
        await server.line_with("begun")
        server.signal(signal.SIGINT)
        assert await server.exit_code() == -signal.SIGINT
        assert "asked\ncleaned up\n" in server.output
        assert "KeyboardInterrupt" in server.output


async def test_system_exit_in_an_actor_is_the_programs_exit() -> None:
    body = """
async def leaver():
    raise SystemExit(17)
"""
    async with open_program(script(program(body, "run(leaver, trio.sleep_forever)"))) as server:
        assert await server.exit_code() == 17


def test_a_group_is_run_itself() -> None:
    group = Group(name="mine", grace=3)
    group.add(trio.lowlevel.checkpoint, name="short")
    assert run(group) == 0
    assert group.state is State.STOPPED
    assert [member.name for member in group.members] == ["short", "signals"]


def test_a_group_has_its_own_grace() -> None:
    with pytest.raises(TypeError, match="give them there"):
        run(Group(), grace=3)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_abort_after_must_be_a_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="abort_after must be"):
        run(abort_after=seconds)


def test_its_own_logging_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("trio_run")
    monkeypatch.setattr(logger, "propagate", False)  # pytest's handlers are further up
    assert run(trio.lowlevel.checkpoint) == 0
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)


def test_signals_need_the_main_thread() -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run(trio.sleep_forever)))
    thread.start()
    thread.join()
    assert codes == [1]


def test_without_signals_it_runs_in_any_thread() -> None:
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(run(trio.lowlevel.checkpoint, signals=()))
    )
    thread.start()
    thread.join()
    assert codes == [0]


async def test_failures_beside_a_system_exit_are_told() -> None:
    body = """
async def leaver():
    raise SystemExit(17)
async def untidy():
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("dust")
"""
    async with open_program(script(program(body, "run(leaver, untidy)"))) as server:
        assert await server.exit_code() == 17
        assert "ValueError: dust\nin actor 'untidy' of group 'group'\n" in server.output


async def test_rule_21_further_signals_do_not_postpone_the_end() -> None:
    body = """
import os, threading
async def spin():
    def press():
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
    threading.Thread(target=press, daemon=True).start()
    while True: pass
"""
    async with open_program(
        script(program(body, "run(spin, grace=0.2, abort_after=0.3)"))
    ) as server:
        assert await server.exit_code() == 1
        assert "in spin\n" in server.output


async def test_ctrl_c_ends_a_plain_interrupt_that_blocks() -> None:
    body = """
def interrupt(cause):
    print("blocked")
    while True: pass
group = Group()
group.add(trio.sleep_forever, interrupt)
group.add(trio.lowlevel.checkpoint)
"""
    async with open_program(script(program(body, "run(group, signals=())"))) as server:
        await server.line_with("blocked")
        server.signal(signal.SIGINT)
        assert await server.exit_code() == -signal.SIGINT


async def test_a_failure_beside_what_a_person_can_mend_gets_its_report() -> None:
    body = """
async def opener(*, task_status):
    raise CannotStart("the cellar is locked: fetch the key")
async def untidy():
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("dust")
"""
    async with open_program(script(program(body, "run(opener, untidy)"))) as server:
        assert await server.exit_code() == 1
        assert "the cellar is locked: fetch the key\n" in server.output
        assert "ValueError: dust" in server.output
        assert "(exit code 1)" in server.output


def test_rule_22_a_traceback_that_can_t_be_had_is_said_to_be_so() -> None:
    class Odd(Exception):
        def __getattribute__(self, name: str) -> object:
            raise RuntimeError(f"no {name}")

    text = _run._traceback_of(Odd())
    assert text.startswith("Odd\n(its traceback can't be had: RuntimeError: no ")


def test_rule_22_a_line_that_can_t_be_written_is_no_failure() -> None:
    stream = io.StringIO()
    stream.close()
    record = logging.LogRecord("trio_run", logging.INFO, __file__, 1, "text", (), None)
    _run._Handler(stream).emit(record)


@pytest.mark.parametrize("stderr", ["/dev/full", "/dev/null", "-"])
async def test_rule_22_a_stderr_that_takes_nothing_is_no_failure(stderr: str) -> None:
    """A full disk of logs, or no stderr at all; and what is written in the end has been tried."""
    source = script(program("", "run(trio.lowlevel.checkpoint)"))
    command = ["sh", "-c", f'exec "$@" 2>{"&-" if stderr == "-" else stderr}', "sh", *source]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = await trio.run_process(command, env=environment, check=False)
    assert ended.returncode == 0
