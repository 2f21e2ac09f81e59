"""What the server of a hostile test began, what its clients got, and what has to be true of that.

A server has begun a request when it is inside busy() with it. That is then answered whole, unless
its client left, or the server was cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from .dialects import Reply


@dataclass
class Account:
    """One client's."""

    name: str
    kind: str = ""  # of client
    end: str = "none"  # "eof", "reset", "left", "refused"
    replies: list[Reply] = field(default_factory=list)
    half: bytes = b""  # of a reply, when it ended
    sent: list[tuple[str, float]] = field(default_factory=list)  # whole requests, and when
    is_junk: bool = False  # it breaks the protocol
    wrote: float = -math.inf  # when it last did
    was_reset: bool = False  # as it wrote

    @property
    def got(self) -> list[str]:
        return [reply.tag for reply in self.replies if reply.tag]


class Ledger:
    def __init__(self) -> None:
        self.begun: dict[str, str] = {}  # tag -> what became of it
        self.what: dict[str, str] = {}  # the app does for it, where that is odd
        self.wanted_errors: set[str] = set()  # the app fails, and its client is to hear of that
        self.accounts: list[Account] = []
        self.wrong: list[str] = []
        self.stop_came = math.inf
        self.is_hard = False  # may somebody be cut?

    @contextmanager
    def answering(self, tag: str) -> Iterator[None]:
        if tag in self.begun:
            self.wrong.append(f"{tag} was begun twice")
        self.begun[tag] = "begun"
        try:
            yield
        except trio.Cancelled:
            self.begun[tag] = "cut"
            raise
        except BaseException:
            self.begun[tag] = "failed"
            raise
        self.begun[tag] = "done"

    def check(self, *, knows_reset: bool, answers_what_came: bool) -> list[str]:
        """What is wrong."""
        of_client: dict[str, list[str]] = {}
        for tag in self.begun:
            of_client.setdefault(tag.partition(".")[0], []).append(tag)
        for account in self.accounts:
            begun = of_client.pop(account.name, [])
            for wrong in self._check_one(account, begun, knows_reset, answers_what_came):
                fates = {tag: (self.begun[tag], self.what.get(tag, "")) for tag in begun}
                self.wrong.append(f"{wrong}: {fates} {str(account)[:1000]}")
        if of_client:
            self.wrong.append(f"nobody sent {of_client}")
        if not self.is_hard and "cut" in self.begun.values():
            self.wrong.append(f"cut without need: {self.begun}")
        return self.wrong

    def _check_one(
        self, account: Account, begun: list[str], knows_reset: bool, answers_what_came: bool
    ) -> Iterator[str]:
        got = account.got
        if account.end == "none":
            yield "it hangs"
        if got != [tag for tag in begun if tag in got] or got != begun[: len(got)]:
            yield "replies that were not begun, or in another order"
        errors = [each.status for each in account.replies if each.status not in (200, 503)]
        if errors and not account.is_junk and not self.wanted_errors.intersection(begun):
            yield f"errors: {errors}"
        if account.end in ("left", "refused"):
            return
        missing = [tag for tag in begun if tag not in got]
        # A TLS stream that a write has found broken is not read to its end.
        is_blind = account.was_reset and account.end == "reset"
        if any(self.begun[tag] == "done" for tag in missing) and not (
            is_blind or (self.is_hard and (account.end == "reset" or account.was_reset))
        ):
            yield "a reply is lost"
        if any(self.begun[tag] == "failed" for tag in missing) and not (
            account.is_junk or self.wanted_errors.intersection(missing) or self.is_hard
        ):
            yield "a reply failed, though its client stayed"
        if account.half and account.end == "eof" and knows_reset and not account.was_reset:
            yield "half a reply, and a clean end"
        # What comes after the stop may be answered by a reset.
        if account.end == "reset" and not (
            self.is_hard
            or account.wrote > self.stop_came
            or account.is_junk
            or self.wanted_errors.intersection(begun)
        ):
            yield "reset"
        is_wanted = bool(self.wanted_errors.intersection(begun))
        if account.half and account.end == "eof" and not (self.is_hard or is_wanted):
            yield "half a reply"
        if answers_what_came and account.sent and not (account.is_junk or self.is_hard):
            tag, at = account.sent[0]
            if at < self.stop_came and tag not in begun:
                yield "its request had come before the stop, and was not begun"
