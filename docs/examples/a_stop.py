"""One stop: what is idle, what is busy, and what does not end. On a clock that jumps."""

from functools import partial

import trio
from trio.testing import MockClock

from trio_run import Group, Report, busy


async def idle() -> None:
    await trio.sleep_forever()


async def busy_for(seconds: float) -> None:
    with busy():
        await trio.sleep(seconds)


async def close_shop(group: Group) -> None:
    await trio.sleep(4)
    group.stop("closing time")


async def main() -> Report:
    group = Group(name="shop", grace=10)
    group.add(idle)
    group.add(partial(busy_for, 10), name="busy")
    group.add(partial(busy_for, 1000), name="endless")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_shop, group)
        return await group.run()


if __name__ == "__main__":
    print(trio.run(main, clock=MockClock(autojump_threshold=0)))
