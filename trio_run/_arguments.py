"""Arguments: what the command lines of serve and supervise have in common.

That is how a number or a time is read, and the options that mean the same to both. What else there
is to say is decided by each.
"""

from __future__ import annotations

import argparse
import json
import logging.config
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._errors import one_line

REFUSED = 2  # the exit code, as argparse has it

Option = Callable[..., Any]  # an ArgumentParser's add_argument


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


def some_seconds(text: str) -> float:
    if not (number := seconds(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds greater than 0")
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


def _permissions(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} are no permissions: 660, say")
    return mode


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def add_uds_mode(option: Option) -> None:
    option(
        "--uds-mode",
        type=_permissions,
        metavar="MODE",
        default=0o600,
        help="the permissions of a Unix socket, octal (600)",
    )


def add_status_port(option: Option) -> None:
    option(
        "--status-port",
        type=port,
        metavar="PORT",
        help="a local port for /livez, /readyz and /metrics, and a page that shows how it is",
    )


def add_times(option: Option, *, lame_duck: str) -> None:
    """How long a stop and a hang may take. ``lame_duck`` says what the lame duck is for."""
    of_time: dict[str, Any] = {"metavar": "SECONDS"}
    option(
        "--grace",
        "--timeout-graceful-shutdown",
        type=seconds,
        default=30.0,
        help="how long a stop may take (30); inf is for ever",
        **of_time,
    )
    option("--lame-duck", type=seconds, default=0.0, help=lame_duck, **of_time)
    option("--stuck-after", type=some_seconds, help="end what hangs for so long", **of_time)


def add_log_config(option: Option) -> None:
    option(
        "--log-config",
        metavar="FILE",
        help="set up logging by this file: JSON, where its name ends so, or else INI",
    )


def set_up_logging(path: str | None) -> None:
    """By that file, which is JSON for dictConfig() or INI for fileConfig(), if there is to be one.

    Raises:
      Refused: if it can't be.
    """
    try:
        if path is None:
            return
        if path.endswith(".json"):
            settings = json.loads(Path(path).read_text("utf-8"))
            # Ours are there already, and those that the file does not name are not to fall silent.
            logging.config.dictConfig({"disable_existing_loggers": False, **settings})
        else:
            with Path(path).open(encoding="utf-8") as file:
                logging.config.fileConfig(file, disable_existing_loggers=False)
    except Exception as exc:  # whatever logging makes of what is there
        raise Refused(f"no logging can be set up by {path}: {one_line(exc)}") from None


def add_workers(option: Option, *, about: str) -> None:
    """How many processes there are, and how long each may take to start."""
    option("--workers", type=count, metavar="N", help=about)
    option(
        "--ready-within",
        type=some_seconds,
        metavar="SECONDS",
        default=60.0,
        help="how long a worker that replaces another may take to be ready (60)",
    )
