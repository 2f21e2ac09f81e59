"""What the tests of whole projects share: a wheel of this tree, made once."""

import shutil
import sys
from pathlib import Path

import pytest

from .projects import TREE, execute

PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree: a build leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout") / "trio run"  # a path that has to be quoted
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TREE / "trio_run", copy / "trio_run", ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / file, copy)
    return copy


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """A wheel of this tree."""
    directory = tmp_path_factory.mktemp("wheel")
    execute(*PIP, "wheel", "--no-deps", "-w", directory, checkout, cwd=directory)
    (wheel,) = directory.glob("*.whl")
    return wheel
