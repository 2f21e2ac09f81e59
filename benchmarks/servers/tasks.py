"""Actors in a group, and tasks in a bare nursery: started, stopped, timed.

``python -m benchmarks.servers.tasks WHICH COUNT``

It is no server: it prints the seconds until all have started and until all have stopped, and exits.
"""

import sys
import time

import trio
import trio.testing

from trio_run import Group


async def actors(count: int) -> None:
    began = time.perf_counter()
    group = Group()
    for _ in range(count):
        group.add(trio.sleep_forever)
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)  # returns when every actor is ready
        started = time.perf_counter()
        group.stop()
    print(started - began, time.perf_counter() - began, flush=True)


async def nursery(count: int) -> None:
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        started = time.perf_counter()
        nursery.cancel_scope.cancel()
    print(started - began, time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    trio.run({"trio-run": actors, "bare-nursery": nursery}[sys.argv[1]], int(sys.argv[2]))
