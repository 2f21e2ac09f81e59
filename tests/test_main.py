"""``python -m trio_run``: what its first word does, and the page that names the words."""

import pytest

from trio_run.testing import open_program

from .programs import python

MODULE = ["-W", "error", "-m", "trio_run"]


@pytest.mark.parametrize("option", ["-h", "--help"])
async def test_a_page_names_all_that_there_is(option: str) -> None:
    async with open_program(python(*MODULE, option)) as program:
        assert await program.exit_code() == 0
    words = [
        "  new DIR ",
        "  serve MODULE:APP ",
        "  supervise ... -- COMMAND",
        "  python -m trio_run.lessons ",
    ]
    for word in [*words, "Without a command it is the skeleton", "--web-port PORT"]:
        assert word in program.output


@pytest.mark.parametrize("command", ["new", "serve", "supervise"])
async def test_each_command_has_a_help_of_its_own(command: str) -> None:
    async with open_program(python(*MODULE, command, "--help")) as program:
        assert await program.exit_code() == 0
    assert f"usage: python -m trio_run {command}" in program.output


async def test_a_word_that_is_no_command_is_one_sentence() -> None:
    async with open_program(python(*MODULE, "sevre", "shop:app")) as program:
        assert await program.exit_code() == 2
    assert program.output == (
        "there is no command 'sevre': there are new, serve, supervise, and python -m trio_run "
        "--help says what they do\n"
    )


async def test_an_option_is_the_skeletons() -> None:
    async with open_program(python(*MODULE, "--port", "x")) as program:
        assert await program.exit_code() == 2
    assert "--port (COLLECTOR_PORT) must be a whole number" in program.output
