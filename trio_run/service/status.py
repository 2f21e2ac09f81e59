"""status: how the program is, at a port of its own, which answers to the very end of a stop.

/livez and /readyz are for probes, /metrics is for Prometheus, and / is for you. To delete it,
delete this file, its test in test_service.py, its port in config.py and what names these in app.py
and in tests; whoever probes needs another way then.
"""

from trio_run import StatusPage

from .config import Config


def make_status_page(config: Config) -> StatusPage:
    """As open as the door's own port. It knows no password; but nothing can be changed there."""
    return StatusPage(config.status_port, host=config.host, name="status")
