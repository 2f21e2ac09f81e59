import trio

from trio_run import busy
from trio_run.testing import running


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


async def test_the_job_in_hand_is_finished(autojump_clock):
    worker = Worker()
    async with running(worker, grace=30):
        await trio.sleep(70)
    assert worker.done == [80]


async def test_a_job_that_takes_too_long_is_cut(autojump_clock):
    worker = Worker()
    async with running(worker, grace=5) as group:
        await trio.sleep(70)
    assert worker.done == []
    assert group.report.actors[0].outcome == "cut"
    assert trio.current_time() == 75
