"""Containerfile, compose files and Debian package, against the code and the documents.

`make packages` builds and installs them on bare systems; it takes minutes.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from speech_emotion.commands import fleet
from speech_emotion.common.config.load import load_config
from speech_emotion.supervision.pipeline import DRAIN_S, END_S, KILLED_S, RESTART_S
from tests.support.pipelines import PATIENCE_S, ROOT

DEPLOY = ROOT / "deploy"
CONTAINER = DEPLOY / "container"
COMPOSE = sorted(CONTAINER.glob("compose*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of each step of the Containerfile."""
    text = (CONTAINER / "Containerfile").read_text()
    joined = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    steps = [re.sub(r"\s+", " ", line).strip() for line in joined.splitlines()]
    return [(step.split(" ", 1)[0], step.split(" ", 1)[1]) for step in steps if step]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def last_stage() -> list[tuple[str, str]]:
    steps = instructions()
    begin = max(n for n, (name, _) in enumerate(steps) if name == "FROM")
    return steps[begin:]


def ignored(path: str) -> bool:
    """Whether a path of the checkout is left out of the build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.removeprefix("**/") for line in lines if not line.startswith("#")]
    return any(fnmatch.fnmatch(part, one) for part in Path(path).parts for one in patterns)


def services(path: Path) -> dict[str, dict[str, Any]]:
    """The services of a compose file; compose.home.yaml adds to compose.yaml."""
    table = yaml.safe_load(path.read_text())
    volumes, found = set(table["volumes"]), dict(table["services"])
    if path.name == "compose.home.yaml":
        other = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
        volumes |= set(other["volumes"])
        for name, service in other["services"].items():
            environment = {**service["environment"], **found[name]["environment"]}
            found[name] = {**service, **found[name], "environment": environment}
    for service in found.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source.startswith((".", "/")) or source in volumes, source
    return found


# Container ----------------------------------------------------------------------------------


def test_the_container_is_built_from_all_that_is_installed_and_little_else() -> None:
    links = [path.name for path in (ROOT / "speech_emotion").iterdir() if path.is_symlink()]
    needed = ["pyproject.toml", "README.md", "LICENSE", "speech_emotion", "docs", "deploy", *links]
    assert [path for path in needed if ignored(path) or not (ROOT / path).exists()] == []
    heavy = [".git", ".venv", ".venv-train", "tests", "common/__pycache__"]
    assert [path for path in heavy if not ignored(path)] == []
    sources = [rest.split()[:-1] for rest in arguments("COPY") if not rest.startswith("--from")]
    assert all((ROOT / path).exists() for (path,) in sources)
    for script in re.findall(r"/source/(\S+\.(?:sh|txt))", " ".join(arguments("RUN"))):
        assert (ROOT / script).is_file(), script


def test_the_container_runs_as_its_own_user_with_one_writable_folder() -> None:
    steps = dict(last_stage())
    assert steps["USER"] == "sep"
    assert steps["VOLUME"] == "/var/lib/sep"
    environment = dict(pair.split("=", 1) for pair in steps["ENV"].split())
    assert environment["STATE_DIRECTORY"] == steps["VOLUME"]
    assert environment["HOME"] == "/tmp"
    assert '"health"' in steps["HEALTHCHECK"]


def test_the_extras_of_the_container_exist() -> None:
    extras = dict(rest.split("=", 1) for rest in arguments("ARG") if "=" in rest)["EXTRAS"]
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert f'".[{extras}]"' in (DEPLOY / "setup.sh").read_text()  # the same as in the service


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_names_files_and_keys_that_exist(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, service in services(path).items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (path.parent / source).is_file(), f"{name}: {volume}"
        if service["image"].startswith("localhost/speech-emotion"):
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
        with monkeypatch.context() as context:
            for key, value in service.get("environment", {}).items():
                assert isinstance(value, str), f"{name}: {key}: not a text in YAML"
                context.setenv(key, value)
            load_config(DEPLOY / "sep.toml", {})


def test_the_programs_of_the_centre_get_flags_that_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    programs = [
        one for one in services(CONTAINER / "compose.centre.yaml").values() if "build" in one
    ]
    assert len(programs) == 3
    for service in programs:
        assert set(service["build"]["args"]["EXTRAS"].split(",")) <= set(extras)
        name, verb, *words = service["command"].split()
        assert name == "fleet"
        with pytest.raises(SystemExit):
            fleet.main([verb, "--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= known, verb


def test_the_box_has_time_to_stop_and_room_for_its_rings() -> None:
    box = services(CONTAINER / "compose.yaml")["box"]
    assert int(box["stop_grace_period"].removesuffix("s")) > DRAIN_S + RESTART_S + END_S + KILLED_S
    streams, seconds, rate, bytes_each = 16, 30, 16000, 4
    room = int(box["shm_size"].removesuffix("m")) * 2**20
    assert room > streams * seconds * rate * bytes_each
    assert (box["build"]["context"], box["tmpfs"]) == ("../..", ["/tmp"])
    assert (CONTAINER / box["build"]["context"]).resolve() == ROOT
    assert (ROOT / box["build"]["dockerfile"]).is_file()


# Debian package -----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_the_scripts_of_the_package_are_shell_and_it_is_made_of_what_exists() -> None:
    scripts = sorted((DEPLOY / "package" / "debian").iterdir())
    assert [path.name for path in scripts] == ["postinst", "postrm", "preinst", "prerm"]
    for script in [*scripts, *(DEPLOY / "package").glob("*.sh")]:
        assert os.access(script, os.X_OK), script
        assert script.read_text().startswith("#!/bin/sh\n")
        subprocess.run(["sh", "-n", script], check=True, timeout=PATIENCE_S)


def test_the_units_start_what_every_installation_has() -> None:
    for unit in DEPLOY.glob("*.service"):
        (start,) = re.findall(r"^ExecStart=(\S+) (\S+)", unit.read_text(), re.MULTILINE)
        assert start[0] == "/opt/sep/.venv/bin/speech-emotion"
        assert start[1] in ("run", "infer")
    assert "speech-emotion" in PROJECT["project"]["scripts"]
