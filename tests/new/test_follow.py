"""A new user, with an empty environment, who does word for word what the new project says: once
with a wheel of trio-run, once with a checkout. Only the ports are others.

This takes pip to where packages come from. No other test does that.
"""

import os
import re
import shlex
import signal
from pathlib import Path

import pytest
import trio

from trio_run._new._names import check_name
from trio_run._new._refused import Refused
from trio_run.testing import open_program

from .. import TIMEOUT
from ..ports import free_port
from .projects import execute

PORT, STATUS_PORT = free_port(), free_port()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nothing but a home, and how pip gets to packages on this machine."""
    home = tmp_path / "home"
    home.mkdir()
    network = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    ports = {"SHOP_PORT": str(PORT), "SHOP_STATUS_PORT": str(STATUS_PORT)}
    return {"PATH": os.environ["PATH"], "HOME": str(home), **network, **ports}


class User:
    """Who follows what the project says."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = environment
        self.project = directory / "shop"

    def run(self, commands: str, cwd: Path | None = None) -> str:
        """The commands of a block, one after the other."""
        bash = ["bash", "-euc", commands]
        return execute(*bash, cwd=cwd or self.project, env=self.environment)

    def get_trio_run(self, what: str) -> None:
        self.run(
            f"python3 -m venv first; first/bin/pip install -q {what}\n"
            "first/bin/python -m trio_run new shop",
            cwd=self.directory,
        )

    def blocks(self, title: str) -> list[str]:
        """The commands of a section of the README."""
        readme = (self.project / "README.md").read_text()
        (section,) = re.findall(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", readme)
        text = section.replace("127.0.0.1:8000", f"127.0.0.1:{PORT}")
        return re.findall(r"(?ms)^```sh\n(.*?)^```$", text)


async def follow_run(user: User) -> None:
    run, ask = user.blocks("Run")
    *install, program = run.splitlines()
    user.run("\n".join(install))
    async with open_program(
        ["bash", "-c", f"exec {program}"], env=user.environment, cwd=user.project
    ) as shop:
        await shop.line_with("the service is at ")
        said = await trio.to_thread.run_sync(user.run, ask)
        assert '{"job":1}' in said
        assert '"greeting":"Hello!"' in said
        shop.signal(signal.SIGINT)
        assert await shop.exit_code() == 0
    assert "0 waiting, 1 done" in shop.report


async def follow_set(user: User) -> None:
    """One shell, in which each block waits until the one before has had its effect."""
    start, reload, stop = user.blocks("Set")
    go_on = user.project / "go-on"
    os.mkfifo(go_on)
    script = f"{start}\ncat go-on\n{reload}\ncat go-on\n{stop}\nwait $!"
    async with open_program(
        ["bash", "-c", script], env=user.environment, cwd=user.project
    ) as shell:
        await shell.line_with("the service is at ")
        await open_fifo(go_on)
        await shell.line_with("read the settings again")
        said = await trio.to_thread.run_sync(user.run, f"curl -s http://127.0.0.1:{PORT}/")
        assert '"greeting":"Good evening!"' in said
        await open_fifo(go_on)
        assert await shell.exit_code() == 0
    assert "shop stopped in " in shell.report
    go_on.unlink()


async def open_fifo(path: Path) -> None:
    with trio.fail_after(TIMEOUT):
        await trio.to_thread.run_sync(path.write_text, "", abandon_on_cancel=True)


def follow_test(user: User) -> None:
    (test,) = user.blocks("Test")
    said = user.run(test)
    assert re.search(r"\d+ passed", said)
    assert "skipped" not in said


def build_image(user: User) -> Path:
    """What docker would do: the directory of the program in the image."""
    image = user.directory / "image"
    source = image / "src"
    source.mkdir(parents=True)
    ignored = (user.project / ".dockerignore").read_text().splitlines()
    first_stage = (user.project / "Dockerfile").read_text().partition("\n\nFROM")[0]
    for line in first_stage.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "COPY":
            *sources, _ = rest.split()
            for each in sources:
                assert f"!{each}" in ignored or f"!{each}/" in ignored
                execute("cp", "-r", user.project / each, source, cwd=image)
        elif instruction == "RUN":
            user.run(rest.replace("/opt/", f"{image}/opt/").replace("python ", "python3 "), source)
    return image / "opt" / "shop"


async def starts(program: Path, user: User) -> None:
    async with open_program([str(program)], env=user.environment, cwd=user.directory) as shop:
        await shop.line_with("the service is at ")
        shop.signal(signal.SIGTERM)
        assert await shop.exit_code() == 0


def allowed(user: User) -> set[str]:
    """What the project's environment has, and a project could be called."""
    environment = user.project / ".venv"
    (packages,) = environment.glob("lib/python*/site-packages")
    names = {path.stem for path in packages.glob("*.py")}
    names |= {path.parent.name for path in packages.glob("*/__init__.py")}
    names |= {path.name for path in (environment / "bin").iterdir()}
    return {name for name in names if not is_refused(name)}


def is_refused(name: str) -> bool:
    try:
        check_name(name)
    except Refused:
        return True
    return False


async def test_with_a_wheel(tmp_path: Path, environment: dict[str, str], wheel: Path) -> None:
    user = User(tmp_path, environment)
    user.get_trio_run(shlex.quote(str(wheel)))
    await follow_run(user)
    await follow_set(user)
    follow_test(user)
    assert allowed(user) == {"shop"}


async def test_with_a_checkout(tmp_path: Path, environment: dict[str, str], checkout: Path) -> None:
    user = User(tmp_path, environment)
    user.get_trio_run(f"-e {shlex.quote(str(checkout))}")
    await follow_run(user)
    follow_test(user)
    user.run(user.blocks("Deploy")[0])
    assert [path.suffix for path in (user.project / "wheels").iterdir()] == [".whl"]
    await starts(build_image(user) / "bin" / "shop", user)
