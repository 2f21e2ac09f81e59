"""run(): rules 21 and 22, in real processes."""

import signal

from .process import open_program


async def test_rule_22_stopped_as_asked_is_0() -> None:
    source = """
        import sys, trio
        from trio_run import run
        sys.exit(run(trio.sleep_forever))
    """
    async with open_program(source=source) as program:
        await program.line_with("ready")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0
        assert "SIGTERM received (exit code 0)" in program.output
