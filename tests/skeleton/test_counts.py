"""Counts: every line that was handed over is counted, the last ones too."""

import trio
from trio.testing import wait_all_tasks_blocked

from trio_run import Group
from trio_run.skeleton.counts import Counts
from trio_run.skeleton.database import Line
from trio_run.testing import running

NOW = "2026-01-31T12:00:00.000Z"


def lines(*sources: str) -> list[Line]:
    return [Line(number, NOW, source, "text") for number, source in enumerate(sources, start=1)]


async def counted(counts: Counts, *batches: list[Line]) -> None:
    """Hand these over, and stop at once."""
    group = Group()
    group.add(counts)
    async with running(group):
        for batch in batches:
            counts.add(batch)


async def test_what_was_handed_over_before_the_stop_is_counted() -> None:
    counts = Counts()
    await counted(counts, lines("b", "a", "b"), lines("b"), *[lines("c")] * 1_000)
    assert counts.by_source() == {"c": 1_000, "b": 3, "a": 1}
    assert list(counts.by_source()) == ["c", "b", "a"]
    assert counts.status == "1,004 lines of 3 sources"


async def test_it_counts_while_it_runs() -> None:
    counts = Counts()
    group = Group()
    group.add(counts)
    async with running(group):
        counts.add(lines("a", "a"))
        await wait_all_tasks_blocked()
        assert counts.by_source() == {"a": 2}


async def test_no_end_of_sources_takes_no_end_of_memory() -> None:
    counts = Counts()
    await counted(counts, lines(*map(str, range(1_500))), lines("0", "1499"))
    by_source = counts.by_source()
    assert len(by_source) == 1_001
    assert by_source["others"] == 501
    assert by_source["0"] == 2


async def test_cut_it_takes_what_still_comes_and_raises_nothing() -> None:
    counts = Counts()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counts.execute)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    counts.add(lines("a"))
    assert counts.by_source() == {}
