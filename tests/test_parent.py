"""Doors: when newcomers are turned away."""

import pytest
import trio
from trio.testing import MockClock

from trio_run import Cause
from trio_run._parent import Doors


@pytest.mark.parametrize(("error", "seconds"), [(None, 5.0), (ValueError("no"), 0.0)])
async def test_only_a_stop_on_request_has_a_lame_duck(
    error: Exception | None, seconds: float, autojump_clock: MockClock
) -> None:
    doors = Doors({}, 5.0)
    doors.interrupt(Cause(error=error))
    began = trio.current_time()
    await doors.execute()
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.1)
