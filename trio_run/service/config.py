"""config: what can be set, and what is accepted.

``--port`` is SERVICE_PORT in the environment, and ``port = 8000`` in the file that --config names.
The first of these that has it wins. To add a setting, add a line to Config. To do without the file,
delete ``_read_file`` and what calls it, and settings.py.
"""

from __future__ import annotations

import argparse
import logging
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "service"
PREFIX = "SERVICE_"
T = TypeVar("T", str, int, float)


class ConfigError(Exception):
    """What a person has to change, in a sentence."""


def _setting(default: T, about: str) -> T:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Config:
    """The settings of a run: the type of each default is the type of the setting."""

    host: str = _setting("127.0.0.1", "the address to listen on; 0.0.0.0 is every one")
    port: int = _setting(8000, "where the service is; 0 is a free port")
    status_port: int = _setting(8081, "where the status page is")
    grace: float = _setting(20.0, "how many seconds a stop may take; what runs then is cut")
    lame_duck: float = _setting(0.0, "how many of them it first goes on serving")
    log_level: str = _setting("info", "debug, info, warning or error")
    greeting: str = _setting("Hello!", "what the first page says")

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("the host is empty: 0.0.0.0 is every address")
        for port in (self.port, self.status_port):
            if not 0 <= port < 2**16:
                raise ConfigError(f"a port is a number from 0 to 65535, not {port}")
        if not self.grace >= 0:  # NaN is not
            raise ConfigError(f"the grace is 0 seconds or more, not {self.grace:g}")
        if self.lame_duck and not 0 < self.lame_duck < self.grace:
            raise ConfigError("the lame duck is a part of the grace: make it shorter than that")
        if self.log_level.upper() not in logging.getLevelNamesMapping():
            raise ConfigError(f"there is no log level {self.log_level!r}")


def read_config(arguments: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read all of it.

    Raises:
      ConfigError: if something can't be right, wherever it is set.
    """
    options = vars(_parser().parse_args(arguments))
    path = options.pop("config") or environ.get(f"{PREFIX}CONFIG")
    values: dict[str, tuple[str, str]] = {}  # each as a text, and how it is set
    for name, value in _read_file(path).items() if path else ():
        values[name] = str(value), f"{name} in {path}"
    for name in options:
        variable = PREFIX + name.upper()
        if variable in environ:
            values[name] = environ[variable], variable
        if options[name] is not None:
            values[name] = options[name], _option(name)
    return Config(**{name: _parse(name, *value) for name, value in values.items()})


def _parse(name: str, text: str, how: str) -> Any:
    kind = type(getattr(Config, name))
    try:
        return kind(text)
    except ValueError as exc:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{how} must be {what}, not {text!r}") from exc


def _read_file(path: str) -> dict[str, object]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the settings in {path}: {exc}") from exc
    names = [each.name for each in fields(Config)]
    for name in values:
        if name not in names:
            raise ConfigError(f"{path}: there is no {name!r}; there are {', '.join(names)}")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=NAME, description="A service.", allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="a file of settings, in TOML")
    for each in fields(Config):
        about = f"{each.metadata['about']} ({PREFIX}{each.name.upper()}; {each.default!r})"
        parser.add_argument(_option(each.name), metavar="VALUE", help=about.replace("%", "%%"))
    return parser


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
