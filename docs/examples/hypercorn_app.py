import sys

from hypercorn.config import Config

from trio_run import HypercornServer, run


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"Hello!\n"})


config = Config()
config.bind = ["127.0.0.1:8000"]
config.graceful_timeout = 15  # shorter than the grace
# config.certfile, config.keyfile: browsers speak HTTP/2 over TLS only

if __name__ == "__main__":
    sys.exit(run(HypercornServer(app, config), grace=20))
