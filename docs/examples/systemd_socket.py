import os
import socket
import sys

from trio_run import TCPListener, run


def inherited_sockets():
    """What systemd has opened for us: descriptors from 3 on. No child of ours is to have them."""
    pid = os.environ.pop("LISTEN_PID", None)
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        sys.exit("start it with shop.socket: systemctl start shop.socket")
    sockets = []
    for descriptor in range(3, 3 + count):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets


async def echo(stream):
    async for chunk in stream:
        await stream.send_all(chunk)


if __name__ == "__main__":
    sys.exit(run(TCPListener(echo, sockets=inherited_sockets()), grace=20))
