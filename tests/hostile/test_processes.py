"""Random clients against real processes, which are stopped by real signals at random moments.

The server writes what it has begun, and what became of it.
"""

from __future__ import annotations

import random
import re
import signal
import sys

import pytest
import trio

from trio_run.testing import Program, connect, open_program

from .. import TIMEOUT
from ..programs import script
from .clients import Clients
from .dialects import HTTP, Dialect, Lines
from .ledger import Ledger
from .rounds import HOST
from .seeds import seeds

SERVER = """
import sys
import trio
from trio_run import Group, HTTPListener, TCPListener, run
from tests.hostile.rounds import Round, app_of, handler_of_lines

kind, seed, grace, lame_duck = sys.argv[1], *map(float, sys.argv[2:])
round_ = Round(int(seed), None, None)
if kind == "http":
    listener = HTTPListener(app_of(round_), 0, host="127.0.0.1")
else:
    listener = TCPListener(handler_of_lines(round_), 0, host="127.0.0.1")

async def announce():
    print("serves at", listener.addresses[0][1], flush=True)

group = Group(grace=grace, lame_duck=lame_duck)
group.add(announce, needs=[group.add(listener)], on_return="ignore")
code = run(group)
for tag, fate in round_.ledger.begun.items():
    print("begun", tag, fate)
print("wrong", round_.ledger.wrong)
sys.exit(code)
"""


async def play(kind: str, seed: int) -> list[str]:
    rng = random.Random(seed)
    ledger = Ledger()
    stop = rng.choice(("plain", "lame duck", "short", "twice"))
    ledger.is_hard = stop in ("short", "twice")
    grace = rng.uniform(0.01, 0.3) if stop == "short" else 20
    lame_duck = rng.uniform(0, 0.1) if stop == "lame duck" else 0
    dialect: type[Dialect] = HTTP if kind == "http" else Lines
    command = script(SERVER, kind, str(seed), str(grace), str(lame_duck))
    async with open_program(command) as program:
        port = int((await program.line_with("serves at")).rpartition(" ")[2])
        clients = Clients(
            ledger,
            lambda: connect((HOST, port)),
            dialect,
            random.Random(rng.random()),
        )
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(clients.run, rng.randint(1, 30), 0.5)
                await trio.sleep(rng.uniform(0, 0.6))
                ledger.stop_came = trio.current_time()
                program.signal(signal.SIGTERM)
                if stop == "twice":
                    await trio.sleep(rng.uniform(0, 0.1))
                    program.signal(rng.choice((signal.SIGTERM, signal.SIGINT)))
            code = await program.exit_code()
    check_end(program, code, stop, ledger)
    return [f"seed {seed}: {what}" for what in ledger.wrong]


def check_end(program: Program, code: int, stop: str, ledger: Ledger) -> None:
    for tag, fate in re.findall(r"^begun (\S+) (\S+)$", program.output, re.MULTILINE):
        ledger.begun[tag] = fate
    ledger.check(knows_reset=True, answers_what_came=True)
    if "wrong []" not in program.output:
        ledger.wrong.append(program.output)
    codes = (0, 128 + signal.SIGTERM, 128 + signal.SIGINT) if stop == "twice" else (0,)
    if code not in codes or "Traceback" in program.output:
        ledger.wrong.append(f"{stop}: it ended with {code}: {program.output}")


@pytest.mark.skipif(sys.platform == "win32", reason="it has no signals")
@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_a_process_answers_what_it_has_begun(kind: str) -> None:
    wrong: list[str] = []
    for seed in seeds(3, 300):
        wrong += await play(kind, seed)
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:10])
