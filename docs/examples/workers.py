import os
import signal
import socket
import sys

from trio_run import (
    Group,
    SignalReceiver,
    TCPListener,
    Workers,
    busy,
    inherited_sockets,
    run,
)


async def tell(stream):
    with busy():
        await stream.send_all(f"from process {os.getpid()}\n".encode())


def worker():
    return run(TCPListener(tell, sockets=inherited_sockets()["web"]), name="worker")


def parent():
    listening = socket.create_server(("127.0.0.1", 7000))
    command = [sys.executable, __file__, "worker"]
    workers = Workers(command, 2, sockets={"web": [listening]}, stuck_after=10)
    # A worker has 30 s, and 5 s more to say where it hangs.
    group = Group(name="shop", grace=36)
    group.add(workers)
    handlers = {
        signal.SIGHUP: workers.replace,
        signal.SIGTTIN: workers.more,
        signal.SIGTTOU: workers.fewer,
    }
    group.add(SignalReceiver(handlers=handlers))
    return run(group, signals=())


if __name__ == "__main__":
    sys.exit(worker() if sys.argv[1:] == ["worker"] else parent())
