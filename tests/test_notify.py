"""Rule P2: what a service manager hears."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Group, GroupFailed, SignalReceiver, SystemdNotifier
from trio_run._notify import Notifier
from trio_run.testing import open_program

from . import TIMEOUT
from .group.helpers import Worker, in_background
from .programs import script

Datagram = dict[str, str]


class Manager:
    """Listens where a service manager would."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)
        self.heard: list[Datagram] = []

    def hear(self) -> list[Datagram]:
        """What has come since it last heard."""
        with contextlib.suppress(BlockingIOError):
            while True:
                lines = self.socket.recv(4096).decode().split("\n")
                self.heard.append(dict(line.split("=", 1) for line in lines))
        heard, self.heard = self.heard, []
        return heard

    def hear_of(self, *names: str) -> list[Datagram]:
        """The same, without what is not about these variables."""
        return [datagram for datagram in self.hear() if set(names) & set(datagram)]

    async def wait_for(self, name: str) -> Datagram:
        """The next datagram with that variable; those before it are gone."""
        with trio.fail_after(TIMEOUT):
            while True:
                for number, datagram in enumerate(heard := self.hear()):
                    if name in datagram:
                        self.heard = heard[number + 1 :]
                        return datagram
                await trio.lowlevel.wait_readable(self.socket)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with manager.socket:
        yield manager


def seconds(datagram: Datagram) -> float:
    return int(datagram["EXTEND_TIMEOUT_USEC"]) / 1e6


# A whole program, by run().


async def test_rule_p2_a_program_says_how_it_is(manager: Manager) -> None:
    source = """
        import signal, sys, trio
        from trio_run import SignalReceiver, run, busy

        async def work():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(sys.stdin.readline)

        async def reload():
            print("reloading", flush=True)
            await trio.sleep(0.1)

        receiver = SignalReceiver(signal.SIGUSR1, handlers={signal.SIGHUP: reload})
        sys.exit(run(work, receiver, name="shop", grace=20, abort_after=3))
    """
    async with open_program(script(source)) as program:
        assert (await manager.wait_for("STATUS"))["STATUS"].startswith("starting")
        assert seconds(await manager.wait_for("EXTEND_TIMEOUT_USEC")) == 18
        assert await manager.wait_for("READY") == {
            "READY": "1",
            "STATUS": "ready: 3 of 3 actors running",
        }
        before = time.monotonic_ns() // 1000
        program.signal(signal.SIGHUP)
        reloading = await manager.wait_for("RELOADING")
        assert set(reloading) == {"RELOADING", "MONOTONIC_USEC"}
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert seconds(await manager.wait_for("EXTEND_TIMEOUT_USEC")) == 18
        assert await manager.wait_for("READY") == {"READY": "1"}
        program.signal(signal.SIGTERM)
        assert await manager.wait_for("STOPPING") == {
            "STOPPING": "1",
            "STATUS": "stopping: SIGTERM received",
        }
        assert 27.5 <= seconds(await manager.wait_for("EXTEND_TIMEOUT_USEC")) <= 28
        assert await program.exit_code() == 0
        assert "READY" not in {name for datagram in manager.hear() for name in datagram}


@pytest.mark.skipif(sys.platform != "linux", reason="abstract addresses are Linux's")
async def test_rule_p2_an_abstract_address_and_a_failed_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manager = Manager(f"@trio-run-test-{os.getpid()}")
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    source = """
        import sys
        from trio_run import CannotStart, run
        async def store(*, task_status):
            raise CannotStart("no such disk")
        sys.exit(run(store))
    """
    async with open_program(script(source)) as program:
        assert await program.exit_code() == 1
        assert program.output == "no such disk\n"
    with manager.socket:
        said = manager.hear()
    assert "READY" not in {name for datagram in said for name in datagram}
    [stopping] = [datagram for datagram in said if "STOPPING" in datagram]
    assert stopping["STATUS"] == "stopping: 'store' failed: CannotStart: no such disk"


async def test_rule_p2_the_ping_comes_from_the_event_loop_alone(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    source = """
        import signal, sys, time, trio
        from trio_run import SignalReceiver, run
        def block():
            print("blocked", flush=True)
            time.sleep(1)
            print("goes on", flush=True)
        sys.exit(run(SignalReceiver(signal.SIGTERM, handlers={signal.SIGUSR1: block}),
                     trio.sleep_forever, signals=()))
    """
    async with open_program(script(source)) as program:
        await program.line_with("ready")
        for _ in range(3):
            await manager.wait_for("WATCHDOG")
        program.signal(signal.SIGUSR1)
        await program.line_with("blocked")
        manager.hear()
        await program.line_with("goes on")
        assert len(manager.hear_of("WATCHDOG")) <= 2
        await manager.wait_for("WATCHDOG")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0


async def test_rule_p2_no_child_has_the_variables(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    source = """
        import subprocess, sys
        from trio_run import run
        async def main():
            looks = "import os; print(sorted({'NOTIFY_SOCKET', 'WATCHDOG_USEC'} & set(os.environ)))"
            print(subprocess.check_output([sys.executable, "-c", looks], text=True))
        sys.exit(run(main))
    """
    async with open_program(script(source)) as program:
        assert await program.exit_code() == 0
        assert "[]\n" in program.output


@pytest.mark.parametrize("address", ["vsock:2:1234", "/no/such/place", "@", "/" + 200 * "x"])
async def test_rule_p2_where_nobody_listens_the_program_is_as_ever(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    source = "import sys, trio\nfrom trio_run import run\nsys.exit(run(trio.lowlevel.checkpoint))"
    async with open_program(script(source)) as program:
        assert await program.exit_code() == 0
        assert "'checkpoint' returned (exit code 0)" in program.output
        assert ("can't be used: it is neither" in program.output) == address.startswith("vsock")


# The daemon, in a group of one's own.


class Slow:
    """An actor that is ready after some time, and has a status that is hostile to a line."""

    status = "two\nlines"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(self.seconds)
        task_status.started()
        await trio.sleep_forever()


async def test_rule_p2_a_start_is_extended_within_its_bounds(
    autojump_clock: MockClock, manager: Manager
) -> None:
    group = Group(start_within=28, grace=1)
    group.add(SystemdNotifier())
    group.add(Slow(60), name="slow")
    group.add(Slow(60), name="other")
    with pytest.raises(GroupFailed):
        await group.run()
    said = manager.hear()
    asked = [seconds(datagram) for datagram in said if "EXTEND_TIMEOUT_USEC" in datagram]
    assert asked == [33, 28, 23, 18, 13, 8, 6]
    statuses = [datagram["STATUS"] for datagram in said if "STATUS" in datagram]
    assert "starting, waiting for slow (two lines), other (two lines)" in statuses
    assert [datagram for datagram in said if "READY" in datagram] == []


async def test_rule_p2_a_start_without_a_bound_is_extended_as_long_as_it_goes_on(
    autojump_clock: MockClock, manager: Manager
) -> None:
    group = Group()
    group.add(SystemdNotifier())
    for _ in range(12):
        group.add(Slow(14), name="slow")
    async with in_background(group):
        await trio.sleep(100)
        said = manager.hear()
        assert [seconds(one) for one in said if "EXTEND_TIMEOUT_USEC" in one] == [15, 15, 15]
        assert any(one.get("STATUS", "").endswith(", and 2 more") for one in said)
        assert said[-1] == {"READY": "1", "STATUS": "ready: 13 of 13 actors running"}
        group.stop()


async def test_rule_p2_a_stop_is_extended_to_its_bounds_and_not_further(
    autojump_clock: MockClock, manager: Manager
) -> None:
    async def deaf() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(40)

    group = Group(grace=10, lame_duck=3)
    group.add(deaf)
    notifier = Notifier.from_environment(abort_after=5)
    assert notifier is not None
    async with trio.open_nursery() as nursery:
        async with in_background(group):
            notifier.attach(group)
            nursery.start_soon(notifier.live)
            await trio.sleep(1)
            manager.hear()
            group.stop("enough")
        nursery.cancel_scope.cancel()
    said = manager.hear()
    assert said[0] == {"STOPPING": "1", "STATUS": "lame duck: enough"}
    asked = [seconds(one) for one in said if "EXTEND_TIMEOUT_USEC" in one]
    assert asked == [20, 16, 11, 6, 1]
    statuses = [one["STATUS"] for one in said[1:] if "STATUS" in one]
    assert (statuses[0], statuses[-1]) == (
        "stopping: enough, waiting for deaf",
        "stopped: enough",
    )


async def test_rule_p2_a_stop_without_a_bound_is_extended_as_long_as_it_goes_on(
    autojump_clock: MockClock, manager: Manager
) -> None:
    group = Group(grace=float("inf"))
    group.add(SystemdNotifier())
    group.add(Worker(closing=22))
    async with in_background(group):
        manager.hear()
        group.stop()
    said = [seconds(one) for one in manager.hear() if "EXTEND_TIMEOUT_USEC" in one]
    assert said == [15] * 5


async def test_rule_p2_ready_is_said_once(autojump_clock: MockClock, manager: Manager) -> None:
    class Upstream:
        ready = False
        status = "down"

        async def execute(self) -> None:
            for self.ready in (False, True, False, True):
                await trio.sleep(10)
            await trio.sleep_forever()

    group = Group()
    group.add(SystemdNotifier())
    group.add(Upstream(), name="upstream")
    async with in_background(group):
        await trio.sleep(9)
        assert manager.hear_of("READY") == []
        await trio.sleep(90)
        said = manager.hear()
        assert len([one for one in said if "READY" in one]) == 1
        assert [one["STATUS"] for one in said if "STATUS" in one] == [
            "ready: 2 of 2 actors running",
            "not ready: upstream (down)",
            "ready: 2 of 2 actors running",
        ]
        group.stop()


async def test_rule_p2_ready_after_a_reload_waits_until_it_is(
    autojump_clock: MockClock, manager: Manager
) -> None:
    class Upstream:
        ready = True

        async def execute(self) -> None:
            await trio.sleep_forever()

    async def reload() -> None:
        upstream.ready = False
        await trio.sleep(12)

    upstream = Upstream()
    group = Group()
    group.add(SystemdNotifier())
    group.add(upstream)
    group.add(SignalReceiver(signal.SIGTERM, handlers={signal.SIGHUP: reload}))
    async with in_background(group):
        manager.hear()
        signal.raise_signal(signal.SIGHUP)
        await trio.sleep(20)
        said = manager.hear()
        assert [one for one in said if {"READY", "RELOADING"} & set(one)] == [said[0]]
        assert "RELOADING" in said[0]
        extended = [seconds(one) for one in said if "EXTEND_TIMEOUT_USEC" in one]
        assert len(extended) > 3  # until it is ready
        assert set(extended) == {15}
        upstream.ready = True
        await trio.sleep(10)
        assert len(manager.hear_of("READY")) == 1
        group.stop()


async def test_rule_p2_a_reload_while_it_starts_or_stops_is_none_to_the_manager(
    autojump_clock: MockClock, manager: Manager
) -> None:
    reloads: list[float] = []

    def reload() -> None:
        reloads.append(trio.current_time())

    group = Group()
    group.add(SystemdNotifier())
    group.add(Slow(5))
    group.add(Worker(closing=5))
    group.add(SignalReceiver(signal.SIGTERM, handlers={signal.SIGHUP: reload}))
    async with in_background(group):
        signal.raise_signal(signal.SIGHUP)
        await trio.sleep(10)
        assert len(reloads) == 1
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(1)
        signal.raise_signal(signal.SIGHUP)
        await wait_all_tasks_blocked()
        assert len(reloads) == 2
    assert manager.hear_of("RELOADING") == []


async def test_rule_p2_a_stop_in_the_midst_of_a_reload_is_not_ready_again(
    autojump_clock: MockClock, manager: Manager
) -> None:
    group = Group()
    group.add(SystemdNotifier())
    group.add(Worker())
    group.add(SignalReceiver(signal.SIGTERM, handlers={signal.SIGHUP: trio.sleep_forever}))
    async with in_background(group):
        signal.raise_signal(signal.SIGHUP)
        await trio.sleep(1)
        manager.hear()
        group.stop()
    assert [set(one) & {"READY", "STOPPING"} for one in manager.hear_of("READY", "STOPPING")] == [
        {"STOPPING"}
    ]


async def test_rule_p2_another_signals_handler_is_no_reload(
    autojump_clock: MockClock, manager: Manager
) -> None:
    group = Group()
    group.add(SystemdNotifier())
    group.add(Worker())
    group.add(SignalReceiver(signal.SIGTERM, handlers={signal.SIGUSR1: lambda: None}))
    async with in_background(group):
        signal.raise_signal(signal.SIGUSR1)
        await wait_all_tasks_blocked()
        group.stop()
    assert manager.hear_of("RELOADING") == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 11),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 11),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "1"}, 1001),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "0"}, 0),
        ({}, 0),
    ],
)
async def test_rule_p2_it_pings_at_half_of_the_time_if_that_is_meant_for_us(
    autojump_clock: MockClock,
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    expected: int,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    group = Group()
    group.add(SystemdNotifier())
    group.add(Worker())
    pings = 0
    async with in_background(group):
        for _ in range(200):
            pings += len(manager.hear_of("WATCHDOG"))
            await trio.sleep(0.05)
        await trio.sleep(0.001)
        pings += len(manager.hear_of("WATCHDOG"))
        group.stop()
    assert abs(pings - expected) <= expected // 500
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


async def test_rule_p2_without_the_variable_nothing_happens(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")  # somebody else's
    group = Group()
    group.add(SystemdNotifier())
    group.add(Worker())
    async with in_background(group) as result:
        await trio.sleep(3600)
        group.stop()
    assert result.report.exit_code == 0
    assert os.environ["WATCHDOG_USEC"] == "1000000"


async def test_rule_p2_a_daemon_that_comes_late_says_what_is(
    autojump_clock: MockClock, manager: Manager
) -> None:
    group = Group()
    group.add(Worker())
    async with in_background(group):
        await trio.sleep(5)
        group.add(SystemdNotifier())
        await wait_all_tasks_blocked()
        assert manager.hear() == [{"READY": "1", "STATUS": "ready: 2 of 2 actors running"}]
        group.stop()


async def test_rule_p2_the_daemon_belongs_in_a_group(manager: Manager) -> None:
    with pytest.raises(RuntimeError, match=r"add\(\) it to one"):
        await SystemdNotifier().execute()


async def test_rule_p2_what_cannot_be_said_now_is_said_later_in_its_order(
    autojump_clock: MockClock, manager: Manager
) -> None:
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    with filler, contextlib.suppress(BlockingIOError):
        while True:
            filler.sendto(b"X=1", manager.address)
    group = Group()
    group.add(SystemdNotifier())
    group.add(Slow(2))
    async with in_background(group):
        await trio.sleep(3)
        assert all(datagram == {"X": "1"} for datagram in manager.hear())
        await trio.sleep(3)
        said = manager.hear()
        # What is said again and again waits until there is room.
        assert [set(datagram) for datagram in said[:2]] == [{"STATUS"}, {"READY", "STATUS"}]
        group.stop()


async def test_rule_p2_objects_that_are_not_ours_harm_nothing(
    autojump_clock: MockClock, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest-xdist can't hand such a name on.
    monkeypatch.setattr(logging.getLogger("trio_run"), "disabled", True)

    class Hostile:
        name = "a\ud800b\nREADY=1"

        is_broken = False

        @property
        def ready(self) -> bool:
            if self.is_broken:
                raise ValueError("broken")
            return False

        @property
        def status(self) -> str:
            return 5000 * "x"

        async def execute(self) -> None:
            await Worker.execute(worker)

        def interrupt(self, cause: Any) -> None:
            worker.interrupt(cause)

    worker = Worker(closing=7)
    group = Group()
    group.add(SystemdNotifier())
    hostile = Hostile()
    group.add(hostile)
    async with in_background(group) as result:
        hostile.is_broken = True
        await trio.sleep(6)
        said = manager.hear()
        assert "running" in [one.get("STATUS") for one in said]
        assert "READY" not in {name for datagram in said for name in datagram}
        group.stop()
    assert result.failed is None
    long = [one["STATUS"] for one in manager.hear() if len(one.get("STATUS", "")) > 500]
    assert long
    assert all(len(status) <= 1010 for status in long)
