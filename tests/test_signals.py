"""SignalReceiver: rule 17, in real processes where a signal might end one."""

import logging
import signal
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause, Group, GroupFailed, SignalReceiver, State, busy
from trio_run.testing import Program, open_program, running, wait_stopped

from .programs import script

SIGNALS = [signal.SIGINT, signal.SIGTERM]

# What the programs below share: a group that logs, and whose exit code is the process's.
PROLOGUE = """
import logging, os, signal, sys, time, trio
from trio.testing import wait_all_tasks_blocked
from trio_run import Group, SignalReceiver, busy, run, wait_stopping

logging.basicConfig(level=logging.INFO, format="%(message)s")

def go(*actors, receiver=None, **settings):
    group = Group(**settings)
    group.add(receiver or SignalReceiver())
    for actor in actors:
        group.add(actor)
    sys.exit(trio.run(group.run).exit_code)

async def busy_forever():
    try:
        with busy():
            await trio.sleep_forever()
    finally:
        print("finally")

async def shielded(then):
    # Does not return when it is cut: does what it is told, once the signals are Python's again.
    try:
        with busy():
            await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            print("stuck")
            await then()
"""


@pytest.fixture(autouse=True)
def _no_stray_signals() -> Iterator[None]:
    """A signal that nobody receives fails the test, where it would end the whole test run."""
    stray: list[int] = []
    guarded = [*SIGNALS, signal.SIGHUP, signal.SIGUSR1]
    before = {number: signal.signal(number, lambda n, _: stray.append(n)) for number in guarded}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert stray == []


def program(source: str) -> AbstractAsyncContextManager[Program]:
    return open_program(script(PROLOGUE + textwrap.dedent(source)))


@asynccontextmanager
async def receiving(
    receiver: SignalReceiver, *actors: Any, **settings: Any
) -> AsyncIterator[Group]:
    """A group with this receiver, in this process, that runs and is at rest; stopped at the end."""
    group = Group(**settings)
    group.add(receiver)
    for actor in actors or [trio.sleep_forever]:
        group.add(actor)
    async with running(group):
        await wait_all_tasks_blocked()
        yield group


async def receive(signum: signal.Signals) -> None:
    """A signal comes to this process, and all that it brings about happens."""
    signal.raise_signal(signum)
    await wait_all_tasks_blocked()


# What it refuses.


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_signal_that_no_program_can_catch_is_refused(signum: signal.Signals) -> None:
    with pytest.raises(ValueError, match=f"{signum.name} can't be caught"):
        SignalReceiver(signal.SIGTERM, signum)
    with pytest.raises(ValueError, match=f"{signum.name} can't be caught"):
        SignalReceiver(handlers={signum: print})


@pytest.mark.parametrize("number", [0, -1, 1000, "SIGTERM", None, 1.5], ids=repr)
def test_what_is_no_signal_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="is not a signal of this platform"):
        SignalReceiver(number)
    with pytest.raises(ValueError, match="is not a signal of this platform"):
        SignalReceiver(handlers={number: print})


@pytest.mark.parametrize("signals", [[], [signal.SIGTERM], [int(signal.SIGTERM)]])
def test_a_signal_that_both_stops_the_group_and_has_a_handler_is_refused(signals: Any) -> None:
    with pytest.raises(ValueError, match="SIGTERM can't both stop the group and have a handler"):
        SignalReceiver(*signals, handlers={signal.SIGTERM: print})


def test_a_handler_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="the handler of SIGHUP must be a function, not 'reload'"):
        SignalReceiver(handlers={signal.SIGHUP: "reload"})  # type: ignore[dict-item]


def test_the_signals_are_sigint_and_sigterm_or_those_given_numbers_too() -> None:
    assert SignalReceiver().signals == (signal.SIGINT, signal.SIGTERM)
    assert SignalReceiver(int(signal.SIGUSR1)).signals == (signal.SIGUSR1,)


async def test_outside_a_group_it_is_a_clear_error() -> None:
    with pytest.raises(RuntimeError, match=r"stops the group it is in: add\(\) it to one"):
        await SignalReceiver().execute()


def test_outside_the_main_thread_it_is_a_clear_error() -> None:
    group = Group()
    group.add(SignalReceiver())
    group.add(trio.sleep_forever)
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            trio.run(group.run)
        except GroupFailed as failed:
            caught.extend(failed.exceptions)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    (error,) = caught
    assert isinstance(error, RuntimeError)
    assert "signals can be received in the main thread only" in str(error)
    assert error.__notes__ == ["in actor 'signals' of group 'group'"]


# Stops, in this process.


@pytest.mark.parametrize("signum", SIGNALS)
async def test_rule_03_a_signal_is_the_cause(signum: signal.Signals) -> None:
    seen: list[Cause] = []
    asked = trio.Event()

    class Actor:
        async def execute(self) -> None:
            await asked.wait()

        def interrupt(self, cause: Cause) -> None:
            seen.append(cause)
            asked.set()

    group = Group()
    group.add(SignalReceiver())
    group.add(Actor())
    async with running(group):
        signal.raise_signal(signum)
        await wait_stopped(group)
    assert seen == [Cause(signal=signum, reason=f"{signum.name} received")]


@pytest.mark.parametrize("signum", [*SIGNALS, signal.SIGHUP, signal.SIGUSR1])
async def test_every_signal_is_as_it_was_once_the_group_has_stopped(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    receiver = SignalReceiver(*SIGNALS, signal.SIGUSR1, handlers={signal.SIGHUP: print})
    async with receiving(receiver):
        assert signal.getsignal(signum) is not before
    assert signal.getsignal(signum) is before


async def test_rule_06_it_does_not_keep_a_group_alive_and_listens_to_the_end(
    autojump_clock: MockClock,
) -> None:
    """It is a daemon: the second signal is heard while anyone else stops."""

    async def slow() -> None:
        with busy():
            await trio.sleep(20)

    group = Group(grace=100)
    signals = group.add(SignalReceiver())
    slow_member = group.add(slow)
    async with running(group):
        await receive(signal.SIGTERM)
        await trio.sleep(15)
        assert signals.state is State.RUNNING
        assert slow_member.state is State.STOPPING
        await wait_stopped(group)
    assert trio.current_time() == 20
    assert group.state is State.STOPPED


async def test_rule_17_a_second_signal_is_hard_and_gives_the_exit_code(
    autojump_clock: MockClock,
) -> None:
    ended: list[str] = []

    async def stubborn() -> None:
        try:
            with busy():
                await trio.sleep(100)
        finally:
            ended.append(f"finally at {trio.current_time():g}")

    group = Group(grace=90)
    group.add(SignalReceiver())
    group.add(stubborn)
    codes: list[int] = []

    async def run() -> None:
        codes.append((await group.run()).exit_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        await receive(signal.SIGINT)
        await trio.sleep(5)
        await receive(signal.SIGTERM)
    assert ended == ["finally at 5"]
    assert codes == [128 + signal.SIGTERM]


async def test_rule_17_the_first_signal_during_a_stop_of_another_cause_is_not_the_second(
    autojump_clock: MockClock,
) -> None:
    ended: list[float] = []

    async def stubborn() -> None:
        try:
            with busy():
                await trio.sleep(100)
        finally:
            ended.append(trio.current_time())

    async with receiving(SignalReceiver(), stubborn, grace=90) as group:
        group.stop()
        await trio.sleep(5)
        await receive(signal.SIGTERM)
        await trio.sleep(5)
        assert ended == []
        await receive(signal.SIGTERM)
        assert ended == [10]


# Handlers, in this process.


async def test_a_handler_that_takes_its_time_holds_up_none_of_another_signal(
    autojump_clock: MockClock,
) -> None:
    seen: list[tuple[str, float]] = []

    async def slow() -> None:
        seen.append(("slow begins", trio.current_time()))
        await trio.sleep(2)
        seen.append(("slow ends", trio.current_time()))

    receiver = SignalReceiver(
        handlers={
            signal.SIGHUP: slow,
            signal.SIGUSR1: lambda: seen.append(("plain", trio.current_time())),
        }
    )
    async with receiving(receiver) as group:
        await receive(signal.SIGHUP)
        await receive(signal.SIGUSR1)
        await receive(signal.SIGHUP)
        await trio.sleep(10)
        assert group.ready
    assert seen == [
        *(("slow begins", 0), ("plain", 0), ("slow ends", 2)),
        *(("slow begins", 2), ("slow ends", 4)),
    ]


async def test_signals_that_come_while_a_handler_runs_are_all_handled(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    async def slow() -> None:
        await trio.sleep(2)
        seen.append("slow")

    receiver = SignalReceiver(
        handlers={signal.SIGHUP: slow, signal.SIGUSR1: lambda: seen.append("plain")}
    )
    async with receiving(receiver):
        await receive(signal.SIGHUP)
        for _ in range(5):
            await receive(signal.SIGHUP)
            await receive(signal.SIGUSR1)
        await trio.sleep(100)
    # At least one more of each after the first: the same signal twice may count once.
    assert seen.count("slow") >= 2
    assert seen.count("plain") >= 1


async def test_an_async_handler_is_cancelled_softly_at_the_stop(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, float]] = []

    async def handler() -> None:
        with busy():
            await trio.sleep(4)
            seen.append(("busy to its end", trio.current_time()))
        try:
            await trio.sleep(100)
        finally:
            seen.append(("cancelled", trio.current_time()))

    async with receiving(SignalReceiver(handlers={signal.SIGHUP: handler})):
        await receive(signal.SIGHUP)
        await trio.sleep(1)
    assert seen == [("busy to its end", 4), ("cancelled", 4)]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_handler_that_raises_is_logged_and_the_next_is_called(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def plain() -> None:
        calls.append(len(calls))
        raise ValueError("no such file")

    async def asynchronous() -> None:
        await trio.lowlevel.checkpoint()
        plain()

    handler: Callable[[], object] = plain if kind == "plain" else asynchronous
    async with receiving(SignalReceiver(handlers={signal.SIGHUP: handler})) as group:
        for _ in range(3):
            await receive(signal.SIGHUP)
        assert group.ready
    assert calls == [0, 1, 2]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        "signals: the handler of SIGHUP failed"
    ] * 3
    assert "no such file" in caplog.text


# In real processes.


@pytest.mark.parametrize("signum", SIGNALS)
async def test_the_first_signal_stops_gracefully(signum: signal.Signals) -> None:
    source = """
        async def worker():
            with busy():
                await wait_stopping()
                await wait_all_tasks_blocked()
                print("finished my work")
            await trio.sleep_forever()

        go(worker)
    """
    async with program(source) as running:
        await running.line_with("group: ready")
        running.signal(signum)
        assert await running.exit_code() == 0
        assert f"group: stopping: {signum.name} received" in running.output
        assert "finished my work" in running.output


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
async def test_rule_17_the_second_signal_stops_hard_and_finally_blocks_still_run(
    first: signal.Signals, second: signal.Signals
) -> None:
    async with program("go(busy_forever, grace=1000)") as running:
        await running.line_with("group: ready")
        running.signal(first)
        await running.line_with(f"group: stopping: {first.name} received")
        running.signal(second)
        assert await running.exit_code() == 128 + second
        assert f"forced by a second signal, {second.name}" in running.output
        assert "finally" in running.output.splitlines()


async def test_rule_17_the_third_sigterm_is_python_s_and_kills_the_process() -> None:
    source = "go(lambda: shielded(trio.sleep_forever), grace=1000)"
    async with program(source) as running:
        await running.line_with("group: ready")
        running.signal(signal.SIGTERM)
        await running.line_with("group: stopping")
        running.signal(signal.SIGTERM)
        await running.line_with("stuck")
        running.signal(signal.SIGTERM)
        assert await running.exit_code() == -signal.SIGTERM


async def test_rule_17_the_third_sigint_is_python_s_and_raises_keyboard_interrupt() -> None:
    """In the code that runs at that moment, which is where Python raises it."""
    source = """
        async def block():
            try:
                print("blocked")
                time.sleep(1000)
            except KeyboardInterrupt:
                print("raised where it blocks")
                raise

        go(lambda: shielded(block), grace=1000)
    """
    async with program(source) as running:
        await running.line_with("group: ready")
        running.signal(signal.SIGINT)
        await running.line_with("group: stopping")
        running.signal(signal.SIGINT)
        await running.line_with("blocked")
        running.signal(signal.SIGINT)
        assert await running.exit_code() == -signal.SIGINT
        assert "raised where it blocks" in running.output
        assert "KeyboardInterrupt" in running.output.splitlines()


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_handler_is_called_at_each_signal_and_the_program_goes_on(kind: str) -> None:
    source = f"""
        calls = []

        {kind} reload():
            calls.append(None)
            print("reloaded", len(calls))

        go(trio.sleep_forever, receiver=SignalReceiver(handlers={{signal.SIGHUP: reload}}))
    """
    async with program(source) as running:
        await running.line_with("group: ready")
        for number in (1, 2, 3):
            running.signal(signal.SIGHUP)
            await running.line_with(f"reloaded {number}")
        assert running.output.count("signals: SIGHUP received") == 3
        running.signal(signal.SIGTERM)
        assert await running.exit_code() == 0


async def test_a_handler_that_raises_is_logged_and_the_program_goes_on() -> None:
    source = """
        def reload():
            raise ValueError("no such file")

        go(trio.sleep_forever, receiver=SignalReceiver(handlers={signal.SIGHUP: reload}))
    """
    async with program(source) as running:
        await running.line_with("group: ready")
        running.signal(signal.SIGHUP)
        await running.line_with("signals: the handler of SIGHUP failed")
        await running.line_with("ValueError: no such file")
        running.signal(signal.SIGTERM)
        assert await running.exit_code() == 0


async def test_a_handler_that_hangs_does_not_keep_sigterm_from_stopping_the_program() -> None:
    source = """
        async def reload():
            print("reloading")
            await trio.sleep_forever()

        go(trio.sleep_forever, receiver=SignalReceiver(handlers={signal.SIGHUP: reload}))
    """
    async with program(source) as running:
        await running.line_with("group: ready")
        running.signal(signal.SIGHUP)
        await running.line_with("reloading")
        running.signal(signal.SIGTERM)
        assert await running.exit_code() == 0


@pytest.mark.parametrize("times", [1, 2, 3, 4, 20])
async def test_a_handler_that_hangs_does_not_keep_sigterm_from_stopping_however_often_it_is_due(
    times: int,
) -> None:
    """The program sends itself the signals: each is looked at before the next."""
    source = f"""
        async def worker():
            for _ in range({times}):
                signal.raise_signal(signal.SIGHUP)
                await wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGTERM)
            await wait_all_tasks_blocked()
            print("not stopped by SIGTERM", flush=True)
            os._exit(9)

        go(worker, receiver=SignalReceiver(handlers={{signal.SIGHUP: trio.sleep_forever}}))
    """
    async with program(source) as running:
        code = await running.exit_code()
        assert "group: stopping: SIGTERM received" in running.output
        assert code == 0


async def test_rule_16_a_signal_during_the_lame_duck_ends_it_and_the_next_is_hard() -> None:
    async with program("go(busy_forever, grace=1000, lame_duck=900)") as running:
        await running.line_with("group: ready")
        running.signal(signal.SIGTERM)
        await running.line_with("group: stopping: SIGTERM received")
        running.signal(signal.SIGINT)
        await running.line_with("group: the lame duck ends early: SIGINT received")
        assert "finally" not in running.output
        running.signal(signal.SIGTERM)
        assert await running.exit_code() == 128 + signal.SIGTERM
        assert "finally" in running.output.splitlines()


async def test_a_set_of_signals_of_one_s_own_leaves_the_others_to_python() -> None:
    source = "go(busy_forever, receiver=SignalReceiver(signal.SIGUSR1), grace=1000)"
    async with program(source) as running:
        await running.line_with("group: ready")
        running.signal(signal.SIGUSR1)
        await running.line_with("group: stopping: SIGUSR1 received")
        running.signal(signal.SIGUSR1)
        assert await running.exit_code() == 128 + signal.SIGUSR1

    async with program(source) as running:
        await running.line_with("group: ready")
        running.signal(signal.SIGTERM)
        assert await running.exit_code() == -signal.SIGTERM


async def test_rule_21_a_signal_during_the_lame_duck_leaves_the_rest_of_the_grace() -> None:
    """It ends the wait and is not a forced stop: the watchdog has no business yet."""
    source = """
        async def worker():
            with busy():
                await wait_stopping()
                await trio.sleep(1)
                print("finished my work")

        sys.exit(run(worker, grace=1000, lame_duck=900, abort_after=0.2))
    """
    async with program(source) as running:
        await running.line_with("group: ready")
        running.signal(signal.SIGTERM)
        await running.line_with("group: stopping: SIGTERM received")
        running.signal(signal.SIGTERM)
        await running.line_with("group: the lame duck ends early: SIGTERM received")
        assert await running.exit_code() == 0
        assert "finished my work" in running.output


async def test_rule_21_two_signals_that_come_at_once_are_either_one_stop_or_a_forced_one() -> None:
    """The group may see them as one and stop gracefully: then the watchdog is not to end it."""
    source = """
        async def worker():
            with busy():
                for _ in range(2):
                    signal.raise_signal(signal.SIGTERM)
                await trio.sleep(1)
                print("finished my work")

        sys.exit(run(worker, grace=1000, abort_after=0.2))
    """
    async with program(source) as running:
        code = await running.exit_code()
        assert (code, "finished my work" in running.output) in [
            (0, True),
            (128 + signal.SIGTERM, False),
        ]


async def test_rule_21_an_abort_after_of_0_ends_the_process_too() -> None:
    """With no time at all between the end of the grace and the watchdog either of them may win."""
    source = """
        async def worker():
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep_forever()

        signal.alarm(20)  # for a process that does not end
        sys.exit(run(worker, grace=0, abort_after=0))
    """
    async with program(source) as running:
        assert await running.exit_code() in (0, 1)
        assert "ValueError" not in running.output
