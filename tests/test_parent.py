"""Doors: when newcomers are turned away."""

import os
import signal
import socket

import pytest
import trio
from trio.testing import MockClock

from trio_run import Cause
from trio_run._listeners._tcp import TCPEndpoint
from trio_run._parent import Doors, HandedOver


@pytest.mark.parametrize(("error", "seconds"), [(None, 5.0), (ValueError("no"), 0.0)])
async def test_only_a_stop_on_request_has_a_lame_duck(
    error: Exception | None, seconds: float, autojump_clock: MockClock
) -> None:
    doors = Doors({}, 5.0)
    doors.interrupt(Cause(error=error))
    began = trio.current_time()
    await doors.execute()
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.1)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")
def test_what_was_set_for_signals_is_no_harm_to_a_parent() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    at_hangup = signal.getsignal(signal.SIGHUP)
    try:
        with Doors({}, 0.0).opened(None):
            for each in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
                assert signal.getsignal(each) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is at_hangup
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("blocks", [True, False])
def test_a_socket_that_was_handed_over_blocks_or_not_as_it_did(blocks: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as another_s:
        another_s.setblocking(blocks)
        own = TCPEndpoint("it", "127.0.0.1", 0, None, reuse_port=False)
        with Doors({"web": [HandedOver([another_s.dup()]), own]}, 0.0).opened(None):
            assert os.get_blocking(another_s.fileno()) == blocks
            assert os.get_blocking(own.sockets[0].fileno())
