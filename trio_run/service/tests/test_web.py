"""A handler, tested without a server: httpx calls the app."""

from collections.abc import AsyncIterator

import httpx
import pytest

from ..config import Config
from ..jobs import MOST_WAITING, Jobs
from ..settings import Settings
from ..web import MOST_BYTES, make_app


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
async def client(jobs: Jobs) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(Settings(lambda: Config(greeting="Hi!")), jobs)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_the_first_page_greets_and_counts(client: httpx.AsyncClient, jobs: Jobs) -> None:
    jobs.add(1)
    answer = await client.get("/")
    assert answer.json() == {"greeting": "Hi!", "waiting": 1, "done": 0}


async def test_a_job_is_taken(client: httpx.AsyncClient, jobs: Jobs) -> None:
    answer = await client.post("/jobs", content="2.5")
    assert (answer.status_code, answer.json()) == (202, {"job": 1})
    assert jobs.waiting == 1


@pytest.mark.parametrize("body", ["", "x", "-1", "11", "nan"])
async def test_what_is_no_job_is_refused(client: httpx.AsyncClient, jobs: Jobs, body: str) -> None:
    answer = await client.post("/jobs", content=body)
    assert answer.status_code == 400
    assert "a number of seconds" in answer.json()["error"]
    assert jobs.waiting == 0


async def test_too_many_jobs_are_refused(client: httpx.AsyncClient, jobs: Jobs) -> None:
    for _ in range(MOST_WAITING):
        jobs.add(1)
    answer = await client.post("/jobs", content="1")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")


async def test_a_body_that_is_too_long_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/jobs", content=b"1" * (MOST_BYTES + 1))
    assert answer.status_code == 413
