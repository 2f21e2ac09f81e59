"""Where trio-run came from, and what a project then needs."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import trio_run
from trio_run._new import _origin
from trio_run._new._origin import Origin, find_origin
from trio_run._new._refused import Refused

TREE = Path(trio_run.__file__).parent.parent


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for packages that has a trio-run 1.2, and it is that which runs."""
    packages = tmp_path / "the packages"
    noted = packages / "trio_run-1.2.dist-info"
    noted.mkdir(parents=True)
    (noted / "METADATA").write_text("Metadata-Version: 2.1\nName: trio-run\nVersion: 1.2\n")
    (packages / "trio_run").mkdir()
    monkeypatch.setattr(_origin.trio_run, "__file__", str(packages / "trio_run" / "__init__.py"))
    look = metadata.distributions

    def distributions(name: str) -> Any:
        return look(name=name, path=[str(packages)])

    monkeypatch.setattr(metadata, "distributions", distributions)
    return packages


def note(packages: Path, text: str) -> None:
    (packages / "trio_run-1.2.dist-info" / "direct_url.json").write_text(text)


def test_an_index_is_the_plain_requirement(packages: Path) -> None:
    assert find_origin() == Origin("1.2")
    assert find_origin().requirement("http") == "trio-run[http]>=1.2"


@pytest.mark.parametrize(
    ("noted", "requirement"),
    [
        (
            {
                "url": "https://example.org/trio-run.git",
                "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "abc"},
            },
            "trio-run[http] @ git+https://example.org/trio-run.git@abc",
        ),
        (
            {
                "url": "ssh://git@example.org/all",
                "vcs_info": {"vcs": "git", "commit_id": "abc"},
                "subdirectory": "trio-run",
            },
            "trio-run[http] @ git+ssh://git@example.org/all@abc#subdirectory=trio-run",
        ),
        (
            {"url": "https://example.org/trio_run-1.2-py3-none-any.whl", "archive_info": {}},
            "trio-run[http] @ https://example.org/trio_run-1.2-py3-none-any.whl",
        ),
    ],
)
def test_what_anybody_can_get_is_the_requirement(
    packages: Path, noted: dict[str, object], requirement: str
) -> None:
    note(packages, json.dumps(noted))
    origin = find_origin()
    assert origin.local is None
    assert origin.requirement("http") == requirement


@pytest.mark.parametrize("kind", ["dir_info", "archive_info"])
def test_what_is_on_this_machine_alone_is_for_the_command(
    packages: Path, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "a checkout, or a wheel"
    place.touch()
    note(packages, json.dumps({"url": place.as_uri(), kind: {}}))
    assert find_origin() == Origin("1.2", local=f"'trio-run @ {place.as_uri()}'")
    assert find_origin().requirement("http") == "trio-run[http]==1.2"


def test_a_repository_on_this_machine_is_so_too(packages: Path, tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    note(packages, json.dumps({"url": url, "vcs_info": {"vcs": "git", "commit_id": "abc"}}))
    assert find_origin().local == f"git+{url}@abc"


def test_what_is_no_longer_there_is_said(packages: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    note(packages, json.dumps({"url": gone.as_uri(), "dir_info": {}}))
    assert find_origin() == Origin("1.2", gone=str(gone))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"url": 7}',
        '{"url": "https://[", "archive_info": {}}',
        '{"url": "https://example.org/", "vcs_info": {"vcs": "git"}}',
        '{"url": "https://example.org/\\"", "archive_info": {}}',
    ],
)
def test_what_cannot_be_understood_is_an_index(packages: Path, text: str) -> None:
    note(packages, text)
    assert find_origin() == Origin("1.2")


def test_an_installation_of_another_is_none_of_ours(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(packages, json.dumps({"url": "https://example.org/x.whl", "archive_info": {}}))
    elsewhere = tmp_path / "elsewhere" / "trio_run" / "__init__.py"
    monkeypatch.setattr(_origin.trio_run, "__file__", str(elsewhere))
    assert find_origin() == Origin("1.2")


def test_without_an_installation_it_is_refused(packages: Path) -> None:
    for file in (packages / "trio_run-1.2.dist-info").iterdir():
        file.unlink()
    (packages / "trio_run-1.2.dist-info").rmdir()
    with pytest.raises(Refused) as caught:
        find_origin()
    assert str(caught.value) == (
        f"the trio-run in {packages}/trio_run is not installed, so a project can't say which it "
        f"needs; install it: pip install -e '{packages}'"
    )


def test_a_checkout_that_runs_where_it_is_is_installed_editable() -> None:
    assert find_origin().local == f"-e {TREE}"
