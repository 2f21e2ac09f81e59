"""Rule P4: several processes on the same sockets."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from trio_run import (
    CannotStart,
    Event,
    Group,
    GroupFailed,
    ProcessFailed,
    State,
    Workers,
    _cores,
    _workers,
)
from trio_run.testing import open_program, running

from . import TIMEOUT
from .children import exists, notifying, quick, state_of, until
from .programs import script

GOOD = 'say("READY=1")\nsignal.pause()'
CRASHES = "sys.exit(3)"
SLOW = "signal.pause()"


def ends_in(seconds: float) -> str:
    """Takes so long to end, even if it is told to before it waits."""
    return f"signal.signal(signal.SIGTERM, lambda *_: (time.sleep({seconds}), sys.exit()))\n{GOOD}"


class Release:
    """A program that is on disk: it does what is written there when it begins."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "release"
        self.command = [*notifying("exec(open(sys.argv[1]).read())"), str(self.file)]
        self.write(GOOD)

    def write(self, source: str) -> None:
        self.file.write_text(source)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is begun anew at once."""
    monkeypatch.setattr(_workers, "_FIRST", 0.0)
    monkeypatch.setattr(_workers, "_MOST", 0.0)


def pids(workers: Workers) -> list[int]:
    """Of those that serve."""
    found = [slot.worker.process for slot in workers._slots]
    return [process.pid for process in found if process.pid is not None and process.ready]


async def failures_of(workers: Workers, **settings: Any) -> tuple[Exception, ...]:
    group = Group(**settings)
    group.add(workers)
    with pytest.raises(GroupFailed) as failed:
        with trio.fail_after(TIMEOUT):
            await group.run()
    return failed.value.exceptions


@asynccontextmanager
async def all_ready(workers: Workers, count: int, **settings: Any) -> AsyncIterator[Group]:
    with trio.fail_after(TIMEOUT):
        async with running(workers, **settings) as group:
            await until(lambda: len(pids(workers)) == count)
            yield group


# How many there are.


async def test_rule_p4_there_are_as_many_as_are_said(release: Release) -> None:
    workers = Workers(release.command, 3)
    async with all_ready(workers, 3) as group:
        assert workers.status == "3 workers, 3 ready"
        mine = pids(workers)
        assert len(set(mine)) == 3
    assert group.report.actors[0].outcome == "returned"
    assert group.report.actors[0].detail == "3 workers"
    assert not any(map(exists, mine))


async def test_rule_p4_it_is_ready_while_one_of_them_is(release: Release, tmp_path: Path) -> None:
    release.write(
        f"""
try:
    os.mkdir({str(tmp_path / "first")!r})
except FileExistsError:
    while not os.path.exists({str(tmp_path / "go")!r}):
        time.sleep(0.01)
say("READY=1")
signal.pause()
"""
    )
    workers = Workers(release.command, 2)
    async with running(workers) as group:
        assert group.ready
        assert workers.status == "2 workers, 1 ready"
        (tmp_path / "go").touch()
        await until(lambda: workers.status == "2 workers, 2 ready")
        for pid in pids(workers):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not group.ready)
        assert workers.status.startswith("2 workers, 0 ready")
        await until(lambda: group.ready)


def test_rule_p4_where_nobody_says_there_is_one_for_each_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(6)))
    mine, root = tmp_path / "mine", tmp_path / "cgroup"
    monkeypatch.setattr(_cores, "_PROC", mine)
    monkeypatch.setattr(_cores, "_CGROUPS", root)
    assert _cores.cores() == 6  # there are no cgroups

    def write(path: str, text: str) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    mine.write_text("0::/shop/web\n")
    write("shop/web/cpu.max", "max 100000\n")
    assert _cores.cores() == 6
    write("shop/cpu.max", "250000 100000\n")
    assert _cores.cores() == 3
    write("cpu.max", "50000 100000\n")
    assert _cores.cores() == 1
    write("cpu.max", "nonsense\n")
    write("shop/cpu.max", "")
    assert _cores.cores() == 6
    mine.write_text("4:memory:/shop\n3:cpu,cpuacct:/shop\n1:name=systemd:/\n")
    write("cpu,cpuacct/shop/cpu.cfs_quota_us", "400000\n")
    write("cpu,cpuacct/shop/cpu.cfs_period_us", "100000\n")
    assert _cores.cores() == 4
    write("cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write("cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert _cores.cores() == 4
    mine.write_bytes(b"\xff\xfe")
    assert _cores.cores() == 6


async def test_rule_p4_that_is_what_it_begins(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_workers, "cores", lambda: 2)
    async with all_ready(workers := Workers(release.command), 2):
        assert workers.status == "2 workers, 2 ready"


async def test_rule_p4_one_more_and_one_fewer(release: Release) -> None:
    workers = Workers(release.command, 1)
    workers.more()  # it does not run
    async with all_ready(workers, 1) as group:
        first = pids(workers)
        workers.more()
        await until(lambda: len(pids(workers)) == 2)
        assert workers.status == "2 workers, 2 ready"
        second = pids(workers)[1]
        workers.fewer()
        assert workers.status == "1 worker, 1 ready, 1 draining"
        await until(lambda: not exists(second))
        workers.fewer()  # the last one stays
        assert pids(workers) == first
        assert group.state is State.RUNNING
    workers.more()
    workers.fewer()
    assert workers.status == "1 worker"


async def test_rule_p4_it_is_one_fewer_of_those_that_are_not_ready(release: Release) -> None:
    workers = Workers(release.command, 3)
    async with all_ready(workers, 3):
        first, second, third = pids(workers)
        os.kill(second, signal.SIGKILL)
        await until(lambda: workers.status == "3 workers, 2 ready")
        workers.fewer()
        assert workers.status == "2 workers, 2 ready"
        assert pids(workers) == [first, third]


async def test_rule_p4_one_more_that_does_not_start_stops_nobody(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    workers = Workers(release.command, 1)
    async with all_ready(workers, 1) as group:
        release.write(CRASHES)
        workers.more()
        await until(lambda: "2 restarts" in workers.status)
        release.write(GOOD)
        await until(lambda: len(pids(workers)) == 2)
        assert group.state is State.RUNNING


# The start.


@pytest.mark.parametrize("source", [CRASHES, "pass"])
async def test_rule_p4_at_the_start_an_end_is_a_failure_at_once(
    release: Release, source: str
) -> None:
    release.write(source)
    [error] = await failures_of(Workers(release.command, 1))
    assert isinstance(error, ProcessFailed)
    assert error.exit_code == (3 if source == CRASHES else 0)
    assert "'workers 1' ended with exit code" in str(error)


async def test_rule_p4_the_others_have_time_to_end_then(release: Release, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    release.write(
        f"""
def end(*_):
    time.sleep(0.1)
    open({str(ended)!r}, "w")
    sys.exit()
try:
    os.mkdir({str(tmp_path / "first")!r})
except FileExistsError:
    while not os.path.exists({str(tmp_path / "serves")!r}):
        time.sleep(0.01)
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
say("READY=1")
open({str(tmp_path / "serves")!r}, "w")
signal.pause()
"""
    )
    [error] = await failures_of(Workers(release.command, 2))
    assert isinstance(error, ProcessFailed)
    assert error.exit_code == 3
    assert ended.exists()


async def test_rule_p4_one_that_never_gets_ready_is_one_too(release: Release) -> None:
    release.write(SLOW)
    [error] = await failures_of(Workers(release.command, 1, ready_within=0.3, name="shop"))
    assert isinstance(error, ProcessFailed)
    assert str(error) == "'shop 1' was not ready within 0.3 s: it was killed"


async def test_rule_p4_of_two_that_never_get_ready_none_is_said_to_have_had_its_grace(
    release: Release, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release.write(
        f"""
try:
    os.mkdir({str(tmp_path / "first")!r})
except FileExistsError:
    signal.pause()
{GOOD}
"""
    )
    [error] = await failures_of(Workers(release.command, 3, ready_within=1.0, name="shop"))
    assert isinstance(error, ProcessFailed)
    assert "killed: it was not ready in time" in caplog.text
    assert "its grace" not in caplog.text


async def test_rule_p4_what_can_not_be_started_is_said_in_a_sentence() -> None:
    [error] = await failures_of(Workers(["no-such-program"], 2))
    assert isinstance(error, CannotStart)


async def test_rule_p4_of_those_that_begin_at_the_same_time_each_failure_counts(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nexec "$@"\n')
    program.chmod(0o700)
    only_once = f"os.unlink({str(program)!r})\n{GOOD}"
    [error] = await failures_of(Workers([program, *notifying(only_once)], 3))
    assert isinstance(error, ExceptionGroup)
    assert [type(each) for each in error.exceptions] == [CannotStart] * 2


async def test_rule_p4_without_notify_a_worker_is_ready_when_it_runs() -> None:
    workers = Workers(quick("import signal; signal.pause()"), 2, notify=False)
    async with all_ready(workers, 2):
        before = pids(workers)
        assert await workers.replace()
        assert not set(before) & set(pids(workers))


# Those that end.


@pytest.mark.parametrize("how", ["SIGKILL", "0", "7"])
async def test_rule_p4_one_that_ends_by_itself_is_begun_anew(
    how: str, release: Release, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once(monkeypatch)
    release.write(
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))\n"
        "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))\n" + GOOD
    )
    signum = {"SIGKILL": signal.SIGKILL, "0": signal.SIGUSR1, "7": signal.SIGUSR2}[how]
    events: list[Event] = []
    workers = Workers(release.command, 2)
    async with all_ready(workers, 2) as group:
        group.on_event(events.append)
        first, second = pids(workers)
        os.kill(first, signum)
        await until(lambda: workers.status == "2 workers, 2 ready, 1 restart")
        assert second in pids(workers)
        assert first not in pids(workers)
    [restarted] = [event for event in events if event.kind == "restarted"]
    assert restarted.actor == "workers"
    assert restarted.fields["lives"] == 2
    assert (restarted.fields["error"] is None) == (how == "0")
    what = {
        "SIGKILL": "ProcessFailed: 'workers 1' was ended by SIGKILL",
        "0": "it returned",
        "7": "ProcessFailed: 'workers 1' ended with exit code 7",
    }[how]
    assert f"workers 1 (pid {first}): ended by itself, begun anew in 0.0 s: {what}" in caplog.text
    assert group.report.actors[0].detail == "2 workers, 1 restart"


async def test_rule_p4_one_that_fails_too_often_is_a_failure(
    release: Release, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once(monkeypatch)
    monkeypatch.setattr(_workers, "_LIMIT", 3)
    workers = Workers(release.command, 1)

    async def break_it() -> None:
        await until(lambda: pids(workers))
        release.write(CRASHES)
        os.kill(pids(workers)[0], signal.SIGKILL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(break_it)
        [error] = await failures_of(workers)
    assert isinstance(error, ExceptionGroup)
    assert error.message == "'workers 1' failed 4 times in 300 s"
    assert [each.exit_code for each in error.exceptions if isinstance(each, ProcessFailed)] == [
        *(None, 3, 3, 3)
    ]
    assert "workers: all workers are stopped: ExceptionGroup: 'workers 1' failed 4" in caplog.text
    assert workers.status == "1 worker, 3 restarts"


async def test_rule_p4_to_end_well_again_and_again_is_a_failure_too(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    monkeypatch.setattr(_workers, "_LIMIT", 2)
    release.write('say("READY=1")')
    [error] = await failures_of(Workers(release.command, 1))
    assert isinstance(error, ExceptionGroup)
    assert error.message == "'workers 1' failed 3 times in 300 s"
    assert {str(each) for each in error.exceptions} == {
        "'workers 1' ended with exit code 0, and nobody had stopped it"
    }


async def test_rule_p4_while_another_serves_it_is_tried_on(
    release: Release, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once(monkeypatch)
    monkeypatch.setattr(_workers, "_LIMIT", 3)
    workers = Workers(release.command, 2)

    def given_up() -> int:
        return caplog.text.count("failed 4 times in 300 s: tried on, after up to 0 s each")

    async def break_it() -> None:
        await until(lambda: len(pids(workers)) == 2)
        first, second = pids(workers)
        release.write(CRASHES)
        os.kill(first, signal.SIGKILL)
        await until(lambda: workers._restarts >= 6)
        assert workers.status == f"2 workers, 1 ready, {workers._restarts} restarts"
        assert given_up() == 1
        release.write(GOOD)
        await until(lambda: len(pids(workers)) == 2)
        release.write(CRASHES)
        os.kill(second, signal.SIGKILL)  # it has attempts of its own
        await until(lambda: given_up() == 2)
        assert len(pids(workers)) == 1
        os.kill(*pids(workers), signal.SIGKILL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(break_it)
        [error] = await failures_of(workers)
    assert isinstance(error, ExceptionGroup)
    assert re.match("'workers [12]' failed [0-9]+ times in 300 s", error.message)
    assert given_up() == 2


async def test_rule_p4_a_life_longer_than_the_window_gives_new_attempts(
    release: Release, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once(monkeypatch)
    monkeypatch.setattr(_workers, "_LIMIT", 1)
    workers = Workers(release.command, 2)
    async with all_ready(workers, 2):
        for failures, given_up in enumerate((0, 1, 1, 1, 2), 1):
            if failures == 4:
                workers._slots[0].worker.began -= 301
            os.kill(pids(workers)[0], signal.SIGKILL)
            await until(lambda n=failures: workers._restarts == n)  # type: ignore[misc]
            await until(lambda: len(pids(workers)) == 2)
            assert caplog.text.count("failed 2 times in 300 s: tried on") == given_up


async def test_rule_p4_what_failed_before_it_was_replaced_does_not_count_any_more(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    monkeypatch.setattr(_workers, "_LIMIT", 1)
    workers = Workers(release.command, 1)
    async with all_ready(workers, 1) as group:
        for restarts in (1, 2, 3):
            os.kill(pids(workers)[0], signal.SIGKILL)
            await until(lambda n=restarts: workers._restarts == n)  # type: ignore[misc]
            await until(lambda: pids(workers))
            assert await workers.replace()
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_it_is_never_begun_in_a_tight_loop(release: Release) -> None:
    workers = Workers(release.command, 1)
    async with all_ready(workers, 1) as group:
        began = trio.current_time()
        release.write(CRASHES)
        os.kill(pids(workers)[0], signal.SIGKILL)
        await until(lambda: "2 restarts" in workers.status)
        assert trio.current_time() - began > 1.5  # half of 1 s, half of 2 s
        assert group.state is State.RUNNING
        assert not group.ready


async def test_rule_p4_a_stop_ends_the_wait(release: Release) -> None:
    workers = Workers(release.command, 1)
    async with all_ready(workers, 1) as group:
        os.kill(pids(workers)[0], signal.SIGKILL)
        await until(lambda: workers.status == "1 worker, 0 ready")
    assert group.report.actors[0].detail == "1 worker"
    assert group.report.duration < 0.4


async def test_rule_p4_so_does_one_fewer(release: Release) -> None:
    workers = Workers(release.command, 2)
    async with all_ready(workers, 2) as group:
        os.kill(pids(workers)[1], signal.SIGKILL)
        await until(lambda: workers.status == "2 workers, 1 ready")
        workers.fewer()
        await trio.sleep(1.1)
        assert workers.status == "1 worker, 1 ready"
    assert group.report.actors[0].detail == "1 worker"


async def test_rule_p4_in_the_lame_duck_none_is_begun(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    workers = Workers(release.command, 2)
    with pytest.raises(GroupFailed) as failed:
        async with all_ready(workers, 2, lame_duck=0.5) as group:
            group.stop()
            os.kill(pids(workers)[0], signal.SIGKILL)
            await until(lambda: workers.status == "2 workers, 1 ready")
            workers.more()
            assert not await workers.replace()
            assert group.state is State.LAME_DUCK
    [error] = failed.value.exceptions
    assert str(error) == "'workers 1' was ended by SIGKILL"
    assert failed.value.report.actors[0].detail == "2 workers"


async def test_rule_p4_one_that_hangs_is_killed_and_begun_anew(
    release: Release, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_once(monkeypatch)
    release.write(
        f"""
say("READY=1")
while not os.path.exists({str(tmp_path / "hang")!r}):
    say("WATCHDOG=1")
    time.sleep(0.05)
os.rename({str(tmp_path / "hang")!r}, {str(tmp_path / "hung")!r})
import ctypes
ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock
"""
    )
    workers = Workers(release.command, 2, stuck_after=0.5)
    async with all_ready(workers, 2) as group:
        before = pids(workers)
        (tmp_path / "hang").touch()
        await until(lambda: workers.status == "2 workers, 2 ready, 1 restart")
        assert len(set(before) & set(pids(workers))) == 1
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_one_that_stops_by_itself_has_its_grace_for_that(
    release: Release, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once(monkeypatch)
    release.write('say("READY=1")\nsay("STOPPING=1")\nsay("STOPPING=1")\nsignal.pause()')
    workers = Workers(release.command, 1, stuck_after=1000, grace=0.3)
    async with running(workers) as group:
        release.write(GOOD)
        await until(lambda: workers.status == "1 worker, 1 ready, 1 restart")
    what = "'workers 1' began to stop by itself, and had not ended 0.3 s later: it was killed"
    assert what in caplog.text
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_one_that_goes_on_after_all_is_watched_again(
    release: Release, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once(monkeypatch)
    release.write('for each in ("READY", "STOPPING", "READY"): say(each + "=1")\nsignal.pause()')
    workers = Workers(release.command, 1, stuck_after=0.5, grace=0.1)
    async with running(workers):
        pid = workers._slots[0].worker.process.pid
        release.write('say("READY=1")\nwhile True:\n  say("WATCHDOG=1")\n  time.sleep(0.1)')
        await until(lambda: workers.status == "1 worker, 1 ready, 1 restart")
    assert f"workers 1 (pid {pid}): no sign of life for 0.5 s: it is killed" in caplog.text


# Replacing.


async def test_rule_p4_they_are_replaced_one_by_one(
    release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    workers = Workers(release.command, 3)
    fewest = math.inf

    async def count() -> None:
        nonlocal fewest
        while True:
            fewest = min(fewest, len(pids(workers)))
            await trio.lowlevel.checkpoint()

    with caplog.at_level("INFO"):
        async with all_ready(workers, 3) as group:
            before = pids(workers)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count)
                assert await workers.replace()
                nursery.cancel_scope.cancel()
            after = pids(workers)
            assert len(after) == 3
            assert not set(before) & set(after)
            await until(lambda: not any(map(exists, before)))
            await until(lambda: workers.status == "3 workers, 3 ready, 3 replaced")
    assert fewest == 3
    assert "workers: replaced, all 3" in caplog.messages
    assert group.report.actors[0].detail == "3 workers, 3 replaced"


async def test_rule_p4_an_old_one_has_its_grace(
    release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    release.write(
        "signal.signal(signal.SIGTERM, lambda *_: None)\nwhile True:\n  "
        + GOOD.replace("\n", "\n  ")
    )
    workers = Workers(release.command, 1, grace=0.3)
    async with all_ready(workers, 1) as group:
        [old] = pids(workers)
        release.write(GOOD)
        assert await workers.replace()
        assert state_of(old)
        await until(lambda: not exists(old))
        assert f"workers 1 (pid {old}): killed: its grace of 0.3 s is over" in caplog.messages
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_one_that_fails_when_it_is_replaced_stops_nobody(
    release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    release.write("signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n" + GOOD)
    workers = Workers(release.command, 1)
    async with all_ready(workers, 1) as group:
        [old] = pids(workers)
        release.write(GOOD)
        assert await workers.replace()
        await until(lambda: "failed while stopping" in caplog.text)
    failed = f"workers 1 (pid {old}): failed while stopping: ProcessFailed: 'workers 1' ended with"
    assert failed in caplog.text
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_at_the_stop_that_is_a_failure(release: Release) -> None:
    release.write("signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n" + GOOD)
    workers = Workers(release.command, 1)
    with pytest.raises(GroupFailed) as failed:
        async with all_ready(workers, 1):
            pass
    [error] = failed.value.exceptions
    assert isinstance(error, ProcessFailed)
    assert error.exit_code == 5


@pytest.mark.parametrize("broken", [CRASHES, SLOW, "no program", "pass"])
async def test_rule_p4_a_release_that_does_not_start_keeps_the_old_ones(
    broken: str, release: Release, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nexec "$@"\n')
    program.chmod(0o700)
    workers = Workers([program, *release.command], 2, ready_within=1.0)
    async with all_ready(workers, 2) as group:
        before = pids(workers)
        if broken == "no program":
            program.rename(tmp_path / "gone")
        else:
            release.write(broken)
        assert not await workers.replace()
        assert pids(workers) == before
        assert group.state is State.RUNNING
        assert workers.status == "2 workers, 2 ready"
        why = {
            CRASHES: "ProcessFailed: 'workers 1' ended with exit code 3 before it was ready.",
            SLOW: "ProcessFailed: 'workers 1' was not ready within 1 s: it was killed.",
            "no program": f"CannotStart: cannot start 'workers 1' ({program}): No such file or",
            "pass": "ProcessFailed: 'workers 1' ended with exit code 0 before it was ready.",
        }[broken]
        assert f"workers: not replaced: {why}" in caplog.text
        assert "The old workers go on." in caplog.text
        # The next one is another.
        if broken == "no program":
            (tmp_path / "gone").rename(program)
        release.write(GOOD)
        assert await workers.replace()
        assert not set(before) & set(pids(workers))


async def test_rule_p4_one_that_is_ready_too_late_is_not_taken(release: Release) -> None:
    workers = Workers(release.command, 1, ready_within=1.0)
    async with all_ready(workers, 1):
        [worker] = workers._alive
        worker.scope.cancel()  # its time has come
        worker.was_ready = False
        worker.started()
        assert not worker.was_ready


async def test_rule_p4_calls_while_they_are_replaced_are_one(release: Release) -> None:
    workers = Workers(release.command, 2)
    done: list[bool] = []

    async def replace() -> None:
        done.append(await workers.replace())

    async with all_ready(workers, 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replace)
            await until(lambda: len(workers._alive) == 3)
            for _ in range(3):
                nursery.start_soon(replace)
        assert done == [True] * 4
        await until(lambda: workers.status == "2 workers, 2 ready, 4 replaced")


async def test_rule_p4_a_stop_ends_the_replacing(release: Release) -> None:
    workers = Workers(release.command, 2)
    done: list[bool] = []

    async def replace() -> None:
        done.append(await workers.replace())

    async with trio.open_nursery() as nursery:
        async with all_ready(workers, 2) as group:
            release.write(SLOW)
            nursery.start_soon(replace)
            await until(lambda: len(workers._alive) == 3)
            nursery.start_soon(replace)  # once more, afterwards
            await trio.testing.wait_all_tasks_blocked()
    assert done == [False, False]
    assert group.report.actors[0].outcome == "returned"
    assert not await workers.replace()  # it is over


async def test_rule_p4_so_does_its_lame_duck(release: Release) -> None:
    workers = Workers(release.command, 2)
    done: list[bool] = []

    async def replace() -> None:
        done.append(await workers.replace())

    async with trio.open_nursery() as nursery:
        async with all_ready(workers, 2, lame_duck=1000, grace=2000) as group:
            before = pids(workers)
            release.write(SLOW)
            nursery.start_soon(replace)
            await until(lambda: len(workers._alive) == 3)
            group.stop()
            await until(lambda: len(workers._alive) == 2)
            assert done == [False]
            assert pids(workers) == before
            assert group.state is State.LAME_DUCK
            group.stop()
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_old_ones_that_drain_do_not_pile_up(
    release: Release, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go = tmp_path / "go"
    release.write(
        f"""
def drain(*_):
    while not os.path.exists({str(go)!r}):
        time.sleep(0.01)
    sys.exit()
signal.signal(signal.SIGTERM, drain)
{GOOD}
"""
    )
    workers = Workers(release.command, 2)
    with caplog.at_level("INFO"):
        async with all_ready(workers, 2) as group:
            for _ in range(2):
                assert await workers.replace()
            assert workers.status == "2 workers, 2 ready, 4 draining, 4 replaced"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workers.replace)
                await until(
                    lambda: "workers: replacing waits for 4 old workers to drain" in caplog.messages
                )
                await trio.testing.wait_all_tasks_blocked()
                assert len(workers._alive) == 6
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workers.replace)
                await trio.testing.wait_all_tasks_blocked()
                go.touch()
            await until(lambda: workers.status == "2 workers, 2 ready, 6 replaced")
    assert group.report.actors[0].outcome == "returned"


@pytest.mark.parametrize("count", [2, 3])
async def test_rule_p4_cancelled_it_ends_with_the_one_whose_turn_it_is(
    count: int, release: Release, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = Workers(release.command, count)
    # The first new one serves, the second never does.
    release_of_one = f"""
try:
    os.mkdir({str(tmp_path / "first")!r})
except FileExistsError:
    signal.pause()
{GOOD}
"""
    with caplog.at_level("INFO"):
        async with all_ready(workers, count) as group:
            before = pids(workers)
            release.write(release_of_one)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workers.replace)
                await until(
                    lambda: "1 replaced" in workers.status and len(workers._alive) == count + 1
                )
                nursery.cancel_scope.cancel()
            await until(lambda: len(workers._alive) == count)
            assert pids(workers)[1:] == before[1:]
            assert workers.status == f"{count} workers, {count} ready, 1 replaced"
            assert "workers: not replaced any further: that was cancelled" in caplog.messages
            assert not any("replaced, all" in each for each in caplog.messages)
            release.write(GOOD)
            assert await workers.replace()
            assert not set(before) & set(pids(workers))
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_it_goes_on_while_somebody_waits_for_it(
    release: Release, tmp_path: Path
) -> None:
    workers = Workers(release.command, 2)
    go = tmp_path / "go"
    done: list[bool] = []

    async def replace() -> None:
        done.append(await workers.replace())

    async with all_ready(workers, 2):
        release.write(f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n{GOOD}")
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as impatient:
                impatient.start_soon(workers.replace)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(replace)  # once more, afterwards
                impatient.start_soon(workers.replace)
                await trio.testing.wait_all_tasks_blocked()
                impatient.cancel_scope.cancel()
            await until(lambda: len(workers._alive) == 3)
            go.touch()
        assert done == [True]
        await until(lambda: workers.status == "2 workers, 2 ready, 2 replaced")


async def test_rule_p4_one_that_nobody_waits_for_any_more_does_not_begin(
    release: Release, tmp_path: Path
) -> None:
    workers = Workers(release.command, 1)
    go = tmp_path / "go"
    async with all_ready(workers, 1):
        release.write(f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n{GOOD}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.replace)
            await until(lambda: len(workers._alive) == 2)
            with trio.move_on_after(0.05):
                await workers.replace()  # once more, afterwards
            with trio.move_on_after(0):
                await workers.replace()
            go.touch()
        await until(lambda: len(workers._alive) == 1)
        await trio.testing.wait_all_tasks_blocked()
        assert workers.status == "1 worker, 1 ready, 1 replaced"
        assert len(workers._alive) == 1


async def test_rule_p4_what_does_not_run_can_not_be_replaced(release: Release) -> None:
    with pytest.raises(RuntimeError, match="'workers' does not run"):
        await Workers(release.command).replace()


async def test_rule_p4_one_that_ends_while_it_is_replaced_is_replaced(
    release: Release, tmp_path: Path
) -> None:
    workers = Workers(release.command, 1)
    async with all_ready(workers, 1) as group:
        go = tmp_path / "go"
        release.write(f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n{GOOD}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.replace)
            await until(lambda: len(workers._alive) == 2)
            os.kill(pids(workers)[0], signal.SIGKILL)
            await until(lambda: workers.status == "1 worker, 0 ready")
            go.touch()
        await trio.sleep(1.1)  # nothing comes in its place
        assert workers.status == "1 worker, 1 ready, 1 replaced"
        assert len(workers._alive) == 1
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_one_of_those_that_are_to_be_fewer_is_not_replaced(
    release: Release, tmp_path: Path
) -> None:
    workers = Workers(release.command, 3)
    go = tmp_path / "go"
    async with all_ready(workers, 3):
        release.write(
            f"while not os.path.exists({str(go)!r} + str(len(os.listdir({str(tmp_path)!r})))):"
            f" time.sleep(0.01)\n{GOOD}"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.replace)
            await until(lambda: len(workers._alive) == 4)
            workers.fewer()  # the third, before its turn
            (tmp_path / "go2").touch()
            await until(lambda: "1 replaced" in workers.status)
            await until(lambda: len(workers._alive) == 3)
            workers.fewer()  # the second, in its turn
            (tmp_path / "go3").touch()
        await until(lambda: len(workers._alive) == 1)
        assert workers.status == "1 worker, 1 ready, 1 replaced"


# The stop.


async def test_rule_p4_while_it_stops_it_says_who_is_left(release: Release) -> None:
    release.write(ends_in(0.3))
    workers = Workers(release.command, 2)
    async with all_ready(workers, 2) as group:
        group.stop()
        await until(lambda: workers.status == "2 workers left")


async def test_rule_p4_one_that_is_ready_only_then_is_no_failure(
    release: Release, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    release.write(
        f"""
def stop(*_):
    open({str(tmp_path / "stops")!r}, "w")
    say("READY=1")
    time.sleep(0.1)
    sys.exit()
signal.signal(signal.SIGTERM, stop)
open({str(go)!r}, "w")
signal.pause()
"""
    )
    workers = Workers(release.command, 1, ready_within=0.5)
    async with running(workers, wait_ready=False) as group:
        await until(go.exists)
    assert group.report.actors[0].outcome == "returned"
    assert not await workers.replace()


async def test_rule_p4_while_it_stops_none_is_replaced(release: Release) -> None:
    release.write(ends_in(0.3))
    workers = Workers(release.command, 1)
    async with all_ready(workers, 1) as group:
        group.stop()
        await until(lambda: workers.status == "1 worker left")
        assert not await workers.replace()


async def test_rule_p4_cut_they_are_killed(release: Release) -> None:
    release.write("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + GOOD)
    workers = Workers(release.command, 2)
    async with all_ready(workers, 2, grace=0.2) as group:
        mine = pids(workers)
    assert group.report.actors[0].outcome == "cut"
    assert not any(map(exists, mine))


async def test_rule_p4_its_sockets_are_closed_in_the_end(release: Release) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        workers = Workers(release.command, 1, sockets=[listening])
        async with all_ready(workers, 1):
            assert workers.addresses == (listening.getsockname(),)
        assert listening.fileno() == -1


@pytest.mark.parametrize("owns", [True, False])
async def test_rule_p4_no_client_comes_any_more_when_it_stops(owns: bool, release: Release) -> None:
    release.write(ends_in(0.5))
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket() as client,
    ):
        workers = Workers(release.command, 1, sockets={"web": [listening], "control": [unix]})
        workers.owns_sockets = owns
        address = listening.getsockname()
        client.setblocking(False)
        async with all_ready(workers, 1) as group:
            group.stop()
            await until(lambda: "left" in workers.status)
            client.connect_ex(address)
            with trio.move_on_after(0.2):
                await trio.lowlevel.wait_writable(client)
            assert (client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO) == 1) != owns
        assert (listening.fileno() == -1) == owns


async def test_rule_p4_that_is_not_so_with_sockets_that_are_another_s_too(
    release: Release, tmp_path: Path
) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    release.write(
        f"""
def stop(*_):
    open({str(tmp_path / "stops")!r}, "w")
    time.sleep(1)
    sys.exit()
signal.signal(signal.SIGTERM, stop)
say("READY=1")
open({str(tmp_path / "serves")!r}, "w")
signal.pause()
"""
    )
    source = f"""
        import os, sys
        os.dup2({listening.fileno()}, 3)
        os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}}
        from trio_run import Workers, inherited_sockets, run
        workers = Workers({release.command!r}, 1, sockets=inherited_sockets())
        sys.exit(run(workers))
    """
    program = script(source)
    async with trio.open_nursery() as nursery:
        start = trio.run_process
        process = await nursery.start(
            lambda **options: start(
                program, pass_fds=[listening.fileno()], capture_stderr=True, **options
            )
        )
        await until((tmp_path / "serves").exists)
        process.terminate()
        await until((tmp_path / "stops").exists)
        with socket.create_connection(listening.getsockname(), timeout=5):
            pass
    listening.close()


# What can't be right.


async def test_rule_p4_what_can_not_be_right_is_said_at_once(release: Release) -> None:
    for count in (0, -1, 1.5, "2", True, [3]):
        with pytest.raises(ValueError, match="count must be a positive whole number or None"):
            Workers(release.command, count)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="command must be a list"):
        Workers("shop")
    with pytest.raises(ValueError, match="ready_within must be a number of seconds"):
        Workers(release.command, ready_within=-1)
    with pytest.raises(ValueError, match="ready_within must be more than 0 seconds"):
        Workers(release.command, ready_within=0)
    with pytest.raises(ValueError, match="grace must be a number of seconds, 0 or more, not -1"):
        Workers(release.command, grace=-1)
    with pytest.raises(ValueError, match="stuck_after must be more than 0"):
        Workers(release.command, stuck_after=0)
    with pytest.raises(ValueError, match="stuck_after goes with notify"):
        Workers(release.command, stuck_after=1, notify=False)
    with pytest.raises(TypeError, match="sockets must be a list of bound sockets"):
        Workers(release.command, sockets={"web": 3})  # type: ignore[dict-item]
    with pytest.raises(RuntimeError, match="add\\(\\) it to one"):
        await Workers(release.command).execute()


async def test_rule_p4_it_runs_once(release: Release) -> None:
    workers = Workers(release.command, 1)
    async with all_ready(workers, 1):
        pass
    [error] = await failures_of(workers)
    assert str(error) == "'workers' has run before: a Workers runs once"


# Serving.


SERVES = """
    import os, sys
    from trio_run import TCPListener, inherited_sockets, run
    async def tell(stream):
        await stream.send_all(str(os.getpid()).encode())
    sys.exit(run(TCPListener(tell, sockets=inherited_sockets()["web"])))
"""


async def test_rule_p4_no_client_fails_while_they_are_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        workers = Workers(script(SERVES), 2, sockets={"web": [listening]})
        seen: set[int] = set()
        is_over = False

        async def connect_again_and_again() -> None:
            while not is_over:
                async with await trio.open_tcp_stream(*address) as client:
                    answer = b"".join([bytes(part) async for part in client])
                seen.add(int(answer))

        async with all_ready(workers, 2):
            before = pids(workers)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(connect_again_and_again)
                assert await workers.replace()
                await until(lambda: not any(map(exists, before)))
                is_over = True
            assert set(before) <= seen
            assert set(pids(workers)) <= seen | set(pids(workers))


async def test_rule_p4_a_parent_that_is_killed_leaves_nobody(
    release: Release, tmp_path: Path
) -> None:
    release.write(f"open({str(tmp_path)!r} + f'/pid-{{os.getpid()}}', 'w')\n" + GOOD)
    source = f"""
        from trio_run import Workers, run
        run(Workers({release.command!r}, 3))
    """

    def begun() -> list[Path]:
        return list(tmp_path.glob("pid-*"))

    async with open_program(script(source)) as program:
        await until(lambda: len(begun()) == 3)
        mine = [int(each.name.removeprefix("pid-")) for each in begun()]
        program.signal(signal.SIGKILL)
        await program.exit_code()
    await until(lambda: not any(map(state_of, mine)))
