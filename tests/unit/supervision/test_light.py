"""The light: on when wanted, off at any end, and reported when it fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speech_emotion.common.config.privacy import LightConfig
from speech_emotion.common.errors import UserError
from speech_emotion.supervision.privacy import light as module
from speech_emotion.supervision.privacy.light import CommandLamp, Lamp, Light, make_light
from tests.support.pipelines import ROOT, wait_until


@pytest.fixture
def led(tmp_path: Path) -> Path:
    """A folder as the kernel makes it for a LED."""
    folder = tmp_path / "led"
    folder.mkdir()
    (folder / "brightness").write_text("17\n")
    (folder / "max_brightness").write_text("255\n")
    (folder / "trigger").write_text("none [heartbeat]\n")
    return folder


def brightness(led: Path) -> str:
    return (led / "brightness").read_text().strip()


def test_it_follows_what_is_wanted(led: Path) -> None:
    changes: list[None] = []
    light = Light(Lamp(led), lambda: changes.append(None))
    wait_until(lambda: brightness(led) == "0", "the light to be off at first")
    assert (led / "trigger").read_text() == "none"
    light.turn(0.0, wanted=True)
    wait_until(lambda: light.on, "the light")
    assert brightness(led) == "255"
    light.turn(0.0, wanted=False)
    wait_until(lambda: not light.on, "the end of the light")
    assert brightness(led) == "0"
    light.turn(0.0, wanted=True)
    wait_until(lambda: light.on, "the light")
    light.close()
    assert brightness(led) == "0"
    assert len(changes) >= 4


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_off_after_its_process_was_killed(led: Path, how: int) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from speech_emotion.supervision.privacy.light import Lamp, Light\n"
        "light = Light(Lamp(Path(sys.argv[1])), lambda: None); light.turn(0.0, wanted=True)\n"
        "time.sleep(1000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(led)], cwd=ROOT)
    wait_until(lambda: brightness(led) == "255", "the light")
    process.send_signal(how)
    process.wait()
    wait_until(lambda: brightness(led) == "0", "the light to be off")


def test_a_keeper_that_is_killed_is_started_again(led: Path) -> None:
    light = Light(Lamp(led), lambda: None)
    light.turn(0.0, wanted=True)
    wait_until(lambda: light.on, "the light")
    keeper = light._keeper
    keeper.kill()
    keeper.wait()
    light.turn(1.0, wanted=True)
    assert light._keeper.pid != keeper.pid
    assert brightness(led) == "255"
    light.close()
    assert light._keeper.returncode == 0
    assert keeper.stdin is not None
    keeper.stdin.close()


def test_a_light_that_fails_is_reported_and_tried_again(
    led: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    changes: list[None] = []
    light = Light(Lamp(led), lambda: changes.append(None))
    wait_until(lambda: bool(changes), "the first state")
    (led / "brightness").unlink()
    (led / "brightness").mkdir()
    light.turn(0.0, wanted=True)
    wait_until(lambda: light.failure is not None, "the failure")
    assert not light.on
    (led / "brightness").rmdir()
    (led / "brightness").touch()

    def works() -> bool:
        light.turn(time.monotonic(), wanted=False)  # muted because of the light
        return light.failure is None

    wait_until(works, "the light to work again")
    light.close()
    assert brightness(led) == "0"


def command(tmp_path: Path, body: str) -> str:
    script = tmp_path / "lamp.sh"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return f"{script} 'a lamp'"


def test_a_command_is_called_with_on_and_off(tmp_path: Path) -> None:
    out = tmp_path / "out"
    light = Light(CommandLamp(command(tmp_path, f'echo "$1 $2" >> {out}')), lambda: None)
    wait_until(lambda: out.read_text().count("off") == 2, "the first state")
    light.turn(0.0, wanted=True)
    wait_until(lambda: light.on, "the light")
    light.close()
    # At the start, for the first state, when it was wanted, at the end, and by the keeper.
    called = [line.removeprefix("a lamp ") for line in out.read_text().splitlines()]
    assert called == ["off", "off", "on", "off", "off"]


def test_a_command_that_hangs_or_fails_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lamp = CommandLamp(command(tmp_path, '[ "$2" = off ] || exec sleep 60'))
    states: list[str | None] = []
    light = Light(lamp, lambda: states.append(light.failure))
    wait_until(lambda: states == [None], "the first state")
    with monkeypatch.context() as context:
        context.setattr(module, "COMMAND_S", 0.3)
        light.turn(0.0, wanted=True)
        wait_until(lambda: len(states) > 1, "the failure")
    assert "took longer than 0.3 s" in (states[1] or "")
    light.close()
    with pytest.raises(UserError, match="exit code 3"):
        CommandLamp(command(tmp_path, "exit 3"))
    with pytest.raises(UserError, match=r"light\.command"):
        CommandLamp("/no/such/program")


def test_a_led_that_cannot_be_used_is_one_line(led: Path) -> None:
    (led / "max_brightness").unlink()
    for folder in (str(led), str(led / "nothing"), "no-led-of-this-name"):
        with pytest.raises(UserError, match="cannot be switched"):
            make_light(LightConfig(led=folder), lambda: None)


def test_no_light_is_no_light() -> None:
    assert make_light(LightConfig(), lambda: None) is None
    with pytest.raises(ValueError, match="exclude"):
        LightConfig(led="a", command="b")


def test_a_keeper_that_cannot_be_started_does_not_end_the_pipeline(
    led: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = Light(Lamp(led), lambda: None)
    light._keeper.kill()
    light._keeper.wait()

    def refuse() -> subprocess.Popen[bytes]:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as context:
        context.setattr(light, "_start_keeper", refuse)
        light.turn(1.0, wanted=True)
    wait_until(lambda: light.on, "the light")
    light.turn(2.0 + module.RETRY_S, wanted=True)
    assert light._keeper.poll() is None
    light.close()
    assert brightness(led) == "0"
