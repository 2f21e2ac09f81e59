"""Projects for the tests: written by this tree, by a wheel of it, and what others say of them."""

import os
import subprocess
import sys
from pathlib import Path

import trio_run
from trio_run._new import _command

from ..programs import find

TREE = Path(trio_run.__file__).parent.parent
NEW = [sys.executable, "-m", "trio_run", "new"]

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in {"PYTHONPATH", "COVERAGE_PROCESS_CONFIG"}  # this tree, and its coverage
}


def written(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


def make(directory: Path, *options: str, name: str = "shop") -> dict[str, str]:
    """Write a project; its files."""
    assert _command.main([str(directory), "--name", name, *options]) == 0
    return written(directory)


def execute(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run it, to a good end; what it says is returned."""
    code, said = attempt(*command, cwd=cwd, env=env)
    assert code == 0, said
    return said


def attempt(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run it; its exit code, and what it says."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=ENVIRONMENT if env is None else env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


# What others say of a project's files: nothing, if they are right.


def ruff_says(directory: Path) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    checked = attempt(*ruff, "check", "-q", "--no-cache", ".", cwd=directory)
    formatted = attempt(*ruff, "format", "-q", "--no-cache", "--check", ".", cwd=directory)
    return checked[1] + formatted[1]


def hadolint_says(directory: Path) -> str:
    return attempt(find("hadolint"), "Dockerfile", cwd=directory)[1]


def kubernetes_says(directory: Path) -> str:
    validate = find("kubernetes-validate")
    return attempt(validate, "--strict", "--quiet", "kubernetes.yaml", cwd=directory)[1]


def systemd_says(directory: Path, name: str) -> str:
    """Of its units, where the program that they start is there."""
    said = ""
    for kind in ("service", "socket"):
        unit = directory / f"{name}.{kind}"
        if unit.exists():
            text = unit.read_text().replace(f"/opt/{name}/bin/{name}", sys.executable)
            unit.write_text(text)
            said += attempt(find("systemd-analyze"), "verify", unit, cwd=directory)[1]
    return said
