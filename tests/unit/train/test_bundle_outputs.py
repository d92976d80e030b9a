"""Window outputs of a bundle for clips, and the clips through another microphone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion.train.__main__ import main
from speech_emotion.train.data.clips import Clip
from speech_emotion.train.evaluation.streams.bundle_outputs import Selection, microphone
from speech_emotion.train.evaluation.streams.window_outputs import read_outputs
from tests.support.pipelines import ROOT, offline

RELATIVE = ROOT / "tests" / "data" / "models" / "relative"
SPEECH = sorted((ROOT / "tests" / "data").glob("speech_*.flac"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "manifest.csv"
    rows = [
        f"{file},X,s{k},{emotion}"
        for k, (file, emotion) in enumerate(zip(SPEECH, ("happy", "neutral", "fear"), strict=True))
    ]
    path.write_text("path,corpus,speaker,emotion\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.slow
def test_outputs_are_those_of_the_live_code(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    words = ["outputs", "--bundle", str(RELATIVE), "--manifest", str(manifest), "--out", str(out)]
    assert main([*words, "--microphone"]) == 0
    table = np.load(out)
    assert set(table["speaker"]) == {"s0", "s1"}  # the bundle has no label fear
    assert set(table["rendering"]) == {0, 1}
    for k in (0, 1):
        results = offline(SPEECH[k], RELATIVE, "--baseline=off")
        live = [[*row["probabilities"].values()] for row in results if row.get("state") == "speech"]
        rows = (table["clip"] == k) & (table["rendering"] == 0)
        assert table["cold"][rows] == pytest.approx(np.array(live), abs=1e-4)
    (outputs,) = read_outputs([out], 0.5)
    assert outputs.twin[outputs.plain].tolist() == [1, 3]
    assert (outputs.twin[~outputs.plain] == -1).all()


def test_a_microphone_changes_the_spectrum_and_keeps_the_level() -> None:
    samples, rate = soundfile.read(SPEECH[0], dtype="float32")

    def share(x: np.ndarray, low: float, high: float) -> float:
        power = np.abs(np.fft.rfft(x)) ** 2
        at = np.fft.rfftfreq(len(x), 1.0 / rate)
        return float(power[(at >= low) & (at < high)].sum() / power.sum())

    phone, thin, dull = (microphone(samples, rate, number) for number in range(3))
    assert share(phone, 0, 200) < 0.1 * share(samples, 0, 200)
    assert share(thin, 0, 500) < share(samples, 0, 500) < share(dull, 0, 500)
    assert share(thin, 2000, 8000) > share(samples, 2000, 8000) > share(dull, 2000, 8000)
    for tilted in (thin, dull):
        assert np.std(tilted) == pytest.approx(np.std(samples), rel=0.1)


def test_a_selection_is_seeded_and_bounded() -> None:
    clips = [
        Clip(Path(f"{s}{e}{k}"), "X", f"s{s}", "", e, "")
        for s in range(5)
        for e in ("happy", "sad")
        for k in range(6)
    ]
    kept = Selection(speakers=2, clips=3).of(clips)
    assert len(kept) == 2 * 2 * 3
    assert len({clip.speaker for clip in kept}) == 2
    assert kept == Selection(speakers=2, clips=3).of(clips)
    assert Selection().of(clips) == clips


def test_a_bundle_without_a_baseline_is_refused(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--manifest", str(manifest), "--out", str(tmp_path / "out.npz")]
    assert main(["outputs", "--bundle", str(ROOT / "models" / "small"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no baseline; its model gives no relative scores" in line
