"""Report: the timeline that a person reads."""

import dataclasses
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_run import ActorReport, Cause, Group, GroupFailed, Report


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a log: no terminal, and nothing in the environment that says how wide one is."""

    def none(*args: object) -> os.terminal_size:
        raise OSError("not a terminal")

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", none)


def actor(name: str = "api", outcome: Any = "returned", **values: Any) -> ActorReport:
    times = {"ready": 0.25, "interrupted": 10.0, "stopped": 12.0}
    return ActorReport(name, outcome, **(times | values))


def report(*actors: ActorReport, **values: Any) -> Report:
    """Of a group that was to stop after 10 s and took 4 s to do so."""
    standard = {"cause": Cause(reason="SIGTERM received"), "duration": 4.0, "exit_code": 0}
    return Report(actors=actors, **({"began": 10.0} | standard | values))


def table(text: str) -> Iterator[dict[str, str]]:
    """The rows below the head, cut up where the columns of their heading begin."""
    heading, *rows = text.splitlines()[1:]
    starts = {word: heading.index(word) for word in ("actor", "0 s", "outcome")}
    for row in rows:
        times = row[: starts["0 s"]].split()
        yield {
            "name": row[: starts["0 s"]].split("  ")[0].strip(),
            "ready": times[-2] if len(times) > 2 else "",
            "stop": times[-1] if len(times) > 2 else "",
            "bar": row[starts["0 s"] : starts["outcome"] - 2],
            "rest": row[starts["outcome"] :],
        }


def test_the_whole_timeline() -> None:
    text = str(
        report(
            actor("signals", interrupted=14.0, stopped=14.0),
            actor("api", ready=0.5, stopped=12.0, detail="9,998 drained, 2 cut"),
            actor("store", "cut", ready=0.125, interrupted=12.0, stopped=14.0),
            actor("late", "never started", ready=None, interrupted=None, stopped=10.0),
            actor("job", "failed", interrupted=10.0, stopped=3.0, error=ValueError("no luck")),
        )
    )
    assert text == "\n".join(
        [
            "group stopped in 4.00 s: SIGTERM received (exit code 0)",
            "actor    ready  stop  0 s            4.00 s  outcome",
            "signals   0.25  4.00                      =  returned",
            "api       0.50  0.00  ===========            returned       9,998 drained, 2 cut",
            "store     0.12  2.00            ===========  cut",
            "late         -     -                         never started",
            "job       0.25  0.00                         failed         ValueError: no luck",
        ]
    )


def test_the_cause_the_duration_and_the_exit_code_are_on_the_first_line() -> None:
    text = str(report(actor(), cause=Cause(reason="'api' returned"), duration=0.126, exit_code=1))
    assert text.splitlines()[0] == "group stopped in 0.13 s: 'api' returned (exit code 1)"


def test_the_group_s_name_is_on_the_first_line() -> None:
    assert str(report(name="log collector")).startswith("log collector stopped in 4.00 s")


def test_a_report_without_actors_is_its_first_line() -> None:
    assert str(report()) == "group stopped in 4.00 s: SIGTERM received (exit code 0)"


def test_a_cause_of_many_words_or_lines_is_wrapped() -> None:
    text = str(report(cause=Cause(reason="word\nafter\tword " * 20)))
    assert text.startswith("group stopped in 4.00 s: word after ")
    assert " ".join(text.split()).count("word after word") == 20
    assert "\t" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(line.startswith("  ") for line in text.splitlines()[1:])


def test_there_is_a_row_per_actor_in_order() -> None:
    names = [f"actor-{number}" for number in range(30)]
    text = str(report(*(actor(name) for name in names)))
    assert [row["name"] for row in table(text)] == names


def test_what_never_came_is_a_dash() -> None:
    (row,) = table(str(report(actor("x", "never started", ready=None, interrupted=None))))
    assert (row["ready"], row["stop"], row["bar"].strip()) == ("-", "-", "")


def test_stop_is_counted_from_the_beginning_of_the_stop_and_ready_from_that_of_the_group() -> None:
    (row,) = table(str(report(actor(ready=1.5, interrupted=10.75))))
    assert (row["ready"], row["stop"]) == ("1.50", "0.75")


def test_one_stopped_alone_before_the_stop_was_interrupted_before_it_and_has_no_bar() -> None:
    (row,) = table(str(report(actor(interrupted=7.0, stopped=8.0))))
    assert (row["stop"], row["bar"].strip()) == ("-3.00", "")


@pytest.mark.parametrize(
    ("interrupted", "stopped", "bar"),
    [
        (10, 14, "1" * 8),
        (10, 12, "1111    "),
        (12, 14, "    1111"),
        (11, 13, "  1111  "),
        (10, 10, "1       "),
        (14, 14, "       1"),
    ],
)
def test_a_bar_shows_when_it_was_interrupted_and_how_long_it_took(
    interrupted: float, stopped: float, bar: str
) -> None:
    """In eighths of the stop: each is a part of the bar."""
    (row,) = table(str(report(actor(interrupted=interrupted, stopped=stopped))))
    whole = row["bar"]
    assert set(whole) <= {"=", " "}
    eighth = len(whole) / 8
    first, last = whole.index("="), whole.rindex("=") + 1
    assert whole[first:last] == "=" * (last - first)  # in one piece
    assert abs(first - bar.index("1") * eighth) <= (1 if interrupted < 14 else eighth)
    assert last - first <= bar.count("1") * eighth + 1
    if stopped > interrupted:
        assert last - first >= bar.count("1") * eighth - 1


def test_a_stop_that_took_no_time_has_bars_too() -> None:
    (row,) = table(str(report(actor(stopped=10.0), duration=0.0)))
    assert row["bar"].strip() == "="


def test_columns_are_aligned() -> None:
    text = str(
        report(
            actor("a", ready=None),
            actor("a longer name", "never started", ready=123.0),
            actor("b", "failed", interrupted=None),
        )
    )
    heading, *rows = text.splitlines()[1:]
    outcome = heading.index("outcome")
    assert [row[outcome:] for row in rows] == ["returned", "never started", "failed"]
    ready = heading.index("ready") + len("ready")
    assert [row[:ready].split()[-1] for row in rows] == ["-", "123.00", "0.25"]
    assert all(row[ready] == " " for row in rows)


@pytest.mark.parametrize("duration", [0.0, 9.5, 100.0, 999.996, 5000.0, 1e6])
@pytest.mark.parametrize("detail", ["", "a detail so long that the bars get little room " * 2])
def test_the_heading_stays_above_its_columns_however_long_the_stop(
    duration: float, detail: str
) -> None:
    text = str(report(actor(stopped=10.0 + duration, detail=detail), duration=duration))
    heading, row = text.splitlines()[1:3]
    assert heading.index("outcome") == row.index("returned")


def test_details_are_wrapped_in_their_own_column() -> None:
    detail = "1,234 connections were drained, 17 of them were busy, and 2 had to be cut"
    text = str(report(actor("one", detail=detail), actor("two")))
    _, heading, *rows = text.splitlines()
    start = rows[0].index("1,234")
    assert start > heading.index("outcome")
    assert len(rows) > 2
    assert " ".join(row[start:].strip() for row in rows[:-1]) == detail
    assert all(not row[:start].strip() for row in rows[1:-1])
    assert rows[-1].startswith("two")


def test_an_error_is_shown_in_one_line_before_the_detail() -> None:
    error = ValueError("two\nlines,  and spaces")
    text = str(report(actor("x", "failed", error=error, detail="3 busy")))
    assert "ValueError: two lines, and spaces; 3 busy" in " ".join(text.split())


def test_an_error_that_has_no_text_to_give_is_shown_by_its_type() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert "Broken" in str(report(actor("x", "failed", error=Broken())))
    assert str(report(actor("x", "failed", error=ValueError()))).endswith("failed   ValueError")


def test_a_long_name_is_shortened() -> None:
    (row,) = table(str(report(actor("a-very-long-name-for-an-actor"))))
    assert row["name"] == "a-very-long-nam..."


@pytest.mark.parametrize("name", ["two\nlines", "a\ttab", "carriage\rreturn"])
def test_a_name_of_more_than_one_line_does_not_break_the_table(name: str) -> None:
    text = str(report(actor(name), actor("next")))
    assert len(text.splitlines()) == 4
    assert not re.search(r"[\t\r]", text)


SECONDS = st.integers(0, 4 * 10**13).map(lambda us: us / 1e6)  # as a clock has them, up to a year
ANY_TIME = st.none() | SECONDS
ANY_ACTOR = st.builds(
    ActorReport,
    name=st.text("abc-12 ", min_size=1, max_size=40).filter(str.strip),
    outcome=st.sampled_from(["returned", "failed", "cut", "never started"]),
    ready=ANY_TIME,
    interrupted=ANY_TIME,
    stopped=ANY_TIME,
    error=st.none() | st.builds(ValueError, st.text("some words", max_size=300)),
    detail=st.text("12 busy,", max_size=200),
)
ANY_REPORT = st.builds(
    Report,
    cause=st.builds(
        Cause,
        signal=st.none() | st.just(signal.SIGINT),
        reason=st.text("a reason\n", max_size=200),
    ),
    duration=SECONDS,
    exit_code=st.integers(0, 200),
    actors=st.lists(ANY_ACTOR, max_size=5).map(tuple),
    name=st.text("group", min_size=1, max_size=100),
    began=SECONDS,
)
YEAR = 365 * 24 * 3600.0


@given(ANY_REPORT)
@example(
    # A service that ran for a year: one that was stopped alone on its first day, and one added on
    # its last.
    report(
        actor("stopped-on-day-one", interrupted=60.0, stopped=61.0),
        actor("added-late-and-never-started", "never started", ready=None, interrupted=None),
        actor(
            "added-late",
            ready=YEAR - 60.0,
            interrupted=YEAR,
            detail="12 connections, 3 of them busy",
        ),
        began=YEAR,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_line_is_longer_than_80_columns_or_ends_in_a_space(any_report: Report) -> None:
    lines = str(any_report).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line != line.rstrip()] == []
    assert "" not in lines


@pytest.mark.parametrize("columns", [100, 132, 250])
def test_it_grows_with_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    long = report(actor(detail="word " * 100))
    narrow = str(long).splitlines()
    monkeypatch.setenv("COLUMNS", str(columns))
    wide = str(long).splitlines()
    assert columns - 10 < max(map(len, wide)) <= columns
    assert len(wide) < len(narrow)


def test_without_long_details_the_bars_grow_to_a_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    short = report(actor("a-name-of-18-chars", stopped=14.0, detail="3 drained"), duration=4.0)
    assert str(short).count("=") < 30
    monkeypatch.setenv("COLUMNS", "300")
    assert str(short).count("=") == 40


def test_a_narrower_terminal_still_gets_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    long = report(actor(detail="word " * 100))
    usual = str(long)
    monkeypatch.setenv("COLUMNS", "40")
    assert str(long) == usual


@pytest.mark.parametrize(
    ("value", "attribute"), [(report(), "exit_code"), (actor(), "detail"), (Cause(), "reason")]
)
def test_reports_and_causes_are_frozen(value: object, attribute: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, attribute, "changed")


def test_a_cause_is_told_by_its_reason() -> None:
    assert str(Cause(actor="api", reason="'api' returned")) == "'api' returned"


async def test_the_report_of_a_run_has_its_times_from_the_group_s_start(
    autojump_clock: MockClock,
) -> None:
    class Slow:
        status = "all done"

        async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
            await trio.sleep(1.5)
            task_status.started()
            self.interrupted = trio.Event()
            await self.interrupted.wait()
            await trio.sleep(2)

        def interrupt(self, _cause: Cause) -> None:
            self.interrupted.set()

    await trio.sleep(100)  # Trio's clock is not the group's
    group = Group(name="mine")
    store = group.add(trio.sleep_forever, name="store")
    group.add(Slow(), needs=[store])
    reports: list[Report] = []

    async def run() -> None:
        reports.append(await group.run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(5)
        group.stop("enough")
    (told,) = reports
    assert (told.name, told.began, told.duration, told.exit_code) == ("mine", 5, 2, 0)
    assert told.actors == (
        ActorReport("store", "returned", ready=0, interrupted=7, stopped=7),
        ActorReport("Slow", "returned", ready=1.5, interrupted=5, stopped=7, detail="all done"),
    )
    assert "mine stopped in 2.00 s: enough (exit code 0)" in str(told)
    rows = list(table(str(told)))
    assert [(row["ready"], row["stop"]) for row in rows] == [("0.00", "2.00"), ("1.50", "0.00")]


async def test_the_report_of_a_failure_shows_its_error() -> None:
    async def broken() -> None:
        raise ValueError("no luck")

    group = Group()
    group.add(broken)
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    text = str(caught.value.report)
    assert text.startswith("group stopped in 0.00 s: 'broken' failed: ValueError: no luck (exit")
    assert text.splitlines()[-1].endswith("failed   ValueError: no luck")


def test_of_very_many_actors_those_that_took_longest_have_a_line() -> None:
    actors = [actor(f"a{number}", stopped=10 + number / 1e6) for number in range(200_000)]
    actors[5] = actor("bad", "failed", error=ValueError("no luck"))
    text = str(report(*actors))
    lines = text.splitlines()
    assert len(text) < 20_000
    assert lines[2].startswith("bad ")
    assert lines[3].startswith("a199901 ")
    assert lines[-2].startswith("a199999 ")
    assert lines[-1] == "and 199,900 more: 199,900 returned"
