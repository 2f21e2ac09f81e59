"""What add() accepts and refuses, names, optional attributes, and the start protocol."""

import contextlib
import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause, Group, GroupFailed, State
from trio_run.testing import running

Calls = list[str]


class Object:
    """An actor as an object; its methods are used on their own too."""

    def __init__(self, calls: Calls | None = None) -> None:
        self.calls: Calls = [] if calls is None else calls
        self.asked = trio.Event()

    async def execute(self) -> None:
        self.calls.append("execute")
        await self.asked.wait()

    def interrupt(self, cause: Cause) -> None:
        self.calls.append(f"interrupt: {cause}")
        self.asked.set()


class CallableObject:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def __call__(self) -> None:
        self.calls.append("execute")


def decorated(fn: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    @functools.wraps(fn)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return await fn(*args, **kwargs)

    return wrapper


async def append(calls: Calls, what: str = "execute") -> None:
    calls.append(what)


def an_async_function(calls: Calls) -> object:
    async def execute() -> None:
        await append(calls)

    return execute


def a_decorated_function(calls: Calls) -> object:
    @decorated
    async def execute() -> None:
        await append(calls)

    return execute


class Plain:
    """With execute alone."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def execute(self) -> None:
        self.calls.append("execute")


class Static:
    @staticmethod
    async def execute() -> None: ...


async def refusal(error: type[Exception], *args: Any, **kwargs: Any) -> str:
    """What add() says when it refuses. The group is as before: empty, and free to run."""
    group = Group()
    with pytest.raises(error) as caught:
        group.add(*args, **kwargs)
    assert group.members == ()
    assert (await group.run()).actors == ()
    return str(caught.value)


async def failure(group: Group) -> str:
    """Run a group of which one actor fails; return what the failure says."""
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    (error,) = caught.value.exceptions
    return str(error)


async def idle() -> None:
    await trio.sleep_forever()


# What is an actor.


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Plain, "Plain"),
        (an_async_function, "execute"),
        (lambda calls: lambda: append(calls), "<lambda>"),
        (lambda calls: functools.partial(append, calls), "append"),
        (lambda calls: functools.partial(functools.partial(append, calls), "execute"), "append"),
        (lambda calls: Plain(calls).execute, "execute"),
        (CallableObject, "CallableObject"),
        (lambda calls: functools.partial(CallableObject(calls)), "partial"),
        (a_decorated_function, "execute"),
    ],
    ids=[
        "object",
        "async function",
        "lambda",
        "partial",
        "partial of a partial",
        "bound method",
        "callable object",
        "partial of a callable object",
        "decorated function",
    ],
)
async def test_add_accepts_whatever_gives_something_to_await(
    make: Callable[[Calls], object], name: str
) -> None:
    calls: Calls = []
    actor = make(calls)
    group = Group()
    member = group.add(actor)
    assert (member.actor, member.name) == (actor, name)
    report = await group.run()
    assert calls == ["execute"]
    assert report.actors[0].outcome == "returned"


async def test_add_accepts_a_static_execute() -> None:
    group = Group()
    group.add(Static())
    report = await group.run()
    assert (report.cause.actor, report.actors[0].outcome) == ("Static", "returned")


async def test_add_accepts_an_object_with_an_interrupt() -> None:
    actor = Object()
    group = Group()
    group.add(actor)
    async with running(group):
        group.stop("enough")
    assert actor.calls == ["execute", "interrupt: enough"]


async def test_add_accepts_oklog_s_pair() -> None:
    calls: Calls = []
    both = Object(calls)
    group = Group()
    group.add(both.execute, both.interrupt)
    async with running(group):
        group.stop("enough")
    assert calls == ["execute", "interrupt: enough"]


async def test_add_accepts_an_async_interrupt_in_the_pair(autojump_clock: MockClock) -> None:
    asked = trio.Event()

    async def interrupt(cause: Cause) -> None:
        await trio.sleep(3)
        asked.set()

    group = Group()
    group.add(asked.wait, interrupt)
    async with running(group):
        pass
    assert asked.is_set()
    assert trio.current_time() == 3


async def test_an_interrupt_given_to_add_goes_before_the_actor_s_own() -> None:
    actor = Object()
    seen: list[str] = []

    def interrupt(cause: Cause) -> None:
        seen.append(str(cause))
        actor.asked.set()

    group = Group()
    group.add(actor, interrupt)
    async with running(group):
        group.stop("enough")
    assert (seen, actor.calls) == (["enough"], ["execute"])


async def test_an_interrupt_that_is_none_is_as_no_interrupt() -> None:
    class Actor:
        interrupt = None

        async def execute(self) -> None:
            await trio.sleep_forever()

    group = Group()
    group.add(Actor())
    async with running(group):
        pass


@pytest.mark.parametrize(
    "interrupt",
    [
        lambda cause: None,
        lambda *args: None,
        lambda cause=None: None,
        functools.partial(lambda extra, cause: None, "extra"),
        [].append,
        print,
    ],
    ids=["one", "any number", "optional", "partial", "builtin", "print"],
)
async def test_add_accepts_any_interrupt_that_can_take_the_cause(interrupt: Any) -> None:
    group = Group()
    group.add(functools.partial(append, []), interrupt)
    await group.run()


# What is none.


async def test_add_refuses_a_coroutine_and_says_what_to_write_instead() -> None:
    message = await refusal(TypeError, idle())  # which is not left un-awaited
    assert message == "add() takes the async function itself: add(idle), not add(idle(...))"


async def test_add_refuses_a_class_and_says_what_to_write_instead() -> None:
    assert "add(Object(...))" in await refusal(TypeError, Object)


@pytest.mark.parametrize("actor", [None, 5, "echo", [idle], object()])
async def test_add_refuses_what_cannot_be_called(actor: object) -> None:
    message = await refusal(TypeError, actor)
    assert (
        message
        == f"an actor is an async function or an object with an async execute(), not {actor!r}"
    )


async def test_add_refuses_an_object_whose_execute_cannot_be_called() -> None:
    class Wrong:
        execute = "soon"

    assert "async execute()" in await refusal(TypeError, Wrong())


async def test_add_refuses_generators() -> None:
    async def asynchronous() -> Any:
        yield

    def plain() -> Any:
        yield

    class Wrong:
        async def execute(self) -> Any:
            yield

    for actor, name in [
        (asynchronous, "asynchronous"),
        (plain, "plain"),
        (Wrong(), "Wrong"),
        (functools.partial(asynchronous), "asynchronous"),
    ]:
        message = await refusal(TypeError, actor)
        assert repr(name) in message
        assert "generator" in message


@pytest.mark.parametrize(
    "interrupt",
    [lambda: None, lambda cause, more: None, lambda *, cause: None, trio.Event().set],
    ids=["none", "two", "keyword only", "bound method"],
)
async def test_add_refuses_an_interrupt_that_cannot_take_the_cause(interrupt: Any) -> None:
    message = await refusal(TypeError, idle, interrupt)
    assert message.startswith("the interrupt of actor 'idle' must take one argument, the cause")


async def test_add_refuses_an_object_whose_interrupt_cannot_take_the_cause() -> None:
    class Wrong:
        name = "mine"

        async def execute(self) -> None: ...

        def interrupt(self) -> None: ...

    assert "the interrupt of actor 'mine' must take one argument" in await refusal(
        TypeError, Wrong()
    )


async def test_add_refuses_an_interrupt_that_cannot_be_called() -> None:
    message = await refusal(TypeError, idle, 5)
    assert message.startswith("the interrupt of actor 'idle' must be a function that takes")


# What it needs.


async def test_needs_may_be_any_iterable_and_name_a_member_twice() -> None:
    group = Group()
    first = group.add(idle)
    group.add(idle, needs=iter([first, first]))
    async with running(group):
        pass
    assert [member.state for member in group.members] == [State.STOPPED, State.STOPPED]


@pytest.mark.parametrize("needs", [5, None], ids=repr)
async def test_needs_that_is_no_list_is_refused(needs: Any) -> None:
    message = await refusal(TypeError, idle, needs=needs)
    assert message == f"'idle' needs {needs!r}: give a list of the members that add() returned"


async def test_a_single_member_as_needs_is_refused() -> None:
    group = Group()
    member = group.add(idle)
    with pytest.raises(TypeError, match="give a list of the members"):
        group.add(idle, needs=member)  # type: ignore[arg-type]
    assert group.members == (member,)


@pytest.mark.parametrize(
    "needs",
    [[append], [Object()], ["store"], "store", [None], [[]]],
    ids=["function", "object", "name", "string", "none", "unhashable"],
)
async def test_needs_that_is_no_member_is_refused(needs: Any) -> None:
    assert "that add() returned" in await refusal(TypeError, idle, needs=needs)


async def test_needs_of_the_actor_in_place_of_its_member_says_what_to_give() -> None:
    store = Object()
    group = Group()
    group.add(store)
    with pytest.raises(TypeError, match=r"give the member that add\(\) returned for it"):
        group.add(idle, needs=[store])  # type: ignore[list-item]
    assert len(group.members) == 1


async def test_needs_of_a_member_of_another_group_is_refused() -> None:
    other = Group().add(idle, name="store")
    message = await refusal(ValueError, idle, needs=[other])
    assert "'idle' needs 'store', which is a member of another group" in message


async def test_an_actor_that_needs_itself_is_refused() -> None:
    actor = Object()
    assert "can't need itself" in await refusal(ValueError, actor, needs=[actor])
    assert "can't need itself" in await refusal(ValueError, idle, needs=[idle])

    group = Group()
    member = group.add(actor)
    with pytest.raises(ValueError, match="can't need itself"):
        group.add(actor, needs=[member])
    assert group.members == (member,)


async def test_the_same_function_twice_may_need_its_first_member() -> None:
    group = Group()
    first = group.add(idle)
    second = group.add(idle, needs=[first])
    assert group.members == (first, second)


async def test_a_daemon_that_needs_what_is_none_is_refused() -> None:
    class Daemon(Object):
        daemon = True

    group = Group()
    store = group.add(idle, name="store")
    for actor, asked in [(idle, True), (Daemon(), None)]:
        with pytest.raises(ValueError, match="is a daemon and needs 'store', which is none"):
            group.add(actor, needs=[store], daemon=asked)
    assert group.members == (store,)


async def test_a_daemon_may_need_a_daemon_and_anyone_may_need_one() -> None:
    group = Group()
    daemon = group.add(idle, daemon=True)
    group.add(idle, needs=[daemon], daemon=True)
    group.add(idle, needs=[daemon])
    assert len(group.members) == 3


async def test_a_group_as_its_own_actor_is_refused() -> None:
    group = Group(name="mine")
    with pytest.raises(ValueError, match="group 'mine' can't be an actor of itself"):
        group.add(group)


# Other arguments.


@pytest.mark.parametrize("value", [-1, -0.001, math.nan, -math.inf])
async def test_a_grace_that_is_no_time_is_a_value_error(value: float) -> None:
    assert "grace must be a number of seconds" in await refusal(ValueError, idle, grace=value)
    for setting in ("grace", "lame_duck"):
        with pytest.raises(ValueError, match=f"{setting} must be a number of seconds, 0 or more"):
            Group(**{setting: value})


@pytest.mark.parametrize("value", ["30", True, [], 1j], ids=repr)
async def test_a_grace_that_is_no_number_is_a_type_error(value: Any) -> None:
    assert "grace must be a number of seconds" in await refusal(TypeError, idle, grace=value)
    for setting in ("grace", "lame_duck"):
        with pytest.raises(TypeError, match=f"{setting} must be a number of seconds"):
            Group(**{setting: value})


async def test_an_actor_s_own_bad_grace_is_refused_too() -> None:
    class Wrong(Object):
        grace = -5

    assert "not -5" in await refusal(ValueError, Wrong())


@pytest.mark.parametrize("value", [0, 0.5, math.inf])
async def test_a_grace_of_0_and_an_endless_one_are_accepted(value: float) -> None:
    assert Group().add(idle, grace=value).grace == value
    assert Group(grace=value).grace == value


@pytest.mark.parametrize(("grace", "lame_duck"), [(5, 5), (5, 6), (1, math.inf)])
async def test_a_lame_duck_that_leaves_nothing_of_the_grace_is_refused(
    grace: float, lame_duck: float
) -> None:
    with pytest.raises(ValueError, match="leaves nothing of grace"):
        Group(grace=grace, lame_duck=lame_duck)


@pytest.mark.parametrize("value", ["go on", None, True, ""], ids=repr)
async def test_bad_policies_are_refused(value: Any) -> None:
    for key in ("on_return", "on_error"):
        message = await refusal(ValueError, idle, **{key: value})
        assert message == f'{key} must be "stop" or "ignore", not {value!r}'


@pytest.mark.parametrize("value", [5, b"bytes", ["list"]], ids=repr)
async def test_a_name_that_is_no_string_does_no_harm_later(value: Any) -> None:
    group = Group()
    try:
        group.add(functools.partial(append, []), name=value)
    except TypeError:
        return  # refused at once: as good
    assert str(value) in str(await group.run())


# Names.


async def test_a_name_that_is_taken_gets_a_number() -> None:
    class Named(Object):
        name = "echo"

    group = Group()
    for actor, name in [(idle, None), (idle, None), (Named(), None), (idle, "echo"), (idle, None)]:
        group.add(actor, name=name)
    assert [member.name for member in group.members] == [
        "idle",
        "idle-2",
        "echo",
        "echo-2",
        "idle-3",
    ]


async def test_names_are_unique_even_beside_one_that_looks_numbered() -> None:
    group = Group()
    for name in ["echo-2", "echo", "echo", "echo-2", "echo"]:
        group.add(idle, name=name)
    names = [member.name for member in group.members]
    assert names[:2] == ["echo-2", "echo"]
    assert len(set(names)) == 5


async def test_an_actor_that_is_refused_takes_no_name() -> None:
    group = Group()
    with pytest.raises(ValueError):
        group.add(idle, on_return="bad")  # type: ignore[arg-type]
    assert group.add(idle).name == "idle"


async def test_the_name_given_to_add_goes_before_the_actor_s_own() -> None:
    class Named(Object):
        name = "own"

    group = Group()
    assert group.add(Named()).name == "own"
    assert group.add(Named(), name="given").name == "given"


async def test_an_empty_name_is_as_none() -> None:
    class Nameless(Object):
        name = ""

    assert Group().add(Nameless(), name="").name == "Nameless"


# Optional attributes.


class Optional:
    daemon = True
    grace = 4.0
    status = "3 busy"

    async def execute(self) -> None:
        await trio.sleep_forever()


async def test_optional_attributes_are_used_where_add_is_not_told_otherwise() -> None:
    group = Group()
    own = group.add(Optional())
    told = group.add(Optional(), daemon=False, grace=9)
    none = group.add(idle)
    assert (own.daemon, own.grace, own.status) == (True, 4.0, "3 busy")
    assert (told.daemon, told.grace, told.status) == (False, 9, "3 busy")
    assert (none.daemon, none.grace, none.status) == (False, None, "")


async def test_the_last_status_is_the_detail_in_the_report() -> None:
    class Counting:
        status = "nothing yet"

        async def execute(self) -> None:
            self.status = "2 done"

    group = Group()
    group.add(Counting())
    assert (await group.run()).actors[0].detail == "2 done"


async def test_a_status_that_raises_is_said_and_stops_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @property
        def status(self) -> str:
            raise ZeroDivisionError("no luck")

        async def execute(self) -> None:
            await trio.sleep_forever()

        def interrupt(self, cause: Cause) -> None: ...

    group = Group(grace=6)
    member = group.add(Broken())
    assert member.status == "its status raised ZeroDivisionError: no luck"
    async with running(group):
        pass
    assert "5 s into the stop, waiting for Broken (its status raised Zero" in caplog.text
    assert member.state is State.STOPPED


async def test_a_status_that_is_no_string_is_made_one() -> None:
    class Counting(Optional):
        status = 7

    assert Group().add(Counting()).status == "7"


async def test_a_member_s_repr_says_its_name_and_state() -> None:
    group = Group()
    member = group.add(idle)
    assert repr(member) == "<Member 'idle' new>"
    async with running(group):
        assert repr(member) == "<Member 'idle' running>"
    assert repr(member) == "<Member 'idle' stopped>"


# The start protocol.


class Starting:
    """Ready some time after it has begun."""

    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await trio.sleep(2)
        task_status.started()
        await trio.sleep_forever()


async def starting(task_status: trio.TaskStatus[str]) -> None:
    await trio.sleep(2)
    task_status.started("a value, as Trio allows")
    await trio.sleep_forever()


class StartingCall:
    async def __call__(self, *, task_status: trio.TaskStatus[str]) -> None:
        await starting(task_status)


@pytest.mark.parametrize(
    "actor",
    [
        Starting(),
        starting,
        Starting().execute,
        StartingCall(),
        functools.partial(starting),
        decorated(starting),
        lambda task_status: starting(task_status),
    ],
    ids=["object", "function", "method", "callable object", "partial", "decorated", "lambda"],
)
async def test_an_execute_that_takes_task_status_is_ready_when_it_calls_started(
    actor: object, autojump_clock: MockClock
) -> None:
    group = Group()
    member = group.add(actor)
    async with running(group, wait_ready=False):
        await trio.sleep(1)
        assert (member.state, group.state, group.ready) == (State.STARTING, State.STARTING, False)
        await member.wait_ready()
        assert trio.current_time() == 2
        assert (member.state, group.state, group.ready) == (State.RUNNING, State.RUNNING, True)


async def test_any_other_execute_is_ready_when_it_begins() -> None:
    group = Group()
    member = group.add(idle)
    async with running(group):
        assert (member.state, group.ready) == (State.RUNNING, True)


@pytest.mark.parametrize("moment", ["at once", "after a while"])
async def test_returning_before_started_is_an_error_that_names_the_actor(
    moment: str, autojump_clock: MockClock
) -> None:
    async def hasty(task_status: trio.TaskStatus[None]) -> None:
        if moment == "after a while":
            await trio.sleep(1)

    group = Group()
    member = group.add(hasty)
    assert await failure(group) == "actor 'hasty' returned before it called task_status.started()"
    with pytest.raises(RuntimeError, match="actor 'hasty' stopped before it was ready"):
        await member.wait_ready()


async def test_returning_before_started_is_no_error_when_it_was_interrupted(
    autojump_clock: MockClock,
) -> None:
    asked = trio.Event()

    async def slow(task_status: trio.TaskStatus[None]) -> None:
        await asked.wait()

    group = Group()
    group.add(slow, lambda cause: asked.set())
    async with running(group, wait_ready=False):
        await wait_all_tasks_blocked()
    assert group.state is State.STOPPED
    assert group.members[0].error is None


async def test_started_twice_is_an_error_that_names_the_actor() -> None:
    async def eager(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        task_status.started()

    group = Group()
    group.add(eager)
    assert await failure(group) == "actor 'eager' called task_status.started() twice"


async def test_an_error_before_started_is_the_actor_s_own() -> None:
    async def broken(task_status: trio.TaskStatus[None]) -> None:
        raise ValueError("no port")

    group = Group()
    group.add(broken)
    assert await failure(group) == "no port"


async def test_started_by_one_that_has_failed_makes_nobody_else_ready() -> None:
    given: list[trio.TaskStatus[None]] = []

    async def broken(task_status: trio.TaskStatus[None]) -> None:
        given.append(task_status)
        raise ValueError

    async def never(task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    group = Group()
    group.add(broken, on_error="ignore")
    group.add(never)
    async with running(group, wait_ready=False):
        await wait_all_tasks_blocked()
        with contextlib.suppress(RuntimeError):  # to say so is as good
            given[0].started()
        assert not group.ready


@pytest.mark.parametrize("value", [None, 5, "done"], ids=repr)
async def test_a_plain_function_is_an_error_that_names_the_actor(value: object) -> None:
    def plain() -> object:
        return value

    group = Group()
    group.add(plain)
    message = await failure(group)
    assert message.startswith("actor 'plain' must be an async function")
    assert message.endswith(f"returned {value!r}")


async def test_whatever_an_execute_returns_is_no_concern_of_the_group() -> None:
    async def execute() -> object:
        return ValueError("returned, not raised")

    group = Group()
    group.add(execute)
    assert (await group.run()).exit_code == 0


async def test_what_has_been_told_to_stop_can_not_be_needed(autojump_clock: MockClock) -> None:
    group = Group()
    store = group.add(idle, name="store")
    group.add(idle)
    async with running(group, wait_ready=False):
        await wait_all_tasks_blocked()
        for _ in ("asked", "stopped"):
            store.stop()
            with pytest.raises(
                RuntimeError, match=r"'late' needs 'store', whose stop has been requested"
            ):
                group.add(idle, name="late", needs=[store])
            await wait_all_tasks_blocked()
    assert [member.name for member in group.members] == ["idle"]


async def test_a_job_at_start_up_that_has_returned_may_be_needed() -> None:
    async def job() -> None:
        pass

    group = Group()
    done = group.add(job, on_return="ignore")
    group.add(idle, name="service")
    async with running(group, wait_ready=False):
        await done.wait_stopped()
        late = group.add(idle, name="late", needs=[done])
        await late.wait_ready()


class Opaque:
    """A callable that can't be looked into, as some builtins can't."""

    __signature__ = "none"

    def __init__(self, result: object = None) -> None:
        self.result = result

    def __call__(self, *_args: object) -> object:
        return self.result


async def test_callables_that_cannot_be_looked_into_are_taken_at_their_word() -> None:
    group = Group()
    group.add(Opaque(idle()), Opaque(), name="opaque")
    async with running(group):
        group.stop(grace=0)
    assert group.members[0].outcome == "cut"


def test_a_group_shows_what_it_is() -> None:
    group = Group(name="shop")
    group.add(idle)
    assert repr(group) == "<Group 'shop' new, 1 actors>"
    assert repr(group.members[0]) == "<Member 'idle' new>"
