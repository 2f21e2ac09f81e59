"""When a stop begins, why, and until when, without a running group: times are plain numbers."""

from __future__ import annotations

import math
import signal

import pytest

from trio_run import Cause
from trio_run._stop import Stop

FIRST, SECOND, THIRD = Cause(reason="first"), Cause(reason="second"), Cause(reason="third")


def test_nothing_is_known_before_the_first_request() -> None:
    stop = Stop(grace=30, lame_duck=5)
    assert stop.cause is None
    assert not stop.is_lame_duck
    assert (stop.began, stop.deadline, stop.lame_duck_ends) == (math.inf, math.inf, math.inf)
    assert stop.forced_by is None
    assert stop.requests == ()


def test_rule_03_the_first_request_is_the_cause() -> None:
    stop = Stop(grace=30, lame_duck=0)
    stop.request(FIRST, 100)
    stop.request(SECOND, 101)
    assert (stop.cause, stop.began) == (FIRST, 100)
    assert len(stop.requests) == 1


def test_rule_08_the_grace_counts_from_the_first_request() -> None:
    stop = Stop(grace=30, lame_duck=0)
    stop.request(FIRST, 100)
    stop.request(SECOND, 110)
    assert (stop.deadline, stop.why_deadline) == (130, "the grace of 30 s is over")


def test_an_endless_grace_has_no_end() -> None:
    stop = Stop(grace=math.inf, lame_duck=0)
    stop.request(FIRST, 100)
    assert stop.deadline == math.inf


@pytest.mark.parametrize(("grace", "deadline"), [(3, 113), (20, 130), (40, 130)])
def test_rule_03_a_later_request_only_ever_shortens_the_grace(grace: int, deadline: int) -> None:
    stop = Stop(grace=30, lame_duck=0)
    stop.request(FIRST, 100)
    stop.request(SECOND, 110, grace=grace)
    assert stop.deadline == deadline
    assert stop.cause is FIRST


@pytest.mark.parametrize(
    ("grace", "deadline", "why"),
    [
        (3, 103, "the shortened grace of 3 s is over"),
        (30, 130, "the grace of 30 s is over"),
        (40, 130, "the grace of 30 s is over"),
    ],
)
def test_the_first_request_may_shorten_the_grace(grace: int, deadline: int, why: str) -> None:
    stop = Stop(grace=30, lame_duck=0)
    stop.request(FIRST, 100, grace=grace)
    assert (stop.deadline, stop.why_deadline) == (deadline, why)


def test_rule_16_the_lame_duck_lasts_its_time() -> None:
    stop = Stop(grace=30, lame_duck=5)
    stop.request(FIRST, 100, lame_duck=True)
    assert stop.is_lame_duck
    assert (stop.lame_duck_ends, stop.deadline) == (105, 130)
    stop.end_lame_duck()
    assert not stop.is_lame_duck


def test_rule_16_not_every_request_has_one() -> None:
    stop = Stop(grace=30, lame_duck=5)
    stop.request(FIRST, 100)
    assert not stop.is_lame_duck


def test_rule_16_another_request_ends_it() -> None:
    stop = Stop(grace=30, lame_duck=5)
    stop.request(FIRST, 100, lame_duck=True)
    stop.request(SECOND, 101, lame_duck=True)
    assert not stop.is_lame_duck
    assert [request.cause for request in stop.requests] == [FIRST, SECOND]
    stop.request(THIRD, 102, lame_duck=True)
    assert len(stop.requests) == 2


def test_rule_17_it_can_be_forced_to_end_now() -> None:
    stop = Stop(grace=30, lame_duck=0)
    stop.request(FIRST, 100)
    stop.force(SECOND, 101, "forced", signal.SIGTERM)
    assert (stop.deadline, stop.why_deadline) == (101, "forced")
    assert (stop.cause, stop.forced_by) == (FIRST, signal.SIGTERM)


def test_a_force_may_be_the_first_request() -> None:
    stop = Stop(grace=30, lame_duck=5)
    stop.force(FIRST, 100, "cancelled from outside")
    assert not stop.is_lame_duck
    assert (stop.cause, stop.deadline, stop.forced_by) == (FIRST, 100, None)


def test_the_signal_of_a_force_is_kept_where_its_deadline_is_past() -> None:
    stop = Stop(grace=0, lame_duck=0)
    stop.request(FIRST, 100)
    stop.force(SECOND, 101, "forced", signal.SIGINT)
    assert (stop.deadline, stop.why_deadline) == (100, "the grace of 0 s is over")
    assert stop.forced_by is signal.SIGINT


def test_what_changes_nothing_is_not_kept() -> None:
    stop = Stop(grace=30, lame_duck=0)
    stop.request(FIRST, 100)
    for when in range(101, 1000):
        stop.request(SECOND, when, grace=math.inf)
    stop.force(THIRD, 1000, "cancelled from outside")
    stop.force(THIRD, 1001, "cancelled from outside")
    assert len(stop.requests) == 1
