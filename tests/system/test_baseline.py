"""The baseline in a running pipeline: live equals offline, kills, swaps, `baseline forget`."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from speech_emotion.common.wire import public
from tests.support import personal
from tests.support.bundles import change
from tests.support.pipelines import (
    PATIENCE_S,
    ROOT,
    Received,
    Running,
    check_beginning,
    more_results,
    offline,
    wait_until,
)
from tests.support.swaps import exchanges, swap, with_exchanges

Supervise = Callable[..., Running]
Clip = Callable[..., Path]

RELATIVE = ROOT / "tests" / "data" / "models" / "relative"
RELATIVE_2 = ROOT / "tests" / "data" / "models" / "relative-2"
"""Bundles of the same grid with a baseline that gains trust within seconds."""


def forget(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "supervisor.py", "baseline", "forget", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )


def infer(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infer", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )


def adapted(received: Any) -> bool:
    return any(result.baseline for result in received.fresh(public.Result))


def adapted_or_ended(running: Running, more: Callable[[Received], bool]) -> bool:
    ended = running.process.poll() is not None
    return ended or (adapted(running.received) and more(running.received))


def without(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("baseline")} for row in rows]


@pytest.mark.costly_cases
@pytest.mark.parametrize("speed", ["realtime", "max"])
def test_live_equals_offline_with_stages_killed(
    supervise: Supervise, clip: Clip, tmp_path: Path, speed: str
) -> None:
    path = clip(50.0, repeat=1 if speed == "realtime" else 40)
    # Also with a map of the bundle's users.
    bundle = RELATIVE if speed == "realtime" else personal.adapted(tmp_path, RELATIVE)
    running = supervise(f"--source=file:{path}", f"--speed={speed}", f"--bundle={bundle}")
    killed = 0
    for stage in ("infer", "features", "infer"):
        more = more_results(len(running.received.fresh(public.Result)))
        wait_until(functools.partial(adapted_or_ended, running, more), "a result with the baseline")
        if (victim := running.stages().get(stage)) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                killed += 1
    code, stderr, received = running.stopped() if speed == "realtime" else running.ended()
    assert code == 0, stderr
    assert killed
    if speed == "realtime":
        check_beginning(received.stream(), offline(path, bundle))
    else:
        assert received.stream() == offline(path, bundle)


def test_it_changes_results_only_after_the_first_utterance(clip: Clip) -> None:
    path = clip(25.0)
    warm = offline(path, RELATIVE)
    cold = offline(path, RELATIVE, "--baseline=off")
    began = next(k for k, row in enumerate(warm) if row.get("baseline"))
    assert without(warm[:began]) == without(cold[:began])
    assert any(row["kind"] == "utterance" for row in warm[:began])
    assert without(warm[began:]) != without(cold[began:])
    assert {row["baseline"] for row in cold if row["kind"] == "result"} == {None}


@pytest.mark.costly_cases
@pytest.mark.parametrize("stream", [[], ["--stream=main-2"]])
def test_forgetting_takes_effect_once_at_the_window_that_is_declared(
    supervise: Supervise, clip: Clip, stream: list[str]
) -> None:
    paths = [clip(50.0), clip(50.0, start=3.0, name="second")]
    running = supervise(*(f"--source=file:{path}" for path in paths), f"--bundle={RELATIVE}")
    names = ["main", "main-2"]
    running.subscriber.wait_for(
        lambda received: all(
            any(result.baseline for result in received.fresh(public.Result, name)) for name in names
        )
    )
    done = forget(*stream)
    assert done.returncode == 0, done.stderr
    running.stages()["infer"].kill()  # before it has answered for the window
    forgotten = names if not stream else ["main-2"]
    running.subscriber.wait_for(
        lambda received: all(
            any(result.baseline_forgotten for result in received.fresh(public.Result, name))
            for name in forgotten
        )
    )
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    for name, path in zip(names, paths, strict=True):
        results = received.fresh(public.Result, name)
        at = [result.seq for result in results if result.baseline_forgotten]
        if stream and name == "main":
            assert at == []
        else:
            assert f"{name} from window {at[0]} on" in done.stdout
            assert [result.baseline for result in results if result.seq == at[0]] == [0.0]
        flags = [f"--forget-at={seq}" for seq in at]
        expected = [{**row, "stream": name} for row in offline(path, RELATIVE, *flags)]
        check_beginning(received.stream(name), expected)


def test_a_swap_restarts_the_baseline_and_loses_nothing(supervise: Supervise, clip: Clip) -> None:
    path = clip(50.0, repeat=3)
    running = supervise(f"--source=file:{path}", f"--bundle={RELATIVE}")
    running.subscriber.wait_for(adapted)
    assert swap(RELATIVE_2).returncode == 0
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    began = exchanges(received.fresh(public.Result))
    folders = {"relative": RELATIVE, "relative-2": RELATIVE_2}
    plan = [(at, folders[name.partition("@")[0]]) for at, name in began]
    assert len(plan) == 2
    check_beginning(received.stream(), with_exchanges(path, plan))
    (first,) = [r for r in received.fresh(public.Result) if r.seq == plan[1][0]]
    assert first.baseline == 0.0


def test_off_is_off_and_says_that_nothing_is_held(supervise: Supervise, clip: Clip) -> None:
    path = clip(50.0, repeat=3)
    running = supervise(f"--source=file:{path}", f"--bundle={RELATIVE}", "--baseline=off")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    done = forget()
    assert (done.returncode, "off" in done.stdout) == (0, True)
    wrong = forget("--stream=hall")
    assert (wrong.returncode, wrong.stdout) == (2, "hall: no such stream; streams: main\n")
    running.process.terminate()
    code, stderr, received = running.ended()
    assert code == 0, stderr
    results = [row for row in received.stream() if row["kind"] == "result"]
    expected = [row for row in offline(path, RELATIVE, "--baseline=off") if row["kind"] == "result"]
    assert results == expected[: len(results)]


@pytest.mark.costly_cases
@pytest.mark.parametrize("asked", [True, False])
def test_a_bundle_without_a_baseline_says_so_only_to_those_who_ask(
    supervise: Supervise, clip: Clip, asked: bool
) -> None:
    path = clip(3.0)
    flags = ["--baseline=stream"] if asked else []
    running = supervise(f"--source=file:{path}", "--speed=max", *flags)
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert ("baseline: off, because small@" in stderr) == asked
    assert {result.baseline for result in received.fresh(public.Result)} == {None}
    done = infer(str(path), "--bundle=models/small", *flags)
    assert done.returncode == 0
    assert ("baseline: off, because small@" in done.stderr) == asked


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["supervisor.py", "--baseline=voice"], "'voice' does not exist"),
        (["-m", "infer", "x.wav", "--baseline=voice"], "'voice' does not exist"),
        (["-m", "infer", "--baseline=on"], "'on' is not known; allowed: off, stream"),
        (["-m", "infer", "--forget-at=3"], "--forget-at needs a recording"),
        (["supervisor.py", "baseline", "forget", "--stream=A B"], "stream name 'A B'"),
        (["supervisor.py", "baseline", "forget"], "no pipeline of this user is running"),
        (["supervisor.py", "baseline"], "ACTION"),
    ],
)
def test_a_mistake_is_one_line(command: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line


Table = dict[str, Any]


def no_table(table: Table) -> None:
    del table["baseline"]


def no_output(table: Table) -> None:
    del table["relative_output"]


def short_prior(table: Table) -> None:
    table["baseline"]["prior"] = [0.0, 1.0]


def too_trusting(table: Table) -> None:
    table["baseline"]["trust"] = 1.5


def no_range(table: Table) -> None:
    table["baseline"]["mixed"] = 0.7


def unknown_key(table: Table) -> None:
    table["baseline"]["voice"] = 1


def no_numbers(table: Table) -> None:
    table["baseline"]["bias"] = [float("nan")] * 4


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (no_table, "the table is missing"),
        (no_output, "relative_output is missing"),
        (short_prior, "baseline.prior = [0.0, 1.0] must be one number for each of the 4 labels"),
        (too_trusting, "baseline.trust = 1.5 must be 0 to 1"),
        (no_range, "baseline.one_sided = 0.6 must be more than baseline.mixed = 0.7"),
        (unknown_key, "baseline.voice is not a key"),
        (no_numbers, "baseline.bias = [nan, nan, nan, nan] must be one number"),
    ],
)
def test_a_wrong_baseline_table_is_one_line(
    tmp_path: Path, edit: Callable[[Table], None], words: str
) -> None:
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(RELATIVE, bundle)
    change(bundle, edit)
    done = infer("--self-test", f"--bundle={bundle}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
