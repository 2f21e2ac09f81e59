"""HTTP apps that do odd things in the connection's own task, with clients of every kind.

What the server began is compared with what its clients got, as in test_clients. Besides, no request
sees a context variable that another has set.
"""

from __future__ import annotations

import contextlib
import contextvars
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from trio_run import HTTPListener

from .dialects import HTTP, Ask, ask_of, pattern
from .rounds import HOST, Contexts, Kind, Round, play, play_all, read_whole, respond
from .seeds import seeds

_mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
BOOM = "boom"  # in the message of what is raised on purpose


class Call:
    """One call of the app."""

    def __init__(
        self, round_: Round, ask: Ask, receive: Receive, send: Send, rng: random.Random
    ) -> None:
        self.round = round_
        self.ask = ask
        self.receive = receive
        self.send = send
        self.rng = rng

    async def start(self) -> None:
        headers = [(b"tag", self.ask.tag.encode())]
        if self.rng.random() < 0.5:
            headers.append((b"content-length", b"%d" % self.ask.size))
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def reply(self) -> None:
        """The whole response."""
        with self.round.ledger.answering(self.ask.tag):
            await self.start()
            data = pattern(self.ask.tag, self.ask.size)
            step = max(1, -(-len(data) // self.ask.pieces))
            for at in range(0, max(1, len(data)), step):
                more = at + step < len(data)
                piece = data[at : at + step]
                await self.send({"type": "http.response.body", "body": piece, "more_body": more})

    async def pause(self, most: float = 0.05) -> None:
        await trio.sleep(self.rng.choice((0, self.rng.uniform(0, most))))

    def will_fail(self) -> None:
        self.round.ledger.wanted_errors.add(self.ask.tag)


# What it may do. Each of these answers, or says that it will fail.


async def read_and_reply(call: Call) -> None:
    await read_whole(call.receive)
    await call.pause()
    await call.reply()


async def reply_without_reading(call: Call) -> None:
    await call.pause()
    await call.reply()


async def go_on_afterwards(call: Call) -> None:
    await call.reply()
    await trio.sleep(call.rng.uniform(0, 0.3))


async def hear_of_the_end_afterwards(call: Call) -> None:
    """As Starlette does, and again and again."""
    await call.reply()
    for _ in range(call.rng.randint(1, 3)):
        message = await call.receive()
        if call.rng.random() < 0.5:
            await call.pause()
    assert message["type"] == "http.disconnect" or call.ask, message


async def raise_afterwards(call: Call) -> None:
    await call.reply()
    await call.pause()
    raise ValueError(BOOM)


async def send_too_much_afterwards(call: Call) -> None:
    await call.reply()
    await call.pause()
    with contextlib.suppress(RuntimeError):
        await call.send({"type": "http.response.body", "body": BOOM.encode()})
    with contextlib.suppress(RuntimeError):
        await call.send({"type": "http.response.start", "status": 500, "headers": []})


async def be_cancelled_afterwards(call: Call) -> None:
    await call.reply()
    with trio.move_on_after(call.rng.uniform(0, 0.1)):
        await call.receive()
        await trio.sleep_forever()


async def receive_in_several_tasks(call: Call) -> None:
    async def receive() -> None:
        while (await call.receive())["type"] != "http.disconnect":
            pass

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(receive)
        await call.pause()
        await call.reply()
        if call.rng.random() < 0.5:
            nursery.cancel_scope.cancel()


async def listen_while_it_streams(call: Call) -> None:
    """As frameworks do: who of the two ends first cancels the other."""

    async def listen() -> None:
        while (await call.receive())["type"] != "http.disconnect":
            pass
        if call.rng.random() < 0.5:
            await call.pause()

    await read_whole(call.receive)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await call.reply()
        nursery.cancel_scope.cancel()


async def leave_a_task_that_receives(call: Call) -> None:
    """It ends long after the app has returned."""

    async def receive() -> None:
        while (await call.receive())["type"] != "http.disconnect":
            pass

    elsewhere = _elsewhere.get()
    for _ in range(call.rng.randint(1, 2)):
        elsewhere.start_soon(receive)
    await call.pause()
    await call.reply()


async def return_while_another_sends(call: Call) -> None:
    """The rest is refused, or it comes in time."""
    call.will_fail()

    async def send() -> None:
        with contextlib.suppress(OSError, RuntimeError):
            await call.reply()

    _elsewhere.get().start_soon(send)
    await call.pause()


async def send_from_two_tasks(call: Call) -> None:
    """One of them comes too late, or in between."""
    data = pattern(call.ask.tag, 2 * call.ask.size)
    with call.round.ledger.answering(call.ask.tag):
        headers = [(b"tag", call.ask.tag.encode())]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})

        part = f"<{call.ask.tag}>".encode()
        parts = len(data) // len(part) // 2

        async def send() -> None:
            body = part * parts
            await call.send({"type": "http.response.body", "body": body, "more_body": True})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(send)
        await call.send({"type": "http.response.body"})


async def catch_everything(call: Call) -> None:
    with contextlib.suppress(Exception):
        await read_whole(call.receive)
    try:
        await call.reply()
    except BaseException:
        with contextlib.suppress(BaseException):
            await call.send({"type": "http.response.body", "body": b"?"})
        with contextlib.suppress(BaseException):
            await call.receive()
        raise


async def turn_a_cancel_into_a_failure(call: Call) -> None:
    try:
        await call.reply()
        await trio.sleep(call.rng.uniform(0, 0.2))
    except trio.Cancelled:
        raise ValueError(BOOM) from None


async def raise_before(call: Call) -> None:
    call.will_fail()
    with call.round.ledger.answering(call.ask.tag):
        await call.pause()
        raise ValueError(BOOM)


async def raise_in_the_midst(call: Call) -> None:
    call.will_fail()
    with call.round.ledger.answering(call.ask.tag):
        await call.start()
        await call.send({"type": "http.response.body", "body": b"<", "more_body": True})
        await call.pause()
        raise ValueError(BOOM)


async def swallow_a_cancel(call: Call) -> None:
    """Of its own: part of the response may have been sent."""
    call.will_fail()
    with call.round.ledger.answering(call.ask.tag):
        with trio.move_on_after(call.rng.uniform(0, 0.02)):
            await call.start()
            body = pattern(call.ask.tag, 100)
            await call.send({"type": "http.response.body", "body": body, "more_body": True})
            await call.receive()
            await call.receive()
        raise ValueError(BOOM)


ODD: list[Callable[[Call], Awaitable[None]]] = [
    read_and_reply,
    reply_without_reading,
    go_on_afterwards,
    hear_of_the_end_afterwards,
    raise_afterwards,
    send_too_much_afterwards,
    be_cancelled_afterwards,
    receive_in_several_tasks,
    listen_while_it_streams,
    leave_a_task_that_receives,
    return_while_another_sends,
    send_from_two_tasks,
    catch_everything,
    turn_a_cancel_into_a_failure,
    raise_before,
    raise_in_the_midst,
    swallow_a_cancel,
]
_elsewhere: contextvars.ContextVar[trio.Nursery] = contextvars.ContextVar("elsewhere")


def odd_app(round_: Round, elsewhere: trio.Nursery) -> Callable[..., Awaitable[None]]:
    some = [*round_.rng.sample(ODD, round_.rng.randint(1, 4)), read_and_reply]

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] != "lifespan", "no lifespan"
        if _mark.get():
            round_.ledger.wrong.append(f"{scope['path']} sees what {_mark.get()} has set")
        try:
            ask = ask_of(scope["path"][1:])
        except (ValueError, TypeError):
            await respond(send, b"junk", 404)
            return
        _mark.set(ask.tag)
        _elsewhere.set(elsewhere)
        rng = random.Random(f"{round_.seed} {ask.tag}")
        what = rng.choice(some)
        round_.ledger.what[ask.tag] = what.__name__
        await what(Call(round_, ask, receive, send, rng))

    return app


async def play_odd(round_: Round, *, tls: bool) -> None:
    async with trio.open_nursery() as elsewhere:
        kind = Kind(
            HTTP,
            lambda round_, options: HTTPListener(
                odd_app(round_, elsewhere), 0, host=HOST, **options
            ),
            tls=tls,
            answers_what_came=False,
        )
        await play(kind, round_)
        with trio.move_on_after(5) as bound:
            while elsewhere.child_tasks:
                await trio.sleep(0.01)
        if bound.cancelled_caught:
            round_.ledger.wrong.append("a task still waits in receive()")
            elsewhere.cancel_scope.cancel()


@pytest.mark.parametrize("tls", [False, True])
def test_whatever_an_app_does_what_it_answers_arrives(tls: bool, contexts: Contexts) -> None:
    play_all(seeds(75, 4000), contexts, partial(play_odd, tls=tls), wanted="the app failed")
