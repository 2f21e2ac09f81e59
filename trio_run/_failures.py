"""Failures: what failed in a group, the stop that it brings about, and what is raised in the end.

What an exception is at all (an exit, a failure, both) is decided in _errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._actor import Cause
from ._errors import GroupFailed, add_note, exits_in, failure_in, one_line

if TYPE_CHECKING:
    from ._journal import Journal
    from ._member import Life
    from ._report import Report
    from ._requests import Requests


class Failures:
    """The failures and exits of one group, in the order in which they came: the cause's first."""

    def __init__(self, name: str, requests: Requests, journal: Journal) -> None:
        self._name = name
        self._requests = requests
        self._journal = journal
        self._failures: list[Exception] = []  # those that count
        self._own: BaseException | None = None  # what logging has raised
        self._exits: list[BaseException] = []  # KeyboardInterrupt, SystemExit and the like, bare

    def __bool__(self) -> bool:
        return bool(self._failures or self._exits or self._own is not None)

    def add(self, life: Life, error: BaseException) -> None:
        """A life has failed with this: keep it, and request a stop."""
        if error is life.error:
            return  # its execute and its interrupt raised the same
        add_note(error, f"in actor {life.name!r} of group {self._name!r}")
        if life.error is None:
            life.error = error
        reason = f"{life.name!r} failed: {one_line(error)}"
        cause = Cause(actor=life.name, error=error, reason=reason)
        for leaf in exits_in(error):
            self.add_exit(leaf, cause)
        failure = failure_in(error)
        if failure is None:
            return
        ignored = life.spec.on_error == "ignore"
        stopping = self._requests.stop.cause is not None
        if not ignored:
            self._failures.append(failure)
        self._journal.failed(life, failure, ignored=ignored, stopping=stopping)
        if not ignored:
            self._requests.request_and_log(cause)

    def add_own(self, error: BaseException) -> None:
        """Logging has raised this. The first of such is kept, beside what else fails."""
        if self._own is not None:
            return
        self._own = error
        add_note(error, f"in the logging of group {self._name!r}")
        for leaf in exits_in(error):
            self.add_exit(leaf, Cause(error=error, reason=f"logging raised {one_line(error)}"))

    def add_exit(self, error: BaseException, cause: Cause) -> None:
        """KeyboardInterrupt or the like stops gracefully; a second KeyboardInterrupt, hard."""
        if self._exits and isinstance(error, KeyboardInterrupt):
            self._requests.force(cause, "forced by a second KeyboardInterrupt")
        else:
            self._requests.request_and_log(cause)
        self._exits.append(error)

    def throw(self, report: Report) -> None:
        """Raise what there is.

        Raises:
          GroupFailed: if there is a failure.
          BaseException: the first exit, if there is one; failures beside it are its cause.
        """
        failures = self._failures.copy()
        if self._own is not None and (own := failure_in(self._own)) is not None:
            failures.append(own)
        failed: GroupFailed | None = None
        if failures:
            count = "an actor failed" if len(failures) == 1 else f"{len(failures)} failures"
            failed = GroupFailed(f"group {self._name!r}: {count}", failures, report)
        if self._exits and failed is not None:
            raise self._exits[0] from failed
        if self._exits:
            raise self._exits[0]
        if failed is not None:
            raise failed
