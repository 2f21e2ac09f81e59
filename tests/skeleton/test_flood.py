"""A flood: clients that send short lines as fast as they can, and what becomes of everybody else.

The memory is measured by the kernel. What is allowed is what ``--help`` says.
"""

import math
import signal
import statistics
import sys
from pathlib import Path

import pytest
import trio

from trio_run.skeleton import limits
from trio_run.testing import Program

from .. import TIMEOUT
from .database import stored_in
from .running import open_app, where

if sys.platform != "linux":
    pytest.skip("the memory of a process is measured as Linux has it", allow_module_level=True)

SHORTEST = b"\n" * 65_536
LONGEST = "\N{FISH}".encode() + b"x" * 65_000 + b"\n"  # which takes four bytes for each of them


class Flooder:
    """Sends the same without end, and counts what it is answered."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.answers = 0

    async def run(self, stream: trio.SocketStream) -> None:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream)
            try:
                while data := await stream.receive_some():
                    assert b"error" not in data
                    self.answers += data.count(b"\n")
            finally:
                nursery.cancel_scope.cancel()

    async def _send(self, stream: trio.SocketStream) -> None:
        try:
            while True:
                await stream.send_all(self.content)
        except trio.BrokenResourceError:
            await trio.sleep_forever()  # what it is still answered counts


def most_memory(program: Program) -> float:
    """Megabytes that it has had at its highest."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


async def ask_politely(program: Program, times: int) -> list[float]:
    """How long it took until each line was acknowledged, in seconds."""
    took = []
    async with await trio.open_tcp_stream(*await where(program)) as stream:
        for _ in range(times):
            began = trio.current_time()
            await stream.send_all(b"polite\n")
            assert (await stream.receive_some()).startswith(b"ok ")
            took.append(trio.current_time() - began)
    return took


@pytest.mark.parametrize(
    ("count", "content", "patience"),
    [(60, SHORTEST, 1.0), (300, SHORTEST, math.inf), (300, LONGEST, math.inf)],
    ids=["60", "300", "300-of-long-lines"],
)
async def test_a_polite_client_is_answered_memory_is_bounded_and_the_stop_is_quick(
    tmp_path: Path, count: int, content: bytes, patience: float
) -> None:
    flooders = [Flooder(content) for _ in range(count)]
    async with open_app(tmp_path, "--grace", "60") as program:
        host, port = await where(program)
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                for flooder in flooders:
                    nursery.start_soon(flooder.run, await trio.open_tcp_stream(host, port))
                took = await ask_politely(program, 10)
                memory = most_memory(program)
                began = trio.current_time()
                program.signal(signal.SIGTERM)
            assert await program.exit_code() == 0, program.output
        stop = trio.current_time() - began
    print(f"answered within {max(took):.2f} s, {memory:.0f} MB, stopped in {stop:.2f} s")
    assert statistics.median(took) < patience
    assert memory < limits.BASE_MB + limits.CLIENT_MB * count
    assert stop < 15
    assert " 0 cut" in program.output
    stored = list(stored_in(tmp_path).values())
    assert len(stored) == len(took) + sum(flooder.answers for flooder in flooders)
    assert stored.count("polite") == len(took)
