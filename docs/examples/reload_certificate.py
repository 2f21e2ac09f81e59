import signal
import ssl
import sys

from trio_run import SignalReceiver, TCPListener, run

FILES = ("server.crt", "server.key")


def load(context):
    check = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    check.load_cert_chain(*FILES)  # raises if the two do not fit: the old ones stay in use then
    context.load_cert_chain(*FILES)


def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load(context)

    def reload():
        load(context)
        print("the certificate has been reloaded")

    async def greet(stream):
        await stream.send_all(b"Hello!\n")

    receiver = SignalReceiver(handlers={signal.SIGHUP: reload})  # SIGINT and SIGTERM stop, as ever
    listener = TCPListener(greet, 7000, ssl_context=context)
    return run(listener, receiver, signals=())  # () as it receives them itself


if __name__ == "__main__":
    sys.exit(main())
