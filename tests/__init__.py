"""The tests of trio_run. They mirror the package."""

TIMEOUT = 60  # seconds: a bound for a test that hangs, not a measure
