"""Testing all this without waiting

A post box is emptied every hour, and once more at the stop. If the postman
does not come back then, he is waited for until the grace is over. Who tests
that?

In Go, tests used to sleep a little and hope, or the code was handed a clock.
By now there is testing/synctest: in its bubble, time moves on when every
goroutine is blocked, and then at once.

In Trio you run the test on another clock. When all tasks sleep, MockClock with
autojump_threshold=0 jumps to the moment when the first wakes up. All times in
trio_run are Trio's. So an hour takes a millisecond, a grace that runs out too,
and each time it goes exactly the same way.

trio_run.testing has what such a test needs besides: running() runs a group in
the background while a block runs, and stops it at the end of the block.

Under pytest you need no main() like this one: the fixture autojump_clock of
pytest-trio is the same clock.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from trio_run import Cause
from trio_run.testing import running

TRY = """\
Nothing is to be typed this time: these are the tests of the post box."""


class PostBox:
    name = "post box"

    def __init__(self, deliver: Callable[[list[str]], Awaitable[None]]) -> None:
        self.letters: list[str] = []
        self.deliver = deliver
        self.closing = trio.Event()

    async def execute(self) -> None:
        while not self.closing.is_set():
            with trio.move_on_after(3600):
                await self.closing.wait()
            letters, self.letters = self.letters, []
            await self.deliver(letters)

    def interrupt(self, _cause: Cause) -> None:
        self.closing.set()


async def test_it_is_emptied_every_hour_and_at_the_stop() -> None:
    tours: list[tuple[float, list[str]]] = []

    async def deliver(letters: list[str]) -> None:
        tours.append((trio.current_time(), letters))  # the clock begins at 0

    box = PostBox(deliver)
    box.letters.append("to Ada")
    async with running(box):
        await trio.sleep(9000)
    assert tours == [(3600, ["to Ada"]), (7200, []), (9000, [])]


async def test_a_postman_who_does_not_come_back_is_cut_after_the_grace() -> None:
    async def deliver(_letters: list[str]) -> None:
        await trio.sleep_forever()

    async with running(PostBox(deliver), name="post office", grace=10) as group:
        await trio.sleep(600)
    assert group.report.duration == 10
    assert group.report.actors[0].outcome == "cut"
    print(group.report)


def main(_port: int) -> None:
    for test in (
        test_it_is_emptied_every_hour_and_at_the_stop,
        test_a_postman_who_does_not_come_back_is_cut_after_the_grace,
    ):
        clock = MockClock(autojump_threshold=0)
        began = time.perf_counter()
        trio.run(test, clock=clock)
        took = time.perf_counter() - began
        print(f"passed: {test.__name__}")
        print(f"        {clock.current_time():,.0f} s for Trio, {1000 * took:.1f} ms for us")
