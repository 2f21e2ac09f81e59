import sys

from quart_trio import QuartTrio

from trio_run import HTTPListener, run

app = QuartTrio(__name__)


@app.route("/")
async def hello():
    return "Hello!\n"


if __name__ == "__main__":
    sys.exit(run(HTTPListener(app, 8000), grace=20))
