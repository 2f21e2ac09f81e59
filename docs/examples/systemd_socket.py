import sys

from trio_run import TCPListener, inherited_sockets, run


async def echo(stream):
    async for chunk in stream:
        await stream.send_all(chunk)


if __name__ == "__main__":
    sockets = inherited_sockets()
    if "shop.socket" not in sockets:
        sys.exit("start it with shop.socket: systemctl start shop.socket")
    sys.exit(run(TCPListener(echo, sockets=sockets["shop.socket"]), grace=20))
