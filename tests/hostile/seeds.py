"""How much of the hostile tests is run: a little by default, very much with TEST_HOSTILE=all."""

import datetime
import os

IS_ALL = os.environ.get("TEST_HOSTILE") == "all"
_EXAMPLES = os.environ.get("TRIO_RUN_EXAMPLES")


def seeds(usual: int, many: int) -> range:
    """The seeds of a test: others each day; TRIO_RUN_EXAMPLES says how many.

    TEST_SEED has it begin with another one, as to run one again that has failed.
    """
    number = int(_EXAMPLES) if _EXAMPLES else many if IS_ALL else usual
    first = int(os.environ.get("TEST_SEED", datetime.date.today().toordinal() * 1_000_000))
    return range(first, first + number)
