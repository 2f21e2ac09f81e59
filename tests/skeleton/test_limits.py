"""Limits: how many clients there may be, as far as descriptors go; and who may read the files."""

import sys
from pathlib import Path

import pytest
import trio

from trio_run import Cause
from trio_run.skeleton import app, limits
from trio_run.skeleton.config import Config
from trio_run.skeleton.store import Store

from .. import TIMEOUT

resource = pytest.importorskip("resource")  # on Windows there is none


@pytest.mark.parametrize(
    ("descriptors", "ports", "clients"),
    [
        (1_024, 1, 632),
        (1_024, 3, 210),
        (256, 1, 1),  # not enough for all, but it can be tried
        (65_536, 3, 1_000),
        (resource.RLIM_INFINITY, 1, 1_000),
    ],
)
def test_the_clients_of_all_ports_leave_descriptors_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, ports: int, clients: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (descriptors, descriptors))
    assert limits.clients_at_a_port(ports) == clients


def test_where_there_is_no_limit_there_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "resource", None)
    assert limits.clients_at_a_port(1) == limits.MOST_AT_A_PORT


def test_what_is_configured_counts_and_else_how_many_ports_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clients_at_a_port(ports: int) -> int:
        asked.append(ports)
        return 7

    asked: list[int] = []
    monkeypatch.setattr(limits, "clients_at_a_port", clients_at_a_port)
    app.make_group(Config(dir=tmp_path))
    app.make_group(Config(dir=tmp_path, unix=tmp_path / "socket"))
    app.make_group(Config(dir=tmp_path, max_connections=7))
    assert asked == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
async def test_nobody_else_may_read_the_database_and_its_log_nor_one_that_was_open_to_all(
    tmp_path: Path,
) -> None:
    def rights() -> dict[str, str]:
        return {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.glob("lines.db*")}

    for _ in range(2):
        store = Store(tmp_path)
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                await nursery.start(store.execute)
                await store.save(["one"], "test")
                assert {"0o600"} == {
                    mode for name, mode in rights().items() if not name.endswith("reserve")
                }
                assert {"lines.db", "lines.db-wal", "lines.db-shm"} <= set(rights())
                store.interrupt(Cause())
        (tmp_path / "lines.db").chmod(0o644)
