"""deploy/setup.sh with stand-ins for the commands that change the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.pipelines import PATIENCE_S, ROOT

PYTHON = """\
case "$*" in
    "-c import ensurepip") exit "${NO_ENSUREPIP:-0}" ;;
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"-m pip install"*)
        printf 'Collecting one==1\\nCollecting two==2\\nInstalling collected packages: two, one\\n'
        echo once >> "$LOG.pip"
        [ "$(wc -l < "$LOG.pip")" -gt "${PIP_FAILS:-0}" ] ;;
esac
"""
COMMANDS = {
    "python": PYTHON,
    "id": 'echo "${USER_ID:-1000}"',
    "sudo": "exit 1",
    "apt-get": "exit 1",
    "dpkg-query": 'case "$*" in *Status-Abbrev*) cat "$STATE" ;; *) exit 1 ;; esac',
    "dpkg": "printf '%s\\n' /usr/lib/systemd/system/$2.service /usr/lib/systemd/user/$2.socket",
    "systemctl": "exit 0",
    # What root is asked to do: written down instead.
    "env": 'echo "$*" >> "$LOG"; case "$*" in *install*) echo "ii  broker" >> "$STATE" ;; esac',
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder, with a space in its name, that has the script and the stand-ins."""
    folder = tmp_path / "a checkout"
    (folder / "deploy").mkdir(parents=True)
    (folder / "bin").mkdir()
    shutil.copy(ROOT / "deploy" / "setup.sh", folder / "deploy")
    for name, text in COMMANDS.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (folder / "state").write_text("ii  python3\n")
    return folder


def run(checkout: Path, kind: str = "run", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "deploy" / "setup.sh", kind],
        capture_output=True,
        text=True,
        env={
            "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
            "HOME": str(checkout),
            "PYTHON": "python",
            "STATE": str(checkout / "state"),
            "LOG": str(checkout / "log"),
            **environment,
        },
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_S,
    )


def test_without_rights_it_names_the_packages_and_goes_on(checkout: Path) -> None:
    done = run(checkout)
    assert done.returncode == 0, done.stderr
    assert "as administrator: apt-get install libportaudio2\n" in done.stdout
    assert "unpacking 2 packages" in done.stdout
    assert not (checkout / "log").exists()


def test_it_says_how_large_the_installation_is_before_it_begins(checkout: Path) -> None:
    lines = run(checkout).stdout.splitlines()
    size = next(i for i, line in enumerate(lines) if "MB on disk" in line)
    assert size < next(i for i, line in enumerate(lines) if "unpacking" in line)


def test_a_python_that_cannot_make_environments_is_one_line(checkout: Path) -> None:
    done = run(checkout, NO_ENSUREPIP="1")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "apt-get install python3-venv" in done.stderr


def test_without_network_it_says_how_to_bring_the_packages(checkout: Path) -> None:
    done = run(checkout, PIP_FAILS="9")
    assert done.returncode == 2
    assert "PIP_FIND_LINKS" in done.stderr.splitlines()[-1]


def test_a_download_that_broke_is_tried_again(checkout: Path) -> None:
    done = run(checkout, PIP_FAILS="1")
    assert done.returncode == 0, done.stderr
    assert "pip has failed; once more in 5 s" in done.stdout


def test_services_of_new_packages_are_neither_started_nor_enabled(checkout: Path) -> None:
    done = run(checkout, USER_ID="0")
    assert done.returncode == 0, done.stderr
    log = (checkout / "log").read_text().splitlines()
    install = next(i for i, line in enumerate(log) if "apt-get install" in line)
    if not Path("/usr/sbin/policy-rc.d").exists():  # else the machine starts no service anyway
        assert "chmod 755 /usr/sbin/policy-rc.d" in log[:install]
        assert "rm -f /usr/sbin/policy-rc.d" in log[install:]
    disabled = [line for line in log if line.startswith("systemctl")]
    assert disabled == [
        "systemctl --quiet disable broker.service",
        "systemctl --global --quiet disable broker.socket",
    ]


def test_an_unknown_kind_is_one_line(checkout: Path) -> None:
    done = run(checkout, "everything")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
