import sys

import trio

from trio_run import BackgroundTasks, Group, HTTPListener, run

mails = BackgroundTasks(limit=10, name="mails")


async def send_mail(address):
    await trio.sleep(0.5)
    print("sent to", address)


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    print("an order comes in")
    await trio.sleep(0.5)
    await send({"type": "http.response.start", "status": 202})
    await send({"type": "http.response.body", "body": b"You will get a mail.\n"})
    mails.start_soon(send_mail, "ada@example.org")  # the client does not wait for it; a stop does


if __name__ == "__main__":
    group = Group(name="shop", grace=20)
    sending = group.add(mails)
    # Who starts tasks stops first: then nobody is left to start more.
    group.add(HTTPListener(app, 8000), needs=[sending])
    sys.exit(run(group))
