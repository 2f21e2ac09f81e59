"""``python -m trio_run.service``: run it."""

import sys

from .app import main

sys.exit(main())
