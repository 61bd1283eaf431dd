"""The image and the team's server, as far as they can be checked without Docker."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and what follows each of them."""
    text = (FOLDER / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, rest in pairs]


def following(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def copied() -> set[str]:
    """Return every source of a COPY."""
    return {path for rest in following("COPY") for path in shlex.split(rest)[:-1]}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return loaded


def test_every_instruction_is_one_of_dockers():
    known = {
        "FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "VOLUME", "HEALTHCHECK",
        "CMD",
    }  # fmt: skip
    assert {word for word, _ in instructions()} == known


def test_everything_copied_is_in_the_checkout():
    assert [path for path in copied() if not (ROOT / path).exists()] == []


def test_the_application_is_copied_whole():
    assert {
        "flows",
        "tasks",
        "storage",
        "trilemma",
        "configs",
        "prefect.yaml",
    } < copied()


def test_the_builder_is_sent_what_is_copied_and_nothing_else():
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {path.partition("/")[0] for path in copied()} == let_in


def test_the_image_is_installed_as_the_checkout_is():
    makefile = (ROOT / "Makefile").read_text()
    (makes,) = re.findall(r"^INSTALL = (.*)$", makefile, re.MULTILINE)
    what, *_ = re.findall(r"^\t\$\(INSTALL\) (.*)$", makefile, re.MULTILINE)
    expected = f"{makes} {what.replace('dev', 'app')}"
    expected = expected.replace("$(CURDIR)", "/app").replace("$(BIN)/", "")
    (run,) = (line for line in following("RUN") if "pip" in line)
    assert run == f"PIP_EXTRA_INDEX_URL=$TORCH_INDEX {expected}"


def test_the_base_is_a_python_that_we_support_under_a_fixed_tag():
    (base,) = following("FROM")
    assert re.fullmatch(r"python:3\.1[1-9](\.\d+)?-slim-[a-z]+(@sha256:\w{64})?", base)


def test_it_does_not_run_as_root():
    assert following("USER")[-1] not in ("root", "0")
    words = [word for word, _ in instructions()]
    assert "RUN" not in words[words.index("USER") :]


def test_its_default_command_runs_a_profile_that_is_there():
    (command,) = following("CMD")
    *module, profile = json.loads(command)
    assert module == ["python", "-m", "flows", "run"]
    assert (ROOT / profile).is_file()


@pytest.mark.parametrize(("writable", "status"), [(True, 0), (False, 1)])
def test_its_health_is_that_artifacts_can_be_written(tmp_path, writable, status):
    (check,) = following("HEALTHCHECK")
    python, *words = json.loads(check.partition("CMD ")[2])
    assert python == "python"
    (tmp_path / "file").write_text("")
    home = tmp_path / ("home" if writable else "file/home")
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"TRILEMMA_HOME": str(home)},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == status


def test_every_service_has_an_image_and_says_whether_it_is_well(compose):
    for name, service in compose["services"].items():
        assert "image" in service, name
        assert ("healthcheck" in service) != (name == "deploy"), name


def test_services_wait_for_services_that_are_there(compose):
    services = compose["services"]
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            has_check = "healthcheck" in services[name]
            assert has_check == (wait["condition"] == "service_healthy")


def test_the_image_is_built_from_the_checkout(compose):
    for service in compose["services"].values():
        if service["image"] == "trilemma":
            assert (FOLDER / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_volumes_are_declared_and_used(compose):
    used = {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
    }
    assert used == set(compose["volumes"])


def test_secrets_come_from_the_environment(compose):
    for service in compose["services"].values():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|TOKEN|SECRET", key):
                assert re.fullmatch(r"\$\{\w+:(\?[\w ./]+|-)\}", value), key


def test_every_variable_is_in_the_example_without_a_value():
    text = (FOLDER / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text))
    lines = (FOLDER / ".env.example").read_text().splitlines()
    given = [line for line in lines if line and not line.startswith("#")]
    assert set(given) == {f"{name}=" for name in asked}


def test_no_port_is_open_to_other_machines(compose):
    ports = [
        port
        for service in compose["services"].values()
        for port in service.get("ports", [])
    ]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_worker_serves_the_pool_of_the_deployment(compose):
    (deployment,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    pool = deployment["work_pool"]["name"]
    worker = compose["services"]["worker"]["command"]
    assert worker[worker.index("--pool") + 1] == pool
    assert f"work-pool create {pool} " in compose["services"]["deploy"]["command"][-1]


def test_the_folder_hides_no_package():
    # As a package it would hide the Docker SDK that Prefect imports.
    assert not (FOLDER / "__init__.py").exists()
