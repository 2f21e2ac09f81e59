"""``python -m trio_run new DIR``: what it is given, and what it says."""

from pathlib import Path

import pytest

from trio_run._new import _command
from trio_run._new._origin import Origin
from trio_run.testing import open_program

from .projects import NEW, TREE, written


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The sentence with which it refuses."""
    assert _command.main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_it_is_called_as_its_directory_is_and_what_was_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "my_shop"
    directory.mkdir()
    monkeypatch.chdir(directory)
    assert _command.main(["."]) == 0
    first, *said = capsys.readouterr().out.splitlines()
    assert first == "my_shop is in .:"
    go_on = said.index("Go on with:")
    assert said[:go_on] == [f"  {path}" for path in sorted(written(directory), key=Path)]
    assert said[go_on + 1 :] == [
        "  cd .",
        "  python3 -m venv .venv",
        f"  .venv/bin/pip install -e {TREE} -e '.[test]'",
        "  .venv/bin/pytest && .venv/bin/my_shop",
    ]


def test_a_dash_of_its_directory_is_an_underscore_of_its_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command.main([str(tmp_path / "my-shop")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"my_shop is in {tmp_path}/my-shop:\n")
    assert "\n  .venv/bin/pytest && .venv/bin/my_shop\n" in said


def test_from_an_index_its_install_needs_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_command, "find_origin", lambda: Origin("1.2"))
    assert _command.main([str(tmp_path / "the shop"), "--name", "shop"]) == 0
    said = capsys.readouterr().out
    assert f"\n  cd '{tmp_path}/the shop'\n" in said
    assert "\n  .venv/bin/pip install -e '.[test]'\n" in said
    assert "no longer there" not in said


def test_what_it_was_installed_from_may_be_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_command, "find_origin", lambda: Origin("1.2", gone="/a.whl"))
    assert _command.main([str(tmp_path / "shop")]) == 0
    assert "trio-run was installed from /a.whl, which is no longer there: " in (
        capsys.readouterr().out
    )


def test_a_name_that_will_not_do_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "; try --name app_python\n" in refusal(capsys, tmp_path / "new" / "python")
    assert "; try --name my_service\n" in refusal(capsys, tmp_path / "new", "--name", "")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "a\0b").startswith("'a\\x00b' is no path for a project: ")


async def test_without_a_directory_it_is_a_usage_error() -> None:
    async with open_program(NEW) as program:
        assert await program.exit_code() == 2
    assert "usage: python -m trio_run new" in program.output


async def test_it_is_run_as_a_program(tmp_path: Path) -> None:
    async with open_program([*NEW, str(tmp_path / "shop")]) as program:
        assert await program.exit_code() == 0
    assert program.output.startswith(f"shop is in {tmp_path}/shop:\n")
    async with open_program([*NEW, str(tmp_path / "shop")]) as program:
        assert await program.exit_code() == 2
    assert program.output == (
        f"{tmp_path}/shop is not empty; choose a directory that is, or a new one\n"
    )
