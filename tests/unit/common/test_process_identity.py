"""Process identities against real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.linux.process_identity import ProcessIdentity, boot_id


def test_the_current_process_is_alive() -> None:
    us = ProcessIdentity.current()
    assert us.pid == os.getpid()
    assert us.alive()
    assert ProcessIdentity.of(os.getpid()) == us


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1))
def test_text_and_back(pid: int, started: int) -> None:
    identity = ProcessIdentity(pid, started)
    assert ProcessIdentity.parse(str(identity)) == identity


@pytest.mark.parametrize(
    "text", ["", "1", "1.", ".1", "-1.2", "1.2.3", " 1.2", "1.2\n", "a.b", "¹.2", "9" * 5000 + ".1"]
)
def test_other_text_is_no_identity(text: str) -> None:
    assert ProcessIdentity.parse(text) is None


def test_a_process_whose_name_imitates_a_stat_line(tmp_path: Path) -> None:
    sleep = tmp_path / "a) Z 1 (b"
    sleep.symlink_to("/bin/sleep")
    child = subprocess.Popen([sleep, "60"])
    try:
        identity = ProcessIdentity.of(child.pid)
        assert identity is not None
        assert identity.alive()
        assert identity.started >= ProcessIdentity.current().started
    finally:
        child.kill()
        child.wait()
    assert not identity.alive()


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    assert identity is not None
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
    assert Path(f"/proc/{child.pid}").exists()
    assert not identity.alive()
    assert ProcessIdentity.of(child.pid) is None
    child.communicate()
    assert ProcessIdentity.of(child.pid) is None


def test_a_pid_that_came_back_is_another_process() -> None:
    us = ProcessIdentity.current()
    assert not ProcessIdentity(us.pid, us.started - 1).alive()


def test_boot_id_is_the_kernels() -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert len(boot_id()) == 36
