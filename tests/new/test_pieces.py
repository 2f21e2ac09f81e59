"""A piece of the service is deleted as its head says: what is left passes its own tests."""

import sys
from pathlib import Path

import pytest

from .projects import ENVIRONMENT, execute, make, ruff_says

# The files that go, and in which others there is something that names them: what takes its place.
TICKER = (
    ["shop/ticker.py", "tests/test_ticker.py"],
    [
        ("shop/app.py", "from .ticker import tell_counts\n", ""),
        ("shop/app.py", ", every, run\n", ", run\n"),
        (
            "shop/app.py",
            '    group.add(every(60, tell_counts, jobs), name="ticker", needs=[worker])\n',
            "",
        ),
    ],
)
STATUS_PAGE = (
    ["shop/status.py"],
    [
        ("shop/app.py", "from .status import make_status_page\n", ""),
        ("shop/app.py", "    page = make_status_page(config)\n    group.add(page)\n", ""),
        (
            "shop/app.py",
            '        logger.info("the status page is at %s", _url(page.addresses[0]))\n',
            "",
        ),
        (
            "shop/config.py",
            '    status_port: int = _setting(8081, "where the status page is")\n',
            "",
        ),
        ("shop/config.py", "(self.port, self.status_port)", "(self.port,)"),
        ("tests/test_app.py", ", status_port=0", ""),
        ("tests/test_service.py", ', "--status-port", "0"', ""),
        (
            "tests/test_service.py",
            """\
async def test_the_status_page_says_that_it_is_ready() -> None:
    async with open_service() as (service, _), httpx.AsyncClient() as client:
        page = await said_url(service, "the status page is at ")
        assert (await client.get(f"{page}readyz")).status_code == 200


""",
            "",
        ),
    ],
)


@pytest.mark.parametrize(("files", "changes"), [TICKER, STATUS_PAGE], ids=["ticker", "status"])
def test_without_it_all_else_works(
    tmp_path: Path, files: list[str], changes: list[tuple[str, str, str]]
) -> None:
    texts = make(tmp_path)
    for file in files:
        (tmp_path / file).unlink()
    for path, old, new in changes:
        assert old in texts[path]
        texts[path] = texts[path].replace(old, new)
        (tmp_path / path).write_text(texts[path])
    assert ruff_says(tmp_path) == ""
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    said = execute(*pytest_, cwd=tmp_path, env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)})
    assert " passed" in said
