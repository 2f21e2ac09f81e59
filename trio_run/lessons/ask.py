"""A client for the lessons, so that none needs a program that may not be installed.

``python -m trio_run.lessons.ask URL [words]`` sends the words to tcp://, udp://, ws:// or http://,
and prints what comes back until the other side ends it. It decides nothing that a lesson teaches.
"""

from __future__ import annotations

import http.client
import socket
import sys
import urllib.parse
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = "usage: python -m trio_run.lessons.ask URL [WORD ...]   (URL: tcp://127.0.0.1:7030, say)"
PATIENCE = 10.0  # seconds for the reply to a datagram, which may be lost


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask once; returns the exit code, 1 if there was no answer."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(USAGE, file=sys.stderr)
        return 2
    if arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    url = urllib.parse.urlsplit(arguments[0])
    ways = {"tcp": _tcp, "udp": _udp, "ws": _websocket, "http": _http}
    if url.scheme not in ways or url.hostname is None or url.port is None:
        print(f"{arguments[0]} is not tcp://, udp://, ws:// or http://HOST:PORT", file=sys.stderr)
        return 2
    try:
        ways[url.scheme](url, " ".join(arguments[1:]))
    except KeyboardInterrupt:
        return 130
    except ConnectionRefusedError:
        print("(refused: nobody listens there)")
    except ConnectionResetError:
        print("(reset: something is missing)")
    except TimeoutError:
        print("(no reply)")
    else:
        return 0
    return 1


def _tcp(url: urllib.parse.SplitResult, words: str) -> None:
    with socket.create_connection((str(url.hostname), url.port or 0)) as client:
        if words:
            client.sendall(words.encode() + b"\n")
            client.shutdown(socket.SHUT_WR)
        else:
            print("(connected, and silent)", flush=True)
        while data := client.recv(65536):
            print(data.decode(), end="", flush=True)
    print("(end of the stream)")


def _udp(url: urllib.parse.SplitResult, words: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect((str(url.hostname), url.port or 0))
        client.send(words.encode())
        print(client.recv(65536).decode(), end="")


def _http(url: urllib.parse.SplitResult, _words: str) -> None:
    client = http.client.HTTPConnection(str(url.hostname), url.port)
    client.request("GET", url.path or "/")
    response = client.getresponse()
    print(response.status, response.reason)
    print(response.read().decode(), end="")


def _websocket(url: urllib.parse.SplitResult, _words: str) -> None:
    from trio_websocket import ConnectionClosed, HandshakeError, open_websocket_url

    async def listen() -> None:
        try:
            async with open_websocket_url(url.geturl()) as websocket:
                while True:
                    print(await websocket.get_message(), flush=True)
        except ConnectionClosed as closed:
            why = closed.reason
            print(f"(closed: {why.code} {why.name})" if why else "(closed, and nobody said why)")
        except HandshakeError as exc:
            raise ConnectionRefusedError from exc

    trio.run(listen)


if __name__ == "__main__":
    sys.exit(main())
