"""What can be set, from where, and what is refused."""

from pathlib import Path

import pytest

from ..config import (
    PREFIX,
    Config,
    ConfigError,
    misspelled,
    read_config,
)


def test_an_option_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("port = 1\nlame_duck = 2\ngrace = 30\n")
    environ = {f"{PREFIX}PORT": "11", f"{PREFIX}LAME_DUCK": "12"}
    arguments = ["--config", str(file), "--port", "21"]
    assert read_config(arguments, environ) == Config(port=21, lame_duck=12.0, grace=30.0)


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('greeting = "Hi!"\n')
    assert read_config([], {f"{PREFIX}CONFIG": str(file)}) == Config(greeting="Hi!")


def test_a_variable_that_is_misspelled_is_told_and_others_are_not() -> None:
    names = ["PROT", "LOGLEVEL", "PORT", "CONFIG", "SECRET", "GREETING"]
    environ = dict.fromkeys([*(PREFIX + each for each in names), "PROT"], "1")
    assert list(misspelled(environ)) == [
        f"{PREFIX}PROT sets nothing: is it to be {PREFIX}PORT?",
        f"{PREFIX}LOGLEVEL sets nothing: is it to be {PREFIX}LOG_LEVEL?",
    ]


def test_without_any_it_is_the_defaults_and_only_this_machine_reaches_it() -> None:
    assert read_config([], {}) == Config()
    assert Config().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--port", "x"], "--port must be a whole number, not 'x'"),
        (["--port", "65536"], "a port is a number from 0 to 65535, not 65536"),
        (["--host", ""], "the host is empty"),
        (["--grace", "soon"], "--grace must be a number, not 'soon'"),
        (["--grace", "nan"], "the grace is more than the lame duck"),
        (["--lame-duck", "20"], "the grace is more than the lame duck"),
        (["--lame-duck", "-1"], "and that is 0 seconds or more"),
        (["--log-level", "loud"], "there is no log level 'loud'"),
    ],
)
def test_what_cannot_be_right_is_refused(options: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(options, {})
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot = 1", "there is no 'prot'; there are host, port"),
        ("port = true", "port in {file} must be a whole number, not 'True'"),
        ("port", "cannot read the settings in {file}: "),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(["--config", str(file)], {})
    assert sentence.format(file=file) in str(caught.value)
