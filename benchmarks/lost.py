"""``python -m benchmarks.lost``: the two programs of the README, stopped under load.

Counts the requests that a server had begun and that its client never got the answer of.
"""

import re
import signal
import subprocess
import sys
from pathlib import Path

import trio

CLIENTS, SECONDS = 100, 1.0
WORK = "await trio.sleep(0.05)  # the work\n"
COUNT = """
import atexit
begun = 0

async def work():
    global begun
    begun += 1
    await trio.sleep(0.05)

atexit.register(lambda: print(begun))
"""


def programs() -> list[str]:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)[:2]


async def measure(program: str) -> tuple[int, int]:
    """Run it, send it requests, stop it; how many were begun, and how many answered."""
    assert program.count(WORK) == 1
    source = f"import trio{COUNT}{program.replace(WORK, 'await work()' + chr(10))}"
    if "run(" not in program.replace("trio.run(", ""):
        source += "\ntrio.run(main)\n"
    server = await trio.lowlevel.open_process(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    answered = 0
    [port] = map(int, re.findall(r"\b(\d+), host=", program))

    async def client() -> None:
        nonlocal answered
        try:
            async with await connected(port) as stream:
                while True:
                    await stream.send_all(b"a line\n")
                    if not await stream.receive_some():
                        return
                    answered += 1
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(client)
        await trio.sleep(SECONDS)
        server.send_signal(signal.SIGTERM)
        await server.wait()
    assert server.stdout is not None
    async with server.stdout:
        begun = int(b"".join([bytes(data) async for data in server.stdout]))
    return begun, answered


async def connected(port: int) -> trio.SocketStream:
    while True:
        try:
            return await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.sleep(0.05)  # it has not begun to listen


async def main() -> None:
    for name, program in zip(("plain Trio", "trio-run"), programs(), strict=True):
        begun, answered = await measure(program)
        print(f"{name:10}  {begun:,} requests begun, {begun - answered} of them lost")


if __name__ == "__main__":
    trio.run(main)
