import signal
import sys
from pathlib import Path

from trio_run.testing import open_program

SHOP = Path(__file__).with_name("background.py")


async def test_a_signal_stops_it():
    async with open_program([sys.executable, SHOP]) as shop:
        await shop.line_with("shop: ready")
        shop.signal(signal.SIGTERM)
        assert await shop.exit_code() == 0
    assert "shop stopped in " in shop.report
