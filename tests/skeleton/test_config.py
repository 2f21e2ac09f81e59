"""Config: where a setting comes from, what is accepted, and what is said of what is not."""

import math
from dataclasses import fields
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from trio_run.skeleton.config import SETTINGS, Config, ConfigError, read_config


def read(*arguments: str, **environ: str) -> Config:
    """As from a command line, and an environment without its prefix."""
    return read_config("prog", arguments, {f"COLLECTOR_{k}": v for k, v in environ.items()})


def refused(*arguments: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*arguments, **environ)
    return str(caught.value)


def test_nothing_has_to_be_said() -> None:
    assert read() == Config()


def test_every_field_can_be_set() -> None:
    assert list(SETTINGS) == [field.name for field in fields(Config)]


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("--host", "::1", "::1"),
        ("--port", "0", 0),
        ("--port", "65535", 65535),
        ("--udp-port", "514", 514),
        ("--unix", "/run/lines", Path("/run/lines")),
        ("--web-port", "80", 80),
        ("--tail-port", "81", 81),
        ("--dir", "data", Path("data")),
        ("--log-file", "log", Path("log")),
        ("--retention", "0.5", 0.5),
        ("--retention", "inf", math.inf),
        ("--health-port", "82", 82),
        ("--names", "logs.example", ("logs.example",)),
        ("--names", "a, b.example,::1", ("a", "b.example", "::1")),
        ("--idle-timeout", "0.5", 0.5),
        ("--idle-timeout", "inf", math.inf),
        ("--max-size", "0.5", 0.5),
        ("--max-size", "inf", math.inf),
        ("--grace", "0", 0.0),
        ("--grace", "inf", math.inf),
        ("--lame-duck", "5", 5.0),
        ("--max-connections", "1", 1),
    ],
)
def test_a_setting_is_an_option_or_a_variable(option: str, text: str, value: object) -> None:
    name = option.removeprefix("--").replace("-", "_")
    assert getattr(read(option, text), name) == value
    assert getattr(read(**{name.upper(): text}), name) == value


@pytest.mark.parametrize(
    ("text", "verbose"),
    [("1", True), ("yes", True), ("TRUE", True), ("on", True), ("0", False), ("No", False)],
)
def test_a_switch_may_be_set_in_the_environment_too(text: str, verbose: bool) -> None:
    assert read(VERBOSE=text).verbose is verbose
    assert read("--verbose", VERBOSE=text).verbose is True


def test_the_command_line_wins() -> None:
    assert read("--port", "1", PORT="2", GRACE="3") == Config(port=1, grace=3.0)


def test_a_variable_that_is_overruled_is_not_even_looked_at() -> None:
    assert read("--port", "1", PORT="tcp://10.0.0.1:7000").port == 1


def test_an_empty_variable_is_not_set() -> None:
    assert read(PORT="", CERT="", VERBOSE="") == Config()


PORTS = "a whole number from 0 to 65535"
SECONDS = "a number of seconds, 0 or more"
TIMEOUT = "a number of seconds greater than 0, or inf for no limit"
MEGABYTES = "a number of megabytes greater than 0, or inf for no limit"
DAYS = "a number of days greater than 0, or inf to keep all"


@pytest.mark.parametrize(
    ("option", "texts", "must_be"),
    [
        ("--host", [""], "an address or a name"),
        ("--port", ["http", "-1", "65536", "1.5", "", "9" * 5000], PORTS),
        ("--tls-port", ["x"], PORTS),
        ("--udp-port", ["x"], PORTS),
        ("--web-port", ["x"], PORTS),
        ("--tail-port", ["x"], PORTS),
        ("--dir", [""], "a path"),
        ("--cert", [""], "a path"),
        ("--unix", ["x" * 108], "a path of at most 107 bytes"),
        ("--unix", [""], "a path"),
        ("--retention", ["0", "-1", "nan", "a week"], DAYS),
        ("--health-port", ["x"], PORTS),
        ("--names", ["a b", ",", "a,", "http://a"], "names of hosts, with commas between them"),
        ("--idle-timeout", ["0", "-1", "nan", "long"], TIMEOUT),
        ("--max-size", ["0", "-1", "nan", "large"], MEGABYTES),
        ("--grace", ["-1", "nan", "long"], SECONDS),
        ("--lame-duck", ["-1"], SECONDS),
        ("--max-connections", ["0", "-1", "many"], "a whole number from 1 on"),
    ],
)
def test_what_cannot_be_right_is_named_with_what_it_must_be(
    option: str, texts: list[str], must_be: str
) -> None:
    variable = option.removeprefix("--").replace("-", "_").upper()
    for text in texts:
        problem = f"{option} (COLLECTOR_{variable}) must be {must_be}, not {text!r}"
        assert refused(f"{option}={text}") == problem
        if text:
            assert refused(**{variable: text}) == f"{problem} (from COLLECTOR_{variable})"


def test_a_switch_that_is_neither_is_refused() -> None:
    assert refused(VERBOSE="maybe") == (
        "--verbose (COLLECTOR_VERBOSE) must be yes or no, not 'maybe' (from COLLECTOR_VERBOSE)"
    )


def test_a_lame_duck_has_to_be_shorter_than_the_grace() -> None:
    assert read("--lame-duck", "4", "--grace", "5")
    assert read("--grace", "0") == Config(grace=0)
    for lame_duck in ("5", "6", "inf"):
        assert refused("--lame-duck", lame_duck, "--grace", "5") == (
            "--lame-duck (COLLECTOR_LAME_DUCK) is a part of --grace (COLLECTOR_GRACE), and must "
            "be shorter: "
            f"{lame_duck} s leave nothing of 5 s"
        )


@pytest.mark.parametrize(("option", "text"), [("--key", "key.pem"), ("--tls-port", "7001")])
def test_tls_needs_a_certificate(option: str, text: str) -> None:
    assert "is of no use without --cert (COLLECTOR_CERT): give both" in refused(option, text)


def test_two_doors_on_one_port_are_refused() -> None:
    assert refused("--web-port", "7000") == (
        "--port (COLLECTOR_PORT) and --web-port (COLLECTOR_WEB_PORT) are both 7000: "
        "choose another for one of them"
    )
    assert "are both 9000" in refused("--cert", "c", "--tls-port", "9000", "--tail-port", "9000")
    assert read("--port", "7001").tls_port == 7001  # there is no TLS
    assert read("--port", "0", "--web-port", "0", "--tail-port", "0")
    assert "are both 8000" in refused("--health-port", "8000")
    assert read("--port", "5000", "--udp-port", "5000")  # that is another 5000


def test_a_certificate_and_its_key_may_be_in_one_file_or_in_two(
    tmp_path: Path, certificate: trustme.LeafCert
) -> None:
    both, cert, key = (str(tmp_path / name) for name in ("both", "cert", "key"))
    certificate.private_key_and_cert_chain_pem.write_to_path(both)
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    assert read().tls_context() is None
    assert read("--cert", both).tls_context() is not None
    assert read("--cert", cert, "--key", key).tls_context() is not None


def test_a_certificate_that_is_none_is_said_before_anything_starts(
    tmp_path: Path, certificate: trustme.LeafCert, authority: trustme.CA
) -> None:
    def problem(cert: str, key: str) -> str:
        with pytest.raises(ConfigError) as caught:
            read("--cert", cert, "--key", key).tls_context()
        start, _, problem = str(caught.value).partition("; ")
        assert start == (
            "--cert (COLLECTOR_CERT) and --key (COLLECTOR_KEY) must be a certificate and its "
            "private key, "
            "in PEM and without a password"
        )
        return problem

    cert, key, other, locked, text = (
        str(tmp_path / name) for name in ("cert", "key", "other", "locked", "text")
    )
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    authority.issue_cert("other").private_key_pem.write_to_path(other)
    loaded = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    Path(locked).write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    Path(text).write_text("Dear diary")
    assert problem("missing", key) == f"missing and {key}: No such file or directory"
    assert "PEM" in problem(text, key)
    assert "KEY_VALUES_MISMATCH" in problem(cert, other)
    assert problem(cert, locked)
    with pytest.raises(ConfigError, match=f"; {text}: "):
        read("--cert", text).tls_context()


def test_help_tells_every_setting_its_variable_and_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exited:
        read("--help")
    assert exited.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for name, (_, metavar, text) in SETTINGS.items():
        option, variable = f"--{name.replace('_', '-')}", f"COLLECTOR_{name.upper()}"
        assert f" {option} {metavar} {text} [{variable}".replace("  ", " ") in told
    for default in [
        "[COLLECTOR_PORT, default: 7000]",
        "[COLLECTOR_DIR, default: trio-run-data]",
        "[COLLECTOR_LAME_DUCK, default: 0.0]",
        "[COLLECTOR_CERT]",
        "[COLLECTOR_VERBOSE]",
    ]:
        assert default in told
    assert "the command line wins" in told


def test_an_option_that_there_is_not_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        read("--prot", "7000")
    assert exited.value.code == 2
    assert "unrecognized arguments: --prot 7000" in capsys.readouterr().err
