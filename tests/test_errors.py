"""What an exception means: what is a cancel in it, an exit, a failure. Whatever the object does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio

from trio_run import CannotStart, Group, GroupFailed
from trio_run._errors import (
    Ending,
    add_note,
    cannot_start,
    exits_in,
    failure_in,
    one_line,
    split_cancelled,
    unwrapped,
)

CANCELLED = trio.Cancelled._create(source="unknown")


class Detailed(ExceptionGroup[Exception]):
    """A group with an attribute that its derive() does not know of."""

    detail: str = ""


def nested(depth: int, leaf: BaseException) -> BaseException:
    error = leaf
    for _ in range(depth):
        error = BaseExceptionGroup("deep", [error])
    return error


def test_a_cancelled_alone() -> None:
    assert split_cancelled(CANCELLED) == (True, None)
    assert split_cancelled(BaseExceptionGroup("", [CANCELLED, CANCELLED])) == (True, None)


def test_what_has_no_cancelled_in_it_is_kept_itself() -> None:
    for error in (ValueError(), KeyboardInterrupt(), Detailed("", [ValueError()])):
        assert split_cancelled(error) == (False, error)


def test_a_group_beside_a_cancelled_is_kept_itself() -> None:
    group = Detailed("detailed", [ValueError(), TypeError()])
    group.detail = "kept"
    cancelled, rest = split_cancelled(BaseExceptionGroup("nursery", [group, CANCELLED]))
    assert cancelled
    assert isinstance(rest, ExceptionGroup)
    assert rest.exceptions == (group,)
    assert rest.exceptions[0] is group


def test_the_rest_keeps_the_message_the_notes_and_the_cause() -> None:
    whole = BaseExceptionGroup("nursery", [ValueError(), CANCELLED])
    whole.add_note("a note")
    whole.__cause__ = KeyError()
    _, rest = split_cancelled(whole)
    assert isinstance(rest, ExceptionGroup)
    assert (rest.message, rest.__notes__) == ("nursery", ["a note"])
    assert rest.__cause__ is whole.__cause__
    assert rest.__suppress_context__


def test_a_derive_that_raises_costs_no_failure() -> None:
    class Refusing(BaseExceptionGroup[BaseException]):
        def derive(self, _excs: Any) -> Any:
            raise RuntimeError("no")

    error = ValueError()
    _, rest = split_cancelled(Refusing("refusing", [error, CANCELLED]))
    assert isinstance(rest, ExceptionGroup)
    assert (rest.message, rest.exceptions) == ("refusing", (error,))


def test_notes_that_are_no_list_cost_no_failure() -> None:
    whole = BaseExceptionGroup("nursery", [ValueError(), CANCELLED])
    whole.__notes__ = 7  # type: ignore[assignment] # that is the point
    add_note(whole, "another")
    _, rest = split_cancelled(whole)
    assert isinstance(rest, ExceptionGroup)
    assert not hasattr(rest, "__notes__")


@pytest.mark.parametrize("depth", [1, 600, 5000])
def test_it_may_be_nested_very_deep(depth: int) -> None:
    error = ValueError()
    deep = nested(depth, error)
    assert split_cancelled(deep) == (False, deep)
    assert exits_in(deep) == []
    assert failure_in(deep) is deep
    assert split_cancelled(nested(depth, CANCELLED)) == (True, None)
    assert exits_in(nested(depth, leaf := SystemExit())) == [leaf]


def test_exits_are_told_from_failures() -> None:
    error, leaf = ValueError(), KeyboardInterrupt()
    group = BaseExceptionGroup("", [error, BaseExceptionGroup("", [leaf])])
    assert exits_in(group) == [leaf]
    failure = failure_in(group)
    assert isinstance(failure, ExceptionGroup)
    assert failure.exceptions == (error,)
    assert failure_in(leaf) is None
    assert failure_in(error) is error


def test_notes_are_taken_where_they_can_be() -> None:
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        code: int = 0

    error = ValueError()
    add_note(error, "here")
    add_note(Frozen(), "nowhere")
    assert error.__notes__ == ["here"]


def test_an_ending_keeps_a_failure_and_lets_an_exit_pass() -> None:
    error = ValueError()
    with Ending() as ending:
        raise BaseExceptionGroup("", [error, CANCELLED])
    assert ending.cancelled
    assert isinstance(ending.error, ExceptionGroup)
    with Ending() as ending:
        pass
    assert (ending.cancelled, ending.error) == (False, None)
    with pytest.raises(SystemExit), Ending():
        raise SystemExit
    with Ending() as ending:
        raise CANCELLED
    assert (ending.cancelled, ending.error) == (True, None)


def test_a_group_of_one_is_unwrapped() -> None:
    error = ValueError()
    assert unwrapped(ExceptionGroup("", [ExceptionGroup("", [error])])) is error
    two = ExceptionGroup("", [error, error])
    assert unwrapped(two) is two


def test_one_line_takes_any_text() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert one_line(ValueError("two\nlines")) == "ValueError: two lines"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(Mute()) == "Mute: (its text can't be had)"


async def test_sentences_alone_are_told_from_failures() -> None:
    async def no_port() -> None:
        raise CannotStart("the port is taken")

    with pytest.raises(GroupFailed) as caught:
        group = Group()
        group.add(no_port)
        await group.run()
    assert cannot_start(caught.value)
    assert not cannot_start(ValueError())
    assert not cannot_start(None)
