"""app: what the program is made of, and in what order it starts and stops.

This one stays. Who needs another one starts after it, and stops before it: the door stops taking
jobs and answers what it has; then the worker does the jobs that wait. The status page is a daemon:
it answers before all the others are there, and until they have gone. To add an actor, add it to the
group.
"""

import logging
import os
import signal
import sys
from typing import Any

from trio_run import CannotStart, Group, Restarting, SignalReceiver, every, run

from .config import NAME, ConfigError, misspelled, read_config
from .jobs import Jobs
from .log import set_up_logging
from .settings import Settings
from .status import make_status_page
from .ticker import tell_counts
from .web import make_app, make_door

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the service as this process; its exit code is returned."""
    try:
        settings = Settings(lambda: read_config(sys.argv[1:], os.environ))
        set_up_logging(settings.now.log_level)
        for sentence in misspelled(os.environ):
            logger.warning(sentence)
        group = make_group(settings)
    except (ConfigError, CannotStart) as exc:
        print(f"{NAME}: {exc}", file=sys.stderr)
        return 2
    return run(group, signals=())  # it has a receiver of its own, which knows SIGHUP too


def make_group(settings: Settings) -> Group:
    """Who runs, and who needs whom.

    Raises:
      CannotStart: if the sockets that we are handed are none.
    """
    config = settings.now
    group = Group(name=NAME, grace=config.grace, lame_duck=config.lame_duck)
    handlers = {signal.SIGHUP: settings.reload} if hasattr(signal, "SIGHUP") else {}
    group.add(SignalReceiver(handlers=handlers))
    page = make_status_page(config)
    group.add(page)
    jobs = Jobs()
    group.on_event(jobs.tell_lost)
    # When the grace is over all are cut, the status page too. A worker that hangs is cut before, so
    # that the page still shows it: the last tenth is for that.
    without_last_tenth = 0.9 * (config.grace - config.lame_duck)
    worker = group.add(Restarting(lambda: jobs, name="jobs"), grace=without_last_tenth)
    group.add(every(60, tell_counts, jobs), name="ticker", needs=[worker])
    door = make_door(make_app(settings, jobs), config)
    serving = group.add(door, needs=[worker])

    async def tell_where() -> None:
        logger.info("the status page is at %s", _url(page.addresses[0]))
        logger.info("the service is at %s", _url(door.addresses[0]))

    group.add(tell_where, needs=[serving], on_return="ignore")
    return group


def _url(address: Any) -> str:
    if not isinstance(address, tuple):
        return f"the socket {address}"
    host, port = address[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
