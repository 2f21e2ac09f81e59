"""Arguments: how serve and supervise read a number, a time or an address from the command line.

What there is to say, and what it means, is decided by each of them.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

REFUSED = 2  # the exit code, as argparse has it


class Refused(Exception):
    """A sentence that says what can't be done, and what can."""


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return number


def count(text: str) -> int:
    number = _whole(text)
    if number is None or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return number


def port(text: str) -> int:
    number = _whole(text)
    if number is None or number > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a whole number from 0 to 65535")
    return number


def permissions(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no permissions: 660, say") from None


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def add_grace(option: Any, *names: str) -> None:
    option(
        *("--grace", *names),
        type=seconds,
        metavar="SECONDS",
        default=30.0,
        help="how long a stop may take (30); inf is for ever",
    )
