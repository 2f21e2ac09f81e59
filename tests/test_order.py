"""Whose turn it is, without a running group: the ones are plain strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_run._order import Order


def test_what_waits_is_free_when_the_last_of_its_needs_has_settled() -> None:
    order: Order[str] = Order()
    order.wait_for("api", ["store", "cache"])
    assert order.waiting == ["api"]
    assert order.settle("store") == []
    assert order.settle("cache") == ["api"]
    assert order.waiting == []


def test_what_is_freed_comes_in_the_order_in_which_it_began_to_wait() -> None:
    order: Order[str] = Order()
    for one in ("c", "a", "b"):
        order.wait_for(one, ["store"])
    assert order.settle("store") == ["c", "a", "b"]


def test_a_need_that_nobody_waits_for_frees_nobody() -> None:
    order: Order[str] = Order()
    order.wait_for("api", ["store"])
    assert order.settle("cache") == []
    assert order.settle("store") == ["api"]
    assert order.settle("store") == []


def test_what_has_given_up_is_freed_by_nothing() -> None:
    order: Order[str] = Order()
    order.wait_for("api", ["store"])
    order.wait_for("web", ["store"])
    order.give_up("api")
    order.give_up("somebody else")
    assert order.waiting == ["web"]
    assert order.settle("store") == ["web"]


def test_what_somebody_here_needs_has_no_turn() -> None:
    order: Order[str] = Order()
    order.enter("store")
    order.enter("api", ["store"])
    assert (order.is_needed("store"), order.is_turn("store")) == (True, False)
    assert (order.is_needed("api"), order.is_turn("api")) == (False, True)
    assert order.leave("api") == ["store"]
    assert (order.is_needed("store"), order.is_turn("store")) == (False, True)


def test_a_need_is_freed_by_the_last_who_needs_it() -> None:
    order: Order[str] = Order()
    order.enter("store")
    order.enter("api", ["store"])
    order.enter("web", ["store"])
    assert order.leave("api") == []
    assert order.leave("web") == ["store"]


def test_daemons_have_their_turn_when_the_last_worker_has_left() -> None:
    order: Order[str] = Order()
    order.enter("signals", daemon=True)
    order.enter("metrics", daemon=True)
    order.enter("api")
    assert not order.is_turn("signals")
    assert order.leave("api") == ["signals", "metrics"]
    assert order.is_turn("signals")
    assert order.workers == 0
    assert len(order) == 2


def test_a_daemon_that_leaves_frees_what_it_needed_and_no_other_daemon() -> None:
    order: Order[str] = Order()
    order.enter("log", daemon=True)
    order.enter("metrics", ["log"], daemon=True)
    assert not order.is_turn("log")
    assert order.leave("metrics") == ["log"]
    assert order.is_turn("log")


def test_entering_twice_and_leaving_twice_count_once() -> None:
    order: Order[str] = Order()
    order.enter("store")
    order.enter("api", ["store"])
    order.enter("api", ["store"])
    assert order.leave("api") == ["store"]
    assert order.leave("api") == []
    assert "api" not in order
    assert "store" in order


def test_one_that_comes_back_is_needed_for_again() -> None:
    order: Order[str] = Order()
    order.enter("store")
    order.enter("api", ["store"])
    order.leave("api")
    order.enter("api", ["store"])
    assert order.is_needed("store")
    assert order.workers == 2


@given(
    needs=st.lists(st.sets(st.integers(0, 9), max_size=3), max_size=10),
    daemons=st.sets(st.integers(0, 9)),
    choice=st.randoms(use_true_random=False),
)
def test_all_leave_in_an_order_that_keeps_the_rules(needs, daemons, choice) -> None:
    order: Order[int] = Order()
    # Each needs some of those before it; a daemon needs daemons only.
    graph = {
        one: [
            need for need in sorted(some) if need < one and (one not in daemons or need in daemons)
        ]
        for one, some in enumerate(needs)
    }
    for one, some in graph.items():
        order.enter(one, some, daemon=one in daemons)
    due = list(graph)
    gone: list[int] = []
    while due:
        one = due.pop(choice.randrange(len(due)))
        if one not in gone and order.is_turn(one):
            due.extend(order.leave(one))
            gone.append(one)
    assert sorted(gone) == sorted(graph)
    for one, some in graph.items():
        assert all(gone.index(one) < gone.index(need) for need in some)
    workers = [gone.index(one) for one in graph if one not in daemons]
    last = [gone.index(one) for one in graph if one in daemons]
    assert not workers or not last or max(workers) < min(last)


@pytest.mark.parametrize("daemon", [False, True])
def test_one_that_has_left_has_no_turn_when_the_last_that_needed_it_leaves(daemon: bool) -> None:
    """It had nothing to be interrupted for. Others may still be here, that go before it."""
    order: Order[str] = Order()
    order.enter("store", daemon=daemon)
    order.enter("api")
    order.enter("waits for the store", needs=["store"])
    order.leave("store")
    assert order.leave("waits for the store") == ["store"]
    assert not order.is_turn("store")
