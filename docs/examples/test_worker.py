import trio

from trio_run import Group, busy


class Worker:
    """Takes jobs until it is stopped; the one in hand it finishes."""

    def __init__(self):
        self.done = []

    async def execute(self):
        while True:
            await trio.sleep(60)
            with busy():
                await trio.sleep(20)
                self.done.append(trio.current_time())


async def stop_after(seconds, worker, grace):
    group = Group(grace=grace)
    group.add(worker, name="worker")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.run)
        await trio.sleep(seconds)
        group.stop()
    return group.members[0]


async def test_the_job_in_hand_is_finished(autojump_clock):
    worker = Worker()
    await stop_after(70, worker, grace=30)
    assert worker.done == [80]


async def test_a_job_that_takes_too_long_is_cut(autojump_clock):
    worker = Worker()
    member = await stop_after(70, worker, grace=5)
    assert worker.done == []
    assert member.outcome == "cut"
    assert trio.current_time() == 75
