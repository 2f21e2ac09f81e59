"""``new DIR --collector``: what it writes, and that this works: installed, tested, under load."""

import inspect
import re
import shutil
import signal
import sys
import sysconfig
from pathlib import Path

import pytest
import trio
import yaml

import trio_run
from trio_run import skeleton
from trio_run._new import _project
from trio_run.skeleton import limits
from trio_run.skeleton.config import Config, ConfigError, read_config
from trio_run.testing import open_program

from .. import TIMEOUT
from ..skeleton.running import FREE_PORTS, get, port_of, where
from ..skeleton.test_load import check_clients, start_clients
from .conftest import PIP
from .projects import (
    ENVIRONMENT,
    attempt,
    execute,
    hadolint_says,
    kubernetes_says,
    make,
    ruff_says,
    systemd_says,
    written,
)

SKELETON = Path(skeleton.__file__).parent
ABORT_AFTER = inspect.signature(trio_run.run).parameters["abort_after"].default
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider"]


def make_collector(directory: Path, name: str = "shop") -> dict[str, str]:
    return make(directory, "--collector", name=name)


# What it writes


def test_every_file_of_the_skeleton_is_copied(tmp_path: Path) -> None:
    package = {path for path in make_collector(tmp_path) if path.startswith("shop/")}
    ours = {path.name for path in SKELETON.iterdir() if path.suffix in {".py", ".html"}}
    assert "page.html" in ours
    assert package == {f"shop/{name}" for name in ours | {"__main__.py"}}


def test_the_rest_of_the_project_is_there(tmp_path: Path) -> None:
    assert {
        path for path in make_collector(tmp_path) if not path.startswith(("shop/", "tests/"))
    } == {
        ".dockerignore",
        ".gitignore",
        "Dockerfile",
        "README.md",
        "kubernetes.yaml",
        "pyproject.toml",
        "shop.service",
    }


def test_what_goes_by_our_name_goes_by_its_own(tmp_path: Path) -> None:
    everything = make_collector(tmp_path)
    ours = re.compile(
        r"COLLECTOR|[\"']collector[\"']|trio-run-data|trio_run\.skeleton|-m trio_run|meant to be "
        r"copied|\bNAME\b"
    )
    assert {
        path: ours.findall(text) for path, text in everything.items() if ours.search(text)
    } == {}
    assert 'PREFIX = "SHOP_"' in everything["shop/config.py"]
    assert '"shop-data"' in everything["shop/config.py"]
    assert 'name="shop"' in everything["shop/app.py"]
    assert "\nshop-data/\n" in everything[".gitignore"]


def test_a_name_with_our_marks_in_it_is_left_whole(tmp_path: Path) -> None:
    everything = make_collector(tmp_path, "polkadot_NAME_in")
    assert "polkadot_NAME_in/app.py" in everything
    assert "polkadot_NAME_in.service" in everything
    assert ".gitignore" in everything


def test_nothing_of_a_template_is_left_over(tmp_path: Path) -> None:
    for path, text in make_collector(tmp_path).items():
        if path != "shop/page.html":  # where a $ is JavaScript's
            assert re.findall(r"\$[a-z{]", text, re.IGNORECASE) in ([], ["$M"]), path
    assert "-HUP $MAINPID\n" in make_collector(tmp_path / "again")["shop.service"]


def number_in(text: str, pattern: str) -> float:
    (found,) = re.findall(pattern, text)
    return float(found)


def test_who_stops_it_waits_longer_than_a_stop_takes_at_most(tmp_path: Path) -> None:
    everything = make_collector(tmp_path)
    longest = Config().grace + ABORT_AFTER
    budgets = {
        number_in(everything["shop.service"], r"(?m)^TimeoutStopSec=(\d+)$"),
        number_in(everything["kubernetes.yaml"], r"terminationGracePeriodSeconds: (\d+)\n"),
        number_in(everything["README.md"], r"--stop-timeout (\d+) "),
        number_in(everything["Dockerfile"], r"--stop-timeout (\d+)\n"),
    }
    assert len(budgets) == 1
    assert budgets.pop() > longest


def test_the_numbers_are_those_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_project.CollectorConfig, "grace", 99.5)
    monkeypatch.setattr(_project.CollectorConfig, "web_port", 8123)
    everything = make_collector(tmp_path)
    assert "TimeoutStopSec=110\n" in everything["shop.service"]  # 99.5 + 5 + 5, whole
    assert "terminationGracePeriodSeconds: 110\n" in everything["kubernetes.yaml"]
    assert "containerPort: 8123}" in everything["kubernetes.yaml"]
    assert "-p 8123:8123" in everything["README.md"]


def test_the_kubernetes_manifest_is_what_the_program_needs(tmp_path: Path) -> None:
    manifest = make_collector(tmp_path, "My_Shop")["kubernetes.yaml"]
    claim, deployment, service = yaml.safe_load_all(manifest)
    assert [claim["kind"], deployment["kind"], service["kind"]] == [
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
    ]
    assert {part["metadata"]["name"] for part in (claim, deployment, service)} == {"my-shop"}
    spec = deployment["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == service["spec"]["selector"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports) - {"health"}
    defaults = Config()
    assert ports == {
        "lines": defaults.port,
        "lines-udp": defaults.udp_port,
        "web": defaults.web_port,
        "tail": defaults.tail_port,
        "health": defaults.health_port,
    }
    # What it is started with is accepted, and leaves time to drain.
    config = read_config("shop", container["args"], {})
    assert 0 < config.lame_duck < config.grace
    assert config.names == (service["metadata"]["name"],)
    disk = claim["spec"]["resources"]["requests"]["storage"]
    assert (disk, config.max_size * 1e6 + 1e8 < 2**30) == ("1Gi", True)
    memory = limits.BASE_MB + limits.CLIENT_MB * limits.MOST_AT_A_PORT
    assert container["resources"]["limits"] == {"memory": "768Mi"}
    assert memory * 1e6 < 768 * 2**20
    assert pod["terminationGracePeriodSeconds"] > config.grace + ABORT_AFTER
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume["persistentVolumeClaim"] for volume in pod["volumes"]}
    assert volumes[mounted[str(config.dir)]]["claimName"] == claim["metadata"]["name"]
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_variables_that_kubernetes_sets_for_a_service_would_stop_it() -> None:
    """So the manifest has it set none."""
    with pytest.raises(ConfigError, match=r"COLLECTOR_PORT"):
        read_config("collector", [], {"COLLECTOR_PORT": "tcp://10.0.0.1:7000"})


def test_no_user_has_the_name_that_debian_might_refuse(tmp_path: Path) -> None:
    dockerfile = make_collector(tmp_path, "My_Shop")["Dockerfile"]
    (user,) = re.findall(r"RUN useradd .* (\S+) \\\n", dockerfile)
    assert user == "app"


def test_the_image_runs_as_a_user_of_its_own_and_gets_the_signal(tmp_path: Path) -> None:
    everything = make_collector(tmp_path)
    lines = everything["Dockerfile"].splitlines()
    assert "STOPSIGNAL SIGTERM" in lines
    assert 'ENTRYPOINT ["/opt/shop/bin/shop"]' in lines  # the exec form: no shell in between
    (user,) = (line.removeprefix("USER ") for line in lines if line.startswith("USER "))
    deployment = list(yaml.safe_load_all(everything["kubernetes.yaml"]))[1]
    assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(user)
    copied = {
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    kept = {
        line[1:].strip("/") for line in everything[".dockerignore"].splitlines() if line[0:1] == "!"
    }
    assert copied == kept == {"pyproject.toml", "README.md", "shop", "wheels"}


def test_others_have_nothing_to_say_against_its_files(tmp_path: Path) -> None:
    make_collector(tmp_path)
    assert hadolint_says(tmp_path) == ""
    assert kubernetes_says(tmp_path) == ""
    assert systemd_says(tmp_path, "shop") == ""


def test_the_unit_starts_it_with_what_it_accepts(tmp_path: Path) -> None:
    unit = make_collector(tmp_path)["shop.service"]
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", unit)
    program, *options = command.split()
    assert program == "/opt/shop/bin/shop"
    config = read_config("shop", options, {})
    assert str(config.dir) == "/var/lib/shop"  # which is StateDirectory=shop
    assert "\nStateDirectory=shop\n" in unit


@pytest.mark.parametrize("name", ["a", "shop", "log_collector"])
def test_the_copy_is_clean_and_formatted(tmp_path: Path, name: str) -> None:
    make_collector(tmp_path, name)
    assert ruff_says(tmp_path) == ""


# That it works


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The Python of a new environment, with a wheel of this tree, and the packages of this one
    below it.
    """
    directory = tmp_path_factory.mktemp("installed")
    execute(sys.executable, "-m", "venv", "--without-pip", directory / "venv", cwd=directory)
    python = directory / "venv" / "bin" / "python"
    (packages,) = (directory / "venv").glob("lib/python*/site-packages")
    # What a .pth file adds comes last, and .pth files there, such as those of this tree, are not
    # looked at.
    (packages / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    execute(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=directory)
    return python


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Path:
    """A project that this wheel has written, and that is installed beside it."""
    directory = tmp_path_factory.mktemp("project") / "shop"
    where = execute(python, "-c", "import trio_run; print(trio_run.__file__)", cwd=directory.parent)
    assert where.startswith(str(python.parent.parent))
    execute(python, "-m", "trio_run", "new", "--collector", directory, cwd=directory.parent)
    execute(*PIP, "--python", python, "install", "--no-deps", directory, cwd=directory.parent)
    shutil.rmtree(directory / "build", ignore_errors=True)
    return directory


def test_a_wheel_writes_what_the_tree_writes(project: Path, tmp_path: Path) -> None:
    """But for where trio-run comes from."""

    def package_and_tests(files: dict[str, str]) -> dict[str, str]:
        return {path: text for path, text in files.items() if path.startswith(("shop/", "tests/"))}

    assert package_and_tests(written(project)) == package_and_tests(make_collector(tmp_path))


def test_its_own_tests_pass(project: Path, python: Path) -> None:
    said = execute(python, *PYTEST, cwd=project)
    assert re.search(r"\d+ passed", said)
    assert "skipped" not in said


def test_its_own_tests_fail_when_who_stops_it_would_not_wait(
    project: Path, python: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(project, tmp_path / "shop")
    config = copy / "shop" / "config.py"
    text = config.read_text()
    assert text.count("30.0") == 1
    config.write_text(text.replace("30.0", "120.0"))
    code, said = attempt(python, *PYTEST, "tests/test_deploy.py", cwd=copy)
    assert code == 1
    assert "FAILED tests/test_deploy.py::test_it_is_killed_only_when" in said


async def test_the_copy_loses_no_acknowledged_line_when_it_is_stopped_under_load(
    project: Path, python: Path, tmp_path: Path
) -> None:
    command = [str(python.parent / "shop"), *FREE_PORTS, "--dir", str(tmp_path)]
    async with open_program(command, env=ENVIRONMENT, cwd=project.parent) as program:
        page = await get("127.0.0.1", await port_of(program, "http:"), "/")
        assert page == (200, (project / "shop" / "page.html").read_bytes())
        _, port = await where(program)
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                clients = await start_clients(nursery, port)
                await trio.sleep(0.3)
                program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0, program.output
    assert "shop stopped in " in program.output
    assert "Error" not in program.output
    check_clients(clients, tmp_path / "lines.db")


async def test_a_copy_whose_event_loop_is_blocked_is_ended_by_its_watchdog(
    project: Path, python: Path, tmp_path: Path
) -> None:
    """So the times that its unit and its manifest give are enough, as they say, and its stacks are
    told.
    """
    source = (
        "import sys, trio\n"
        "from shop import app\n"
        "make_group = app.make_group\n"
        "async def block():\n"
        "    print('blocked', flush=True)\n"
        "    while True: pass\n"
        "def with_block(*arguments):\n"
        "    group = make_group(*arguments)\n"
        "    group.add(block)\n"
        "    return group\n"
        "app.make_group = with_block\n"
        "sys.exit(app.main(sys.argv[1:]))\n"
    )
    command = [str(python), "-c", source, *FREE_PORTS, "--dir", str(tmp_path), "--grace", "0.1"]
    async with open_program(command, env=ENVIRONMENT, cwd=project.parent) as program:
        await program.line_with("blocked")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 1
    assert "in block" in program.output
