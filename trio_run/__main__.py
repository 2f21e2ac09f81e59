"""``python -m trio_run`` runs the skeleton application, ``... new DIR`` writes one like it, and
``... serve MODULE:APP`` serves an ASGI app.
"""

import sys

if sys.argv[1:2] == ["new"]:
    from .skeleton import new

    sys.exit(new.main(sys.argv[2:]))

if sys.argv[1:2] == ["serve"]:
    from . import _serve

    sys.exit(_serve.main(sys.argv[2:]))

from .skeleton.app import main

sys.exit(main())
