"""What ``new DIR`` writes: a service whose files agree with each other, and with its code."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

import trio_run
from trio_run import service
from trio_run._new import _project
from trio_run._new._origin import Origin
from trio_run._new._project import COLLECTOR, SERVICE, Model, project
from trio_run.service.config import Config, read_config

from .projects import (
    hadolint_says,
    kubernetes_says,
    make,
    ruff_says,
    systemd_says,
)

PACKAGE = Path(service.__file__).parent
ABORT_AFTER = inspect.signature(trio_run.run).parameters["abort_after"].default
INDEX = Origin("1.2")


def test_the_whole_project_is_there(tmp_path: Path) -> None:
    ours = {f"shop/{path.name}" for path in PACKAGE.glob("*.py")}
    tests = {f"tests/{path.name}" for path in PACKAGE.glob("tests/test_*.py")}
    assert len(ours) > 8
    assert len(tests) > 5
    assert set(make(tmp_path)) == ours | tests | {
        ".dockerignore",
        ".github/workflows/ci.yml",
        ".gitignore",
        "Dockerfile",
        "README.md",
        "compose.yaml",
        "kubernetes.yaml",
        "pyproject.toml",
        "shop.service",
        "shop.socket",
        "tests/test_deploy.py",
    }


def test_what_goes_by_our_name_goes_by_its_own(tmp_path: Path) -> None:
    everything = make(tmp_path, name="shop")
    ours = re.compile(r"SERVICE|[\"']service\b|trio_run\.service|from \.\.")
    found = {path: ours.findall(text) for path, text in everything.items() if ours.search(text)}
    assert found == {}
    assert 'PREFIX = "SHOP_"' in everything["shop/config.py"]
    assert 'NAME = "shop"' in everything["shop/config.py"]
    assert "from shop.jobs import Jobs\n" in everything["tests/test_jobs.py"]


def test_every_head_says_how_to_delete_or_replace_the_piece() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.name not in ("__init__.py", "__main__.py"):
            (head,) = re.findall(r'^"""(.*?)"""', path.read_text(), re.DOTALL)
            assert re.search(r"[Tt]o delete|[Tt]o replace|[Rr]eplace|This one stays|without", head)
            assert f"{path.name.removesuffix('.py')}.py  " in str(service.__doc__)


def test_a_name_with_our_marks_in_it_is_left_whole(tmp_path: Path) -> None:
    everything = make(tmp_path, name="polkadot_NAME_in")
    assert {"polkadot_NAME_in/app.py", "polkadot_NAME_in.service", ".gitignore"} < set(everything)


@pytest.mark.parametrize("model", [SERVICE, COLLECTOR])
@pytest.mark.parametrize("origin", [INDEX, Origin("1.2", local="'trio-run @ file:///x'")])
def test_nothing_of_a_template_is_left_over(model: Model, origin: Origin) -> None:
    for path, text in project("shop", model, origin).items():
        if path.suffix != ".html":  # where a $ is JavaScript's
            left = set(re.findall(r"\$[a-z{]\w*", text, re.IGNORECASE))
            assert left <= {"$MAINPID", "${"}, path
            assert text.count("${") == text.count("${{ matrix.python }}")


@pytest.mark.parametrize("name", ["a", "shop", "my_Shop", "a" * 40])
def test_others_have_nothing_to_say_against_it(tmp_path: Path, name: str) -> None:
    make(tmp_path, name=name)
    assert ruff_says(tmp_path) == ""
    assert hadolint_says(tmp_path) == ""
    assert kubernetes_says(tmp_path) == ""
    assert systemd_says(tmp_path, name) == ""


def test_others_would_say_what_is_wrong(tmp_path: Path) -> None:
    files = make(tmp_path)
    for path, ours, wrong in [
        ("shop/app.py", "import logging\n", "import logging, json\n"),
        ("Dockerfile", "ENTRYPOINT [", "ENTRYPOINT sh [ "),
        ("kubernetes.yaml", "containerPort: 8000", "containerPort: eight"),
        ("shop.service", "KillMode=mixed", "KillMode=gently"),
    ]:
        assert ours in files[path]
        (tmp_path / path).write_text(files[path].replace(ours, wrong))
    assert "E401" in ruff_says(tmp_path)
    assert "DL3025" in hadolint_says(tmp_path)
    assert "is not of type 'integer'" in kubernetes_says(tmp_path)
    assert "Failed to parse kill mode" in systemd_says(tmp_path, "shop")


# The files to deploy it


def test_who_stops_it_waits_longer_than_a_stop_takes_at_most(tmp_path: Path) -> None:
    files = make(tmp_path)
    budgets = {
        found
        for path, pattern in [
            ("shop.service", r"(?m)^TimeoutStopSec=(\d+)$"),
            ("kubernetes.yaml", r"terminationGracePeriodSeconds: (\d+)\n"),
            ("compose.yaml", r"stop_grace_period: (\d+)s\n"),
            ("README.md", r"--stop-timeout (\d+) "),
            ("Dockerfile", r"--stop-timeout (\d+)\n"),
        ]
        for found in re.findall(pattern, files[path])
    }
    assert len(budgets) == 1
    assert int(budgets.pop()) > Config().grace + ABORT_AFTER


def test_the_numbers_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_project.ServiceConfig, "grace", 99.5)
    monkeypatch.setattr(_project.ServiceConfig, "port", 8123)
    files = {str(path): text for path, text in project("shop", SERVICE, INDEX).items()}
    assert "TimeoutStopSec=110\n" in files["shop.service"]  # 99.5 + 5 + 5, whole
    assert "containerPort: 8123}" in files["kubernetes.yaml"]
    assert "ListenStream=127.0.0.1:8123\n" in files["shop.socket"]


def test_the_kubernetes_manifest_is_what_the_program_needs(tmp_path: Path) -> None:
    deployment, front = yaml.safe_load_all(make(tmp_path, name="My_Shop")["kubernetes.yaml"])
    assert [deployment["kind"], front["kind"]] == ["Deployment", "Service"]
    assert {part["metadata"]["name"] for part in (deployment, front)} == {"my-shop"}
    spec = deployment["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == front["spec"]["selector"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"web": Config().port, "status": Config().status_port}
    probes = {
        probe: container[f"{probe}Probe"]["httpGet"]
        for probe in ("startup", "liveness", "readiness")
    }
    assert probes == {
        "startup": {"path": "/readyz", "port": "status"},
        "liveness": {"path": "/livez", "port": "status"},
        "readiness": {"path": "/readyz", "port": "status"},
    }
    # What it is started with is accepted, and leaves time to drain.
    environ = {
        each["name"].replace("MY_SHOP", "SERVICE"): each["value"] for each in container["env"]
    }
    config = read_config([], environ)
    assert 0 < config.lame_duck < config.grace
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_compose_file_is_what_the_program_needs(tmp_path: Path) -> None:
    compose = yaml.safe_load(make(tmp_path, name="My_Shop")["compose.yaml"])
    assert list(compose) == ["services"]
    (shop,) = compose["services"].values()
    assert list(compose["services"]) == ["my-shop"]
    assert shop["build"] == "."
    assert shop["ports"] == ["127.0.0.1:8000:8000", "127.0.0.1:8081:8081"]
    assert list(shop["environment"]) == ["MY_SHOP_LOG_LEVEL"]
    assert shop["healthcheck"]["test"][:2] == ["CMD", "/opt/My_Shop/bin/python"]
    compile(shop["healthcheck"]["test"][3], "healthcheck", "exec")


def test_the_image_runs_as_a_user_without_rights_and_gets_the_signal(tmp_path: Path) -> None:
    files = make(tmp_path)
    lines = files["Dockerfile"].splitlines()
    assert "STOPSIGNAL SIGTERM" in lines
    assert 'ENTRYPOINT ["/opt/shop/bin/shop"]' in lines  # the exec form: no shell in between
    assert not [line for line in lines if line.startswith("CMD")]
    (environment,) = (line.split()[1:] for line in lines if line.startswith("ENV "))
    assert environment == ["SHOP_HOST=0.0.0.0"]
    (user,) = (line.removeprefix("USER ") for line in lines if line.startswith("USER "))
    deployment = next(yaml.safe_load_all(files["kubernetes.yaml"]))
    assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(user) > 0


def test_the_workflow_does_what_the_readme_says(tmp_path: Path) -> None:
    files = make(tmp_path)
    workflow = yaml.safe_load(files[".github/workflows/ci.yml"])
    steps = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert steps == [
        "pip install --find-links wheels -e '.[test]'",
        "ruff check",
        "ruff format --check",
        "pytest",
    ]
    assert workflow["jobs"]["test"]["steps"][1]["with"] == {
        "python-version": "${{ matrix.python }}"
    }
    tests = files["README.md"].partition("## Test")[2].partition("## ")[0]
    assert all(f".venv/bin/{step}" in tests for step in steps[1:])


# Where trio-run comes from


def test_from_an_index_nothing_is_added() -> None:
    files = {str(path): text for path, text in project("shop", SERVICE, INDEX).items()}
    assert '"trio-run[http,metrics]>=1.2",' in files["pyproject.toml"]
    assert "wheels" not in "".join(files.values())
    assert "pip install -e '.[test]'\n" in files["README.md"]


@pytest.mark.parametrize("model", [SERVICE, COLLECTOR])
def test_from_this_machine_alone_it_goes_by_a_wheel_into_images(model: Model) -> None:
    origin = Origin("1.2", local="-e '/my trees/trio-run'")
    files = {str(path): text for path, text in project("shop", model, origin).items()}
    assert "]==1.2" in files["pyproject.toml"]
    assert "pip install -e '/my trees/trio-run' -e '.[test]'\n" in files["README.md"]
    assert "pip wheel --no-deps -w wheels '/my trees/trio-run'\n" in files["README.md"]
    assert "\nCOPY wheels ./wheels\n" in files["Dockerfile"]
    assert "pip install --no-cache-dir --find-links wheels .\n" in files["Dockerfile"]
    assert "\n!wheels/\n" in files[".dockerignore"]
