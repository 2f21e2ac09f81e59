"""The floor: no framework, and at SIGTERM nothing but close().

``python -m benchmarks.servers.close_loop echo``
"""

import os
import select
import signal
import socket

from . import HOST


class Terminated(Exception):
    pass


def terminate(*_: object) -> None:
    raise Terminated


def main() -> None:
    listening = socket.create_server((HOST, 0), backlog=4096)
    epoll = select.epoll()
    epoll.register(listening)
    connections = []
    print(listening.getsockname()[1], flush=True)
    try:
        signal.signal(signal.SIGTERM, terminate)
        while True:
            for descriptor, _ in epoll.poll():
                if descriptor == listening.fileno():
                    connection = listening.accept()[0].detach()
                    connections.append(connection)
                    epoll.register(connection, select.EPOLLIN)
                elif chunk := os.read(descriptor, 65536):
                    os.write(descriptor, chunk)
                else:
                    connections.remove(descriptor)
                    os.close(descriptor)
    except Terminated:
        listening.close()
        for connection in connections:
            os.close(connection)


if __name__ == "__main__":
    main()
