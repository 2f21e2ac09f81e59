"""What happens every minute."""

import pytest

from ..jobs import Jobs
from ..ticker import tell_counts


def test_it_logs_how_many_jobs_there_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    jobs = Jobs()
    jobs.add(1)
    tell_counts(jobs)
    assert "jobs: 1 waiting, 0 done" in caplog.text
