import sys
from pathlib import Path

import trio

from trio_run import CannotStart, Group, TCPListener, busy, every, run


class Ledger:
    def __init__(self, path):
        self.path = path
        self.closing = trio.Event()

    async def execute(self, *, task_status):
        try:
            file = self.path.open("a")
        except OSError as exc:
            raise CannotStart(f"cannot write the ledger: {exc}") from exc
        with file:
            self.file = file
            task_status.started()  # who needs it starts now
            await self.closing.wait()

    def interrupt(self, cause):
        self.closing.set()  # who needed it has stopped

    def write(self, line):
        self.file.write(line)
        self.file.flush()


def main():
    ledger = Ledger(Path("ledger.txt"))

    async def take_orders(stream):
        async for order in stream:
            with busy():
                ledger.write(order.decode())
                await stream.send_all(b"ok\n")

    group = Group(name="shop", grace=20)
    keeping = group.add(ledger)
    group.add(TCPListener(take_orders, 7000), needs=[keeping])
    group.add(every(60, print, "still here"), name="heart", daemon=True)
    return run(group)


if __name__ == "__main__":
    sys.exit(main())
