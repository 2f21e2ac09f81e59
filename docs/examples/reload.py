import signal
import sys
from pathlib import Path

from trio_run import SignalReceiver, TCPListener, run

settings = {"greeting": "Hello!"}


def reload():
    settings["greeting"] = Path("greeting.txt").read_text().strip()
    print("the greeting is now:", settings["greeting"])


async def greet(stream):
    await stream.send_all(settings["greeting"].encode() + b"\n")


if __name__ == "__main__":
    receiver = SignalReceiver(handlers={signal.SIGHUP: reload})  # SIGINT and SIGTERM stop, as ever
    sys.exit(run(TCPListener(greet, 7000), receiver, signals=()))  # () as it receives them itself
