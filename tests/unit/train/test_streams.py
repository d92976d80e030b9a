"""The stream protocol on synthetic window outputs whose right answers are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.common.bundle.parameters import Calibration, Decision
from speech_emotion.common.errors import UserError
from speech_emotion.infer.baseline import blend, trust_in
from speech_emotion.train.__main__ import main
from speech_emotion.train.evaluation.streams import choice
from speech_emotion.train.evaluation.streams.figures import (
    AFTER,
    Judged,
    figures,
    judge,
    listen,
    listen_to_all,
    make_streams,
)
from speech_emotion.train.evaluation.streams.scenarios import HISTORY, SCENARIOS
from speech_emotion.train.evaluation.streams.window_outputs import (
    Parameters,
    WindowOutputs,
    parameters,
    read_outputs,
)
from tests.support.window_outputs import write_outputs

TO = Baseline((0.0,) * 4, (0.0,) * 4, prior_s=5.0, trust=0.8, evidence_s=5.0)
GIVEN = Parameters(TO)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("outputs")
    return [write_outputs(folder, name, seed) for seed, name in enumerate(("A", "B", "C"))]


@pytest.fixture(scope="module")
def corpora(files: list[Path]) -> list[WindowOutputs]:
    return read_outputs(files, 0.7)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_streams_are_seeded_and_judge_no_clip_that_they_have_heard(
    corpora: list[WindowOutputs], scenario: str
) -> None:
    outputs = corpora[0]
    streams, again = (make_streams(outputs, scenario, (0, 1)) for _ in range(2))
    assert [s.history.tolist() for s in streams] == [s.history.tolist() for s in again]
    assert {stream.speaker for stream in streams} == set(range(6))
    for stream in streams:
        assert len(stream.history) == HISTORY
        assert set(outputs.speaker[stream.tests]) == {stream.speaker}
        assert not set(stream.history) & set(stream.tests)


def test_scenarios_are_what_their_names_say(corpora: list[WindowOutputs]) -> None:
    outputs, seeds = corpora[0], range(5)

    def heard(scenario: str) -> list[np.ndarray]:
        return [stream.history for stream in make_streams(outputs, scenario, seeds)]

    for share in (0.4, 0.7, 0.9):
        truth = outputs.truth[np.concatenate(heard(f"{share:.0%}".replace("%", " % neutral")))]
        assert np.mean(truth == 2) == pytest.approx(share, abs=0.05)
    for scenario in ("one emotion only", "one emotion, then all"):
        assert all(len(set(outputs.truth[one])) == 1 for one in heard(scenario))
    for stream in make_streams(outputs, "one emotion only", seeds):
        assert len(set(outputs.truth[[*stream.history, *stream.tests]])) == 1
    for stream in make_streams(outputs, "speakers in turn", seeds):
        people = outputs.speaker[stream.history]
        assert len(set(people)) == 3
        assert (people[3:] == people[:-3]).all()
    for stream in make_streams(outputs, "another voice in the middle", seeds):
        assert len(stream.before) == HISTORY
        assert stream.speaker not in outputs.speaker[stream.before]
        assert set(outputs.speaker[stream.history]) == {stream.speaker}


def test_another_microphone_is_heard_and_judged_after_the_first_one(
    corpora: list[WindowOutputs], tmp_path: Path
) -> None:
    outputs = corpora[0]
    streams = make_streams(outputs, "another microphone in the middle", (0,))
    assert len(streams) == 6
    for stream in streams:
        assert outputs.plain[stream.before].all()
        assert not outputs.plain[[*stream.history, *stream.tests]].any()
        originals = np.flatnonzero(np.isin(outputs.twin, stream.tests))
        assert not set(originals) & set(stream.before)
        assert sorted(outputs.truth[originals]) == sorted(outputs.truth[stream.tests])
    (without,) = read_outputs([write_outputs(tmp_path, "D", 3, twins=False)], 0.7)
    assert (without.twin == -1).all()
    assert make_streams(without, "another microphone in the middle", (0,)) == []
    assert "another microphone in the middle" not in listen_to_all([without], TO, (0,))


def test_all_windows_at_once_equal_the_live_blend(corpora: list[WindowOutputs]) -> None:
    outputs, to = corpora[0], dataclasses.replace(TO, temperature=1.4)
    heard = listen(outputs, make_streams(outputs, "70 % neutral", (0,)), to)
    found = judge(heard, len(AFTER) - 1, 0.9, to).probabilities
    live = dataclasses.replace(to, bias=tuple(outputs.bias))
    for k, clip in enumerate(heard.clips):
        trust = trust_in(heard.states[-1][heard.stream[k]], live, 2)
        rows = []
        for row in np.flatnonzero(outputs.clip == clip):
            scores, heat = blend(outputs.cold[row], outputs.relative[row], 0.9, trust, live)
            raised = np.exp(scores / heat)
            rows.append(raised / raised.sum())
        assert found[k] == pytest.approx(np.mean(rows, axis=0))


def test_figures_show_the_gain_and_nothing_before_the_first_utterance(
    corpora: list[WindowOutputs],
) -> None:
    heard = listen_to_all(corpora, TO, (0,))
    found = figures(heard, GIVEN, {outputs.name: TO for outputs in corpora})
    for scenario, rows in found["scenarios"].items():
        for row in rows.values():
            change = scenario.endswith("in the middle")
            assert (row["after"]["0"]["gain"] == 0.0) != change
            assert row["after"]["0"]["uar"] == row["cold"]["uar"] + row["after"]["0"]["gain"]
    last = found["summary"]["70 % neutral"]["20"]
    assert last["gain"] > 0.05
    assert last["worst_gain"] <= last["gain"]
    assert last["worst_ci"][0] < last["worst_gain"] < last["worst_ci"][1]
    # Without the guard against one-sided streams the emotion would be subtracted away.
    careless = dataclasses.replace(TO, mixed=4.0, one_sided=5.0)
    lost = figures(heard, GIVEN, {outputs.name: careless for outputs in corpora})
    alone = [table["summary"]["one emotion only"]["20"]["gain"] for table in (lost, found)]
    assert alone[0] < alone[1] - 0.05


def test_labels_follow_the_bundles_decision() -> None:
    """Four utterances, two of them neutral; the label needs a lead over neutral of its bias."""
    probabilities = np.array(
        [
            [0.7, 0.1, 0.1, 0.1],
            [0.3, 0.1, 0.5, 0.1],
            [0.9, 0.05, 0.025, 0.025],
            [0.4, 0.1, 0.3, 0.2],
        ]
    )
    judged = Judged(np.zeros(4, np.int64), np.array([2, 2, 0, 0]), probabilities)

    def rates(**decision: Any) -> tuple[float, float]:
        found = judged.labelled(Parameters(TO, Calibration(), Decision(**decision)), 2)
        return found["false_per_100"], found["found_per_100"]

    assert rates() == (50.0, 100.0)
    assert rates(bias=(0.0, 0.0, 0.5, 0.0)) == (50.0, 50.0)
    assert rates(min_utterance_confidence=0.8) == (0.0, 50.0)


def test_a_choice_gains_within_the_allowed_loss() -> None:
    scenarios = list(SCENARIOS)
    gain = np.zeros((4, len(scenarios), len(AFTER)))
    gain[1, :, -1] = 0.02
    gain[2, :, -1] = 0.05
    gain[2, scenarios.index("one emotion only"), -1] = -0.04  # the most gain, but a loss
    gain[3, :, -1] = 0.01
    assert choice.best({"A": gain, "B": gain}, scenarios, ["A", "B"]) == 1
    gain[:, :, 1] = -0.03
    gain[3, :, 1] = -0.02
    assert choice.best({"A": gain, "B": gain}, scenarios, ["A", "B"]) == 3  # loses least


def test_the_temperature_is_that_of_the_least_cross_entropy(corpora: list[WindowOutputs]) -> None:
    heard = listen_to_all(corpora, TO, (0,))
    sharp = [
        dataclasses.replace(one, cold=3.0 * one.cold, relative=3.0 * one.relative)
        for one in corpora
    ]
    names = [one.name for one in corpora]
    plain = choice.fit_temperature(heard, names, 1.0, TO)
    assert choice.fit_temperature(listen_to_all(sharp, TO, (0,)), names, 3.0, TO) > plain


def test_the_command_chooses_and_writes_figures(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    flags = ["--choose", "3", "--seeds", "1", "--json", str(out)]
    assert main(["streams", *map(str, files), *flags]) == 0
    shown = capsys.readouterr().out
    assert "chosen by all corpora: prior_s=" in shown
    assert "| 70 % neutral |" in shown
    found = json.loads(out.read_text())
    assert set(found["parameters"]) == {"A", "B", "C"}
    text = choice.text(Baseline(**found["chosen"]))
    again = parameters(None, text.split()).baseline
    assert dataclasses.asdict(again) | {"bias": 0, "prior": 0} == {
        **found["chosen"],
        "bias": 0,
        "prior": 0,
    }


def test_outputs_with_a_prior_per_window_are_read(files: list[Path], tmp_path: Path) -> None:
    table = dict(np.load(files[0]))
    n = len(table["clip"])
    table |= {"prior": np.tile([1.0, 2.0, 3.0, 4.0], (n, 1)), "bias": np.ones((n, 4))}
    np.savez(tmp_path / "new.npz", **table)
    (one,) = read_outputs([tmp_path / "new.npz"], 0.7)
    (plain,) = read_outputs(files[:1], 0.7)
    assert one.relative == pytest.approx(plain.relative - [1.0, 2.0, 3.0, 4.0])
    assert one.bias.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere.npz"], "nowhere.npz: no such file"),
        (["short.npz"], "short.npz: has no array relative"),
        (["text.npz"], "text.npz: is not a readable npz file"),
        (["one.npz", "--choose", "3"], "at least three corpora"),
        (["one.npz", "--set", "trust=much"], "--set trust=much: must be KEY=NUMBER"),
        (["one.npz", "--set", "trust=2"], "--set: baseline.trust = 2.0 must be 0 to 1"),
        (["one.npz", "--set", "voice=2"], "--set: baseline.voice is not a key"),
    ],
)
def test_a_mistake_is_one_line(
    files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    line: str,
) -> None:
    table = dict(np.load(files[0]))
    np.savez(tmp_path / "one.npz", **table)
    del table["relative"]
    np.savez(tmp_path / "short.npz", **table)
    (tmp_path / "text.npz").write_text("no archive")
    assert main(["streams", str(tmp_path / words[0]), *words[1:]]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert line in shown


def test_a_bundle_gives_its_parameters() -> None:
    root = Path(__file__).resolve().parents[3]
    given = parameters(root / "tests" / "data" / "models" / "relative", ["trust=0.2"])
    assert given.decision.min_speech == 0.5
    assert (given.baseline.trust, given.baseline.prior_s) == (0.2, 2.0)
    with pytest.raises(UserError, match="no such bundle folder"):
        parameters(root / "nowhere", [])
