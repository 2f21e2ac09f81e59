"""Config: what can be set, on the command line or in the environment, and what is accepted.

Decides each setting's name, default and check. ``--web-port`` is COLLECTOR_WEB_PORT in the
environment; the command line wins. All is checked here, before anything starts, and what is wrong
is told in one sentence with its cure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .limits import BASE_MB, CLIENT_MB, MOST_AT_A_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PREFIX = "COLLECTOR_"

_LONGEST_PATH = 107  # bytes that the kernel takes for a Unix socket


class ConfigError(Exception):
    """What a person has to change, in one sentence."""


# How a setting is read from a text. What can't be right is a ValueError that says what it must be.


def _host(text: str) -> str:
    if not text:
        raise ValueError("an address or a name")
    return text


def _path(text: str) -> Path:
    if not text:
        raise ValueError("a path")
    return Path(text)


def _socket_path(text: str) -> Path:
    if len(os.fsencode(text)) > _LONGEST_PATH:
        raise ValueError(f"a path of at most {_LONGEST_PATH} bytes")
    return _path(text)


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text) < 65536:
            return int(text)
    raise ValueError("a whole number from 0 to 65535")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise ValueError("a whole number from 1 on")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) >= 0:  # NaN is not
            return float(text)
    raise ValueError("a number of seconds, 0 or more")


def _days(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise ValueError("a number of days greater than 0, or inf to keep all")


def _megabytes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise ValueError("a number of megabytes greater than 0, or inf for no limit")


def _timeout(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise ValueError("a number of seconds greater than 0, or inf for no limit")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(re.fullmatch(r"[A-Za-z0-9._:-]+", name) for name in names):
        raise ValueError("names of hosts, with commas between them")
    return names


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "yes", "true", "on", "0", "no", "false", "off"):
        raise ValueError("yes or no")
    return text.lower() in ("1", "yes", "true", "on")


@dataclass(frozen=True)
class Config:
    """The settings of one run: :data:`SETTINGS` tells each."""

    host: str = "127.0.0.1"
    port: int = 7000
    tls_port: int = 7001
    cert: Path | None = None
    key: Path | None = None
    udp_port: int = 7000
    unix: Path | None = None
    web_port: int = 8000
    tail_port: int = 8001
    health_port: int = 8081
    names: tuple[str, ...] = ()
    dir: Path = Path("trio-run-data")
    log_file: Path | None = None
    retention: float = 7.0
    max_size: float = 10_000.0
    grace: float = 30.0
    lame_duck: float = 0.0
    max_connections: int | None = None
    idle_timeout: float = 600.0
    verbose: bool = False

    def tls_context(self) -> ssl.SSLContext | None:
        """For the TLS port; None without a certificate.

        Raises:
          ConfigError: if the files are not what they should be.
        """
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            # With a password, if only an empty one, OpenSSL does not stop to ask for it.
            context.load_cert_chain(self.cert, self.key, password="")
        except OSError as exc:
            files = self.cert if self.key is None else f"{self.cert} and {self.key}"
            raise ConfigError(
                f"{name_of('cert')} and {name_of('key')} must be a certificate and its private "
                f"key, in PEM and "
                f"without a password; {files}: {exc.strerror or exc}"
            ) from exc
        return context


# How each is read, what stands for it in the help, and what that says.
SETTINGS: dict[str, tuple[Callable[[str], object], str, str]] = {
    "host": (_host, "HOST", "the address or name to listen on"),
    "port": (_port, "PORT", "where lines come over TCP; any port may be 0, and then is a free one"),
    "tls_port": (_port, "PORT", "where lines come over TLS, given a --cert"),
    "cert": (_path, "FILE", "the certificate with its chain, in PEM"),
    "key": (_path, "FILE", "its private key, if that is in another file"),
    "udp_port": (_port, "PORT", "where lines come over UDP, unanswered"),
    "unix": (_socket_path, "PATH", "a Unix socket where lines come too"),
    "web_port": (_port, "PORT", "where the web page is"),
    "tail_port": (_port, "PORT", "where the live tail is, over WebSocket"),
    "health_port": (
        _port,
        "PORT",
        "where /livez, /readyz and /metrics are, and a page that shows how it is",
    ),
    "names": (
        _names,
        "HOST,...",
        "by what names we may be asked over HTTP, beside localhost and our addresses",
    ),
    "dir": (_path, "DIR", "where the database is, lines.db; made if there is none"),
    "log_file": (_path, "FILE", "log to this file, not to stderr; SIGHUP reopens it"),
    "retention": (
        _days,
        "DAYS",
        "delete lines that are older; only the time in which it runs counts; inf keeps all",
    ),
    "max_size": (
        _megabytes,
        "MB",
        "how large the database may become; then lines are refused; inf for no limit",
    ),
    "grace": (_seconds, "SECONDS", "how long a stop may take; what still runs then is cut"),
    "lame_duck": (
        _seconds,
        "SECONDS",
        "how long to go on serving once asked to stop; part of the grace",
    ),
    "max_connections": (
        _count,
        "N",
        (
            "how many clients to serve at once at a port; more wait their turn; "
            f"{MOST_AT_A_PORT} if not set, or fewer if there are not descriptors enough. "
            f"It takes at most {BASE_MB} MB of memory, and {CLIENT_MB} MB for each client"
        ),
    ),
    "idle_timeout": (
        _timeout,
        "SECONDS",
        "how long a client may take for a line, or to read its answers; inf for no limit",
    ),
    "verbose": (_switch, "", "log details as well"),
}


def name_of(setting: str) -> str:
    """What a person knows it by."""
    return f"{_option(setting)} ({_variable(setting)})"


def _option(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def _variable(setting: str) -> str:
    return PREFIX + setting.upper()


def read_config(prog: str, arguments: Sequence[str] | None, environ: Mapping[str, str]) -> Config:
    """Read the settings, and check them. A variable that is empty counts as not set.

    Raises:
      ConfigError: if something is not as it must be.
      SystemExit: from argparse, after ``--help`` and at an option that there is not.
    """
    given = {name: (text, "") for name, text in _command_line(prog, arguments).items()}
    values: dict[str, Any] = {}
    for name, (read, _, _) in SETTINGS.items():
        variable = _variable(name)
        if text := environ.get(variable):
            given.setdefault(name, (text, f" (from {variable})"))
        if name in given:
            text, where = given[name]
            try:
                values[name] = read(text)
            except ValueError as exc:
                raise ConfigError(f"{name_of(name)} must be {exc}, not {text!r}{where}") from None
    config = Config(**values)
    _check(config, given=set(values))
    return config


def _check(config: Config, given: set[str]) -> None:
    """What fits together."""
    if config.cert is None:
        for setting in ("key", "tls_port"):
            if setting in given:
                raise ConfigError(
                    f"{name_of(setting)} is of no use without {name_of('cert')}: give both"
                )
    if config.lame_duck and config.lame_duck >= config.grace:
        raise ConfigError(
            f"{name_of('lame_duck')} is a part of {name_of('grace')}, and must be shorter: "
            f"{config.lame_duck:g} s leave nothing of {config.grace:g} s"
        )
    taken: dict[int, str] = {0: ""}
    ports = ["port", "web_port", "tail_port", "health_port"]
    for setting in (*ports, *(["tls_port"] if config.cert else [])):
        port = getattr(config, setting)
        if taken.setdefault(port, setting) != setting and port:
            raise ConfigError(
                f"{name_of(taken[port])} and {name_of(setting)} are both {port}: choose another "
                f"for one of them"
            )


def _command_line(prog: str, arguments: Sequence[str] | None) -> dict[str, str]:
    """The settings that are given there, as texts."""
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description="A small log collector: stores each line that it gets in SQLite, and then "
        "answers it with "
        "'ok <id>'. A web page shows them. Ctrl-C stops it gracefully.",
        epilog="Each can be set in the environment too, by the name in brackets; the command "
        "line wins.",
    )
    for name, (read, metavar, told) in SETTINGS.items():
        default = getattr(Config, name)
        known = "" if default in (None, ()) or read is _switch else f", default: {default}"
        told = f"{told} [{_variable(name)}{known}]"
        if read is _switch:
            parser.add_argument(_option(name), action="store_const", const="yes", help=told)
        else:
            parser.add_argument(_option(name), metavar=metavar, help=told)
    options = vars(parser.parse_args(arguments))
    return {name: text for name, text in options.items() if text is not None}
