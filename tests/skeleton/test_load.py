"""The skeleton under load: 500 clients that send without pause, and a stop at a random moment.

TEST_LOAD_ROUNDS says how many such stops there are.
"""

import os
import random
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from trio_run.testing import Program, open_program

from .. import TIMEOUT
from ..programs import python
from .running import FREE_PORTS

CLIENTS = 500
ROUNDS = int(os.environ.get("TEST_LOAD_ROUNDS", "8"))
GRACE = 30

# Counts its own descriptors before and after; an unclosed one that is collected in between is an
# error said on stderr.
COUNTED = """
import os, sys
from trio_run.skeleton.app import main
before = len(os.listdir("/proc/self/fd"))
code = main()
print("descriptors:", before, len(os.listdir("/proc/self/fd")))
sys.exit(code)
"""


class Client:
    """Sends numbered lines that can't be taken for others, nor for whole if they are not."""

    def __init__(self, number: int, go: trio.Event) -> None:
        self.number = number
        self.go = go
        self.sent = 0  # lines
        self.received = bytearray()
        self.answered = 0  # lines
        self.ended = "not at all"
        self._heard = trio.Event()

    def line(self, index: int) -> str:
        return f"<{self.number} {index} {'.' * (300 + self.number)}>"

    async def run(self, port: int, *, task_status: trio.TaskStatus[None]) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream, trio.open_nursery() as nursery:
            task_status.started()
            await self.go.wait()
            nursery.start_soon(self._send, stream)
            try:
                while data := await stream.receive_some():
                    self.received += data
                    self.answered += data.count(b"\n")
                    self._heard.set()
                self.ended = "clean"
            except trio.BrokenResourceError as exc:
                self.ended = repr(exc.__cause__ or exc)
            nursery.cancel_scope.cancel()

    async def _send(self, stream: trio.SocketStream) -> None:
        """A third never waits, a third has a burst under way, a third waits for each answer."""
        burst = (20, 10, 1)[self.number % 3]
        while True:
            lines = [self.line(index) for index in range(self.sent, self.sent + burst)]
            self.sent += burst
            try:
                await stream.send_all("".join(f"{line}\n" for line in lines).encode())
            except trio.BrokenResourceError:
                return  # the server has ended: what it has answered counts
            while self.number % 3 and self.answered < self.sent:
                self._heard = trio.Event()
                await self._heard.wait()


async def start_clients(nursery: trio.Nursery, port: int) -> list[Client]:
    """All clients, connected, begin to send at the same time."""
    go = trio.Event()
    clients = [Client(number, go) for number in range(CLIENTS)]
    for client in clients:
        await nursery.start(client.run, port)
    go.set()
    return clients


async def port_of(program: Program) -> int:
    return int((await program.line_with("send it a line")).split()[-1])


def check_clients(clients: list[Client], database: Path) -> None:
    """What they were told is what is stored, by id and text: no less, and no more."""
    with closing(sqlite3.connect(database)) as opened:
        stored = dict(opened.execute("SELECT id, text FROM lines"))
    acknowledged: dict[int, str] = {}
    for client in clients:
        received = client.received.decode()
        assert received == "" or received.endswith("\n")
        answers = received.splitlines()
        for index, answer in enumerate(answers):
            word, number = answer.split(" ")
            assert word == "ok"
            acknowledged[int(number)] = client.line(index)
        # A reset is for lines that crossed with our end, and that nobody has looked at: few, as the
        # close lingers.
        assert client.ended == "clean" or len(answers) < client.sent
    assert sum(client.ended != "clean" for client in clients) < CLIENTS / 10
    assert acknowledged == stored
    assert stored


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_no_acknowledged_line_is_lost_when_it_is_stopped_under_load(
    tmp_path: Path, round_number: int
) -> None:
    arguments = [*FREE_PORTS, "--dir", str(tmp_path), "--grace", str(GRACE)]
    async with open_program(python("-W", "error", "-c", COUNTED, *arguments)) as program:
        port = await port_of(program)
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                clients = await start_clients(nursery, port)
                delay = random.uniform(0, 0.5)
                print(f"stopped after {delay} s")  # shown if it fails
                await trio.sleep(delay)
                program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0, program.output
    assert "Error" not in program.output
    assert "Warning" not in program.output
    assert " 0 cut" in program.output
    _, before, after = (await program.line_with("descriptors:")).split()
    assert before == after
    (stored,) = re.findall(r"([\d,]+) lines stored, 0 waiting", program.output)
    assert f" {stored} lines of 1 source" in program.output  # what is counted is exact, too
    check_clients(clients, tmp_path / "lines.db")
