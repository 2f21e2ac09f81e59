"""Rule P6: the reference has each name that /status and /metrics have, and no other."""

import re
from pathlib import Path

import trio

from trio_run import Group

from .helpers import Slow, serving

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "status.rst"


def tables() -> list[list[tuple[str, str]]]:
    """The rows of each table: the name, and what is said of it."""
    text = PAGE.read_text("utf-8")
    found = re.findall(r"^=+  =+\n(.*?)\n=+  =+$", text, re.DOTALL | re.MULTILINE)
    return [re.findall(r"^``(\S+)`` +(.*)$", table, re.MULTILINE) for table in found]


async def test_what_the_reference_has_is_what_is_answered() -> None:
    _paths, of_group, of_actor, of_metrics = tables()
    group, slow = Group(name="shop"), Slow(status="2 connections, 1 busy")
    group.add(slow)
    async with serving(group) as site:
        group.stop("enough")
        await slow.interrupted.wait()
        shown = (await site.ask("/status")).json()
        metrics = (await site.ask("/metrics")).text
        slow.let_go.set()
    assert [name for name, _ in of_group] == list(shown)
    for actor in shown["actors"]:
        assert sorted(name for name, _ in of_actor) == sorted(actor)
    cause = dict(of_group)["cause"]
    assert re.findall("``(.*?)``", cause) == list(shown["cause"])
    names = re.findall("^(trio_run_[a-z_]+){", metrics, re.MULTILINE)
    assert [name for name, _ in of_metrics] == list(dict.fromkeys(names))


async def test_what_is_said_of_one_that_has_left_has_the_same_names() -> None:
    _, _, of_actor, _ = tables()
    group = Group()
    group.add(trio.sleep_forever)
    async with serving(group) as site:
        left = group.add(trio.sleep_forever, name="left")
        left.stop()
        await left.wait_stopped()
        [line] = [
            actor
            for actor in (await site.ask("/status")).json()["actors"]
            if actor["name"] == "left"
        ]
        assert sorted(name for name, _ in of_actor) == sorted(line)
