import os
import socket
import sys

from trio_run import TCPListener, run


def inherited_sockets():
    """What systemd has opened for us: descriptors from 3 on."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        sys.exit("start it with shop.socket: systemctl start shop.socket")
    return [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]


async def echo(stream):
    async for chunk in stream:
        await stream.send_all(chunk)


if __name__ == "__main__":
    sys.exit(run(TCPListener(echo, sockets=inherited_sockets()), grace=20))
