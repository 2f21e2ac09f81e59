"""stop() from anywhere: a signal handler, another thread, before the run.

And what is refused there.
"""

from __future__ import annotations

import signal
import threading

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Group, State, busy, cancel_on_stop
from trio_run._bell import Bell
from trio_run.testing import running


async def test_a_signal_handler_may_stop_a_group_at_any_moment() -> None:
    group = Group()
    group.add(trio.sleep_forever)
    before = signal.signal(signal.SIGALRM, lambda *_: group.stop("the alarm"))
    try:
        async with running(group):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            await trio.sleep(0.02)
            with trio.fail_after(10):
                await group.members[0].wait_stopped()
    finally:
        signal.signal(signal.SIGALRM, before)


async def test_a_bell_rung_out_of_trio_s_scheduler_is_heard() -> None:
    bell = Bell()
    before = signal.signal(signal.SIGALRM, lambda *_: bell.ring())
    try:
        # It waits in the scheduler, for I/O: where no task runs.
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with trio.fail_after(10):
            await bell.wait()
    finally:
        signal.signal(signal.SIGALRM, before)


async def test_a_bell_that_rings_in_the_moment_of_its_cancel_is_heard_once(
    autojump_clock: MockClock,
) -> None:
    bell = Bell()
    with trio.move_on_after(1) as scope:
        await bell.wait()
    assert scope.cancelled_caught
    bell.ring()
    await bell.wait()  # at once
    bell.clear()
    woken = []

    async def sleeper() -> None:
        with trio.CancelScope() as inner:
            scopes.append(inner)
            await bell.wait()
        woken.append(inner.cancelled_caught)

    scopes: list[trio.CancelScope] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        await wait_all_tasks_blocked()
        bell.ring()
        scopes[0].cancel()
    assert woken == [False]


async def test_a_stop_requested_while_it_is_cancelled_does_no_harm() -> None:
    """The abort of a wait finds that a ring has been faster."""
    bell = Bell()
    task: list[trio.lowlevel.Task] = []

    async def sleeper() -> None:
        task.append(trio.lowlevel.current_task())
        await bell.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        await wait_all_tasks_blocked()
        abort = task[0]._abort_func
        assert abort is not None
        bell.ring()
        assert abort(lambda: None) is trio.lowlevel.Abort.FAILED  # type: ignore[arg-type]


def test_stop_from_a_thread_just_as_the_run_begins() -> None:
    for _ in range(50):
        group = Group()
        group.add(trio.sleep_forever)
        barrier = threading.Barrier(2)
        errors: list[BaseException] = []
        thread = threading.Thread(target=stop_at, args=(barrier, group, errors))
        thread.start()
        trio.run(run_at, barrier, group)
        thread.join()
        assert errors == []
        assert group.state is State.STOPPED


def stop_at(barrier: threading.Barrier, group: Group, errors: list[BaseException]) -> None:
    barrier.wait()
    try:
        group.stop()
    except BaseException as exc:
        errors.append(exc)


async def run_at(barrier: threading.Barrier, group: Group) -> None:
    barrier.wait()
    with trio.fail_after(20):
        await group.run()


async def test_add_and_member_stop_in_another_thread_change_nothing() -> None:
    group = Group(name="shop")
    member = group.add(trio.sleep_forever, name="api")
    async with running(group):
        for call, what in (
            (lambda: group.add(trio.sleep_forever), r"Group\.add\(\)"),
            (member.stop, r"Member\.stop\(\)"),
        ):
            with pytest.raises(RuntimeError, match=what + " was called outside the thread"):
                await trio.to_thread.run_sync(call)
        assert [one.name for one in group.members] == ["api"]
        assert member.state is State.RUNNING
    assert member.outcome == "returned"


@pytest.mark.parametrize("block", [busy, cancel_on_stop])
async def test_one_object_serves_one_block_once(block: type) -> None:
    once = block()
    with once:
        with pytest.raises(RuntimeError, match="serves one block once"), once:
            pass
    with pytest.raises(RuntimeError, match="serves one block once"), once:
        pass
