"""The files on the disk: all of them, or none."""

import errno
import io
from pathlib import Path
from typing import Any

import pytest

from trio_run._new._refused import Refused
from trio_run._new._write import write

from .projects import written

PROJECT = {Path("README.md"): "read", Path("shop", "app.py"): "run", Path("shop", "a.py"): "a"}
AS_WRITTEN = {str(path): text for path, text in PROJECT.items()}


def refusal(directory: Path) -> str:
    with pytest.raises(Refused) as caught:
        write(directory, PROJECT)
    return str(caught.value)


def test_a_directory_and_its_parents_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", PROJECT)
    assert written(tmp_path / "a" / "b") == AS_WRITTEN


def test_a_directory_that_is_empty_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(), PROJECT)
    assert written(tmp_path) == AS_WRITTEN


def test_one_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("mine")
    assert refusal(tmp_path) == (
        f"{tmp_path} is not empty; choose a directory that is, or a new one"
    )
    assert written(tmp_path) == {".hidden": "mine"}


@pytest.mark.parametrize("below", [(), ("shop",), ("a", "b")])
def test_a_file_is_left_alone(tmp_path: Path, below: tuple[str, ...]) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert refusal(file.joinpath(*below)) == (f"{file} is not a directory; choose another place")
    assert written(tmp_path) == {"file": "mine"}


def test_a_link_to_nowhere_is_left_alone(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    assert refusal(link) == f"{link} is not a directory; choose another place"
    assert list(tmp_path.iterdir()) == [link]


@pytest.mark.parametrize(
    ("name", "why"), [("a\0b", "embedded null byte"), ("a" * 300, "File name too long")]
)
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, name: str, why: str) -> None:
    directory = tmp_path / "new" / name
    assert refusal(directory) == f"cannot make {directory}: {why}; choose another place"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert refusal(tmp_path / "shop") == (
        f"cannot make {tmp_path}/shop: Permission denied; choose another place"
    )


class Full(io.StringIO):
    """A file on a disk that is full: what is written to it is in a buffer, until it is closed."""

    def close(self) -> None:
        super().close()
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("is_there", [False, True])
def test_of_a_disk_that_is_full_half_way_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    opened = Path.open

    def open_(path: Path, *args: Any, **kwargs: Any) -> Any:
        file = opened(path, *args, **kwargs)
        if path.name != "a.py":
            return file
        file.close()
        return Full()

    directory = tmp_path / "new" / "shop"
    if is_there:
        directory.mkdir(parents=True)
    monkeypatch.setattr(Path, "open", open_)
    assert refusal(directory) == (
        f"cannot write {directory}/shop/a.py: No space left on device; nothing is left of it"
    )
    assert list(tmp_path.rglob("*")) == ([directory.parent, directory] if is_there else [])


def test_what_somebody_else_has_put_there_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def open_(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "a.py":
            (path.parent / "theirs").touch()
            raise KeyboardInterrupt
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "shop", PROJECT)
    assert "shop/theirs" in written(tmp_path / "shop")
