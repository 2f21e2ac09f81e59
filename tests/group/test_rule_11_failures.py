"""Rules 11 and 12: errors never pass in silence, unless that is wanted."""

import logging

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    Cause,
    Group,
    GroupFailed,
    State,
)
from trio_run.testing import open_program

from ..programs import script
from .helpers import Worker, after, ends_in, fails, failure_of, ignored, in_background, part

# 11. Errors never pass in silence.


async def test_rule_11_a_stop_is_no_failure(autojump_clock: MockClock) -> None:
    group = Group(name="app")
    group.add(trio.sleep_forever, name="one")
    async with in_background(group) as result:
        await trio.sleep(2)
        group.stop("enough")
    report = result.report
    assert result.failed is None
    assert (report.name, report.cause, report.exit_code) == ("app", Cause(reason="enough"), 0)
    assert (report.began, report.duration) == (2, 0)


async def test_rule_11_every_failure_the_causes_first(autojump_clock: MockClock) -> None:
    errors = [ValueError("cause"), OSError("while stopping"), KeyError("in an interrupt")]

    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            await ends_in(1)
            raise errors[1]

    async def broken(cause: Cause) -> None:
        await trio.sleep(2)
        raise errors[2]

    group = Group(name="app")
    group.add(fails_when_cancelled, name="second")
    group.add(trio.sleep_forever, broken, name="third")
    group.add(fails(errors[0], after=1), name="first")
    failed = await failure_of(group)
    assert [id(error) for error in failed.exceptions] == [id(error) for error in errors]
    assert [error.__notes__ for error in errors] == [
        [f"in actor {name!r} of group 'app'"] for name in ("first", "second", "third")
    ]
    assert failed.report.cause.error is errors[0]
    assert failed.report.exit_code == 1
    assert "3 failures" in str(failed)
    assert "app" in str(failed)


async def test_rule_11_two_failures_at_once(autojump_clock: MockClock) -> None:
    errors = [ValueError("one"), OSError("two")]
    group = Group()
    for error in errors:
        group.add(fails(error, after=1))
    failed = await failure_of(group)
    assert set(failed.exceptions) == set(errors)
    assert failed.exceptions[0] is failed.report.cause.error


async def test_rule_11_a_failure_while_stopping_is_raised_after_a_stop(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    async def fails_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    group = Group()
    group.add(fails_late)
    async with in_background(group) as result:
        group.stop("enough")
    assert result.failed is not None
    assert result.failed.exceptions[0] is error
    assert result.report.cause == Cause(reason="enough")
    assert result.report.exit_code == 1


async def test_rule_11_a_failure_of_one_that_is_cut_is_kept(autojump_clock: MockClock) -> None:
    error = ValueError("broken")

    async def fails_late() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise error

    group = Group(grace=1)
    group.add(fails_late, ignored)
    async with in_background(group) as result:
        group.stop()
    assert result.failed is not None
    [nested] = result.failed.exceptions
    assert isinstance(nested, ExceptionGroup)
    assert nested.exceptions == (error,)


async def test_rule_11_an_exception_group_is_the_object_itself(autojump_clock: MockClock) -> None:
    class Mine(ExceptionGroup[Exception]):
        pass

    error = Mine("several", [ValueError("one"), OSError("two")])
    group = Group()
    group.add(fails(error))
    failed = await failure_of(group)
    assert failed.exceptions[0] is error


@pytest.mark.parametrize("policy", ["stop", "ignore"])
async def test_rule_11_an_exception_that_cannot_be_printed(policy: str) -> None:
    # In a program, which can be killed: a group that waits for ever can't be cancelled.
    source = f"""
        import trio
        from trio_run import Group, GroupFailed

        class Unprintable(Exception):
            def __str__(self):
                raise RuntimeError("no text")

        async def bad():
            raise Unprintable

        async def waits():
            await asked.wait()
            print("was interrupted")

        async def main():
            group.add(bad, on_error={policy!r})
            group.add(waits, lambda cause: asked.set())
            group.add(soon)
            try:
                print("exit code", (await group.run()).exit_code)
            except GroupFailed as failed:
                print("raised", type(failed.exceptions[0]))

        async def soon():
            await trio.sleep(0.1)

        asked = trio.Event()
        group = Group()
        trio.run(main)
    """
    async with open_program(script(source)) as program:
        await program.line_with("was interrupted")
        await program.line_with("Unprintable" if policy == "stop" else "exit code 0")
        assert await program.exit_code() == 0


async def test_rule_11_not_an_async_function_is_a_failure(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(lambda: None, name="plain")
    failed = await failure_of(group)
    assert isinstance(failed.exceptions[0], TypeError)
    assert "actor 'plain' must be an async function" in str(failed.exceptions[0])


async def test_rule_11_group_failed_can_be_split(autojump_clock: MockClock) -> None:
    errors = [ValueError("one"), OSError("two")]
    group = Group()
    for error in errors:
        group.add(fails(error, after=1))
    failed = await failure_of(group)
    matched, rest = failed.split(OSError)
    assert isinstance(matched, GroupFailed)
    assert isinstance(rest, GroupFailed)
    assert matched.exceptions[0] is errors[1]
    assert rest.exceptions[0] is errors[0]
    assert matched.report is rest.report is failed.report
    caught: list[BaseExceptionGroup] = []
    try:
        raise failed
    except* OSError as some:
        caught.append(some)
    except* ValueError as others:
        caught.append(others)
    assert [type(group) for group in caught] == [GroupFailed, GroupFailed]
    assert [group.exceptions for group in caught] == [(errors[1],), (errors[0],)]


# 12. on_return and on_error.


async def test_rule_12_an_ignored_return_stops_nobody(autojump_clock: MockClock) -> None:
    group = Group()
    job = group.add(after(1), name="job", on_return="ignore")
    worker = group.add(Worker())
    async with in_background(group):
        await job.wait_stopped()
        await trio.sleep(5)
        assert (group.state, worker.state) == (State.RUNNING, State.RUNNING)
        group.stop()


async def test_rule_12_an_ignored_failure_stops_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("broken")
    group = Group()
    bad = group.add(fails(error, after=1), name="bad", on_error="ignore")
    worker = group.add(Worker())
    async with in_background(group) as result:
        await bad.wait_stopped()
        await trio.sleep(5)
        assert (group.state, worker.state) == (State.RUNNING, State.RUNNING)
        group.stop()
    assert result.failed is None
    assert result.report.exit_code == 0
    assert part(result.report, "bad").outcome == "failed"
    assert part(result.report, "bad").error is error
    [record] = [record for record in caplog.records if "'bad' failed" in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_rule_12_the_other_policy_still_holds(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(after(2), name="returns", on_error="ignore")
    group.add(Worker())
    assert (await group.run()).cause.actor == "returns"
    error = ValueError()
    group = Group()
    group.add(fails(error), name="fails", on_return="ignore")
    group.add(Worker())
    assert (await failure_of(group)).report.cause.error is error


async def test_rule_12_all_ignore_and_it_is_an_errgroup(autojump_clock: MockClock) -> None:
    group = Group()
    for seconds in (3, 1, 2):
        group.add(after(seconds), name=f"job {seconds}", on_return="ignore", on_error="ignore")
    group.add(fails(ValueError()), name="bad", on_return="ignore", on_error="ignore")
    report = await group.run()
    assert trio.current_time() == 3
    assert report.cause.actor == "job 3"
    assert report.exit_code == 0


async def test_rule_12_an_ignored_failure_is_not_raised_with_others(
    autojump_clock: MockClock,
) -> None:
    kept, raised = ValueError("ignored"), OSError("raised")
    group = Group()
    group.add(fails(kept, after=1), name="ignored", on_error="ignore")
    group.add(fails(raised, after=2), name="raised")
    failed = await failure_of(group)
    assert failed.exceptions == (raised,)
    assert part(failed.report, "ignored").error is kept


@pytest.mark.parametrize("key", ["on_return", "on_error"])
def test_rule_12_a_policy_that_is_none(key: str) -> None:
    group = Group()
    with pytest.raises(ValueError, match=f'{key} must be "stop" or "ignore", not \'go on\''):
        group.add(Worker(), **{key: "go on"})  # type: ignore[arg-type]
    assert group.members == ()
