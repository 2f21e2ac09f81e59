import itertools
import sys

import trio

from trio_run import Restarting, run

connections = itertools.count(1)


async def follow_upstream():
    number = next(connections)
    print(f"connection {number} to the upstream")
    await trio.sleep(0.5)
    if number < 3:
        raise OSError("the upstream has gone away")
    await trio.sleep_forever()


if __name__ == "__main__":
    sys.exit(run(Restarting(follow_upstream, first=0.5), grace=20))
