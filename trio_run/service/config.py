"""config: what can be set, and what is accepted.

``--port`` is SERVICE_PORT in the environment, and ``port = 8000`` in the file that --config names.
The first of these that has it wins. To add a setting, add a line to Config. To do without the file,
delete ``_read_file`` and what calls it, and settings.py.
"""

import argparse
import logging
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

NAME = "service"
PREFIX = "SERVICE_"


class ConfigError(Exception):
    """What a person has to change, in a sentence."""


def _setting(default: Any, about: str) -> Any:
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
        if not 0 <= self.lame_duck < self.grace:  # so is NaN
            raise ConfigError("the grace is more than the lame duck, and that is 0 seconds or more")
        if self.log_level.upper() not in logging.getLevelNamesMapping():
            raise ConfigError(f"there is no log level {self.log_level!r}")


def read_config(arguments: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read all of it.

    Raises:
      ConfigError: if something can't be right, wherever it is set.
    """
    options = vars(_parser().parse_args(arguments))
    path = options.pop("config") or environ.get(f"{PREFIX}CONFIG")
    values = _read_file(path) if path else {}
    for name, given in options.items():
        variable = PREFIX + name.upper()
        if given is not None:
            values[name] = _parse(name, given, _option(name))
        elif variable in environ:
            values[name] = _parse(name, environ[variable], variable)
    return Config(**values)


def misspelled(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that are nearly the name of a setting: a sentence for each."""
    known = ["CONFIG", *(each.name.upper() for each in fields(Config))]
    for variable in environ:
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in known:
            for near in get_close_matches(name, known, n=1):
                yield f"{variable} sets nothing: is it to be {PREFIX}{near}?"


def _read_file(path: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the settings in {path}: {exc}") from exc
    names = [each.name for each in fields(Config)]
    for name in found:
        if name not in names:
            raise ConfigError(f"{path}: there is no {name!r}; there are {', '.join(names)}")
    return {name: _parse(name, str(value), f"{name} in {path}") for name, value in found.items()}


def _parse(name: str, text: str, how: str) -> Any:
    kind = type(getattr(Config, name))
    try:
        return kind(text)
    except ValueError as exc:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{how} must be {what}, not {text!r}") from exc


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=NAME, description="A service.", allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help=f"settings, in TOML [{PREFIX}CONFIG]")
    for each in fields(Config):
        about = f"{each.metadata['about']} [{PREFIX}{each.name.upper()}, default: {each.default}]"
        parser.add_argument(_option(each.name), metavar="VALUE", help=about.replace("%", "%%"))
    return parser


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
