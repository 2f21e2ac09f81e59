"""``python -m trio_run``: run the skeleton application."""

import sys

from .skeleton.app import main

sys.exit(main())
