"""status: how the program is, at a port of its own, which answers to the very end of a stop.

/livez and /readyz are for probes, /metrics is for Prometheus, and / is for you. To delete it,
delete this file and what names it in app.py; whoever probes needs another way then.
"""

from trio_run import StatusPage

from .config import Config


def make_status_page(config: Config) -> StatusPage:
    """As open as the door is. It knows no password; but nothing can be changed there."""
    return StatusPage(config.status_port, host=config.host, name="status")
