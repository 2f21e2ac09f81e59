"""Random clients against every listener, with stops at random moments: what the server began is
compared with what its clients got.
"""

from functools import partial

import pytest

from .rounds import KINDS, Contexts, play, play_all
from .seeds import seeds


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_that_was_begun_is_answered_whole(kind: str, contexts: Contexts) -> None:
    play_all(seeds(50, 4000), contexts, partial(play, KINDS[kind]))
