"""The order of a stop: a lame duck, who needs whom, a daemon, a cut. On a clock that jumps."""

import math

import trio
from trio.testing import MockClock

from trio_run import Cause, Group, Report


class Part:
    """It runs until it is interrupted, and then needs some seconds to close."""

    def __init__(self, seconds_to_close: float) -> None:
        self.seconds = seconds_to_close
        self.closing = trio.Event()

    async def execute(self) -> None:
        await self.closing.wait()
        await trio.sleep(self.seconds)

    def interrupt(self, _cause: Cause) -> None:
        self.closing.set()


async def close_shop(group: Group) -> None:
    await trio.sleep(4)
    group.stop("closing time")


async def main() -> Report:
    group = Group(name="shop", grace=15, lame_duck=3)
    database = group.add(Part(1), name="database")
    mails = group.add(Part(2), name="mails", needs=[database])
    group.add(Part(4), name="web", needs=[mails, database])
    group.add(Part(math.inf), name="export", needs=[database], grace=7)
    group.add(Part(1), name="metrics", daemon=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_shop, group)
        return await group.run()


if __name__ == "__main__":
    print(trio.run(main, clock=MockClock(autojump_threshold=0)))
