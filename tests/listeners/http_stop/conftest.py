"""The fixtures of the tests of HTTP at a stop."""

import ssl
from pathlib import Path

import pytest

from .helpers import Where


@pytest.fixture(params=["tcp", "tls", "unix", "sockets"])
def where(
    request: pytest.FixtureRequest,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    tmp_path: Path,
) -> Where:
    return Where(request.param, contexts, tmp_path / "socket")


@pytest.fixture
def tcp(contexts: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path) -> Where:
    return Where("tcp", contexts, tmp_path)


@pytest.fixture
def tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path) -> Where:
    return Where("tls", contexts, tmp_path)


@pytest.fixture(
    params=["the grace ends", "a second stop", "a second signal", "grace 0", "from outside"]
)
def cut(request: pytest.FixtureRequest) -> str:
    return request.param
