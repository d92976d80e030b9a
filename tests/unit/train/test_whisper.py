"""Whisper's layers in training: readers, targets, discriminants, and the graph against numpy."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erf

from speech_emotion.common.errors import UserError
from speech_emotion.train.data.clips import Clip
from speech_emotion.train.data.corpora import read_corpus
from speech_emotion.train.data.soft_targets import cell_weights, read_votes, soft_targets
from speech_emotion.train.model.whisper.discriminant import (
    common_means,
    moments,
    softmax,
    solve,
    speaker_folds,
)
from speech_emotion.train.model.whisper.heads import HeadTrainingSet, split_corpora
from speech_emotion.train.model.whisper.weights import layer_count, load_weights
from speech_emotion.train.model.whisper.window_statistics import WindowStatistics

WIDTH, BANDS, FRAMES = 64, 8, 12


def tiny_encoder(layers: int = 2) -> dict[str, NDArray[np.float32]]:
    """Random weights of an encoder of one head of 64."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> NDArray[np.float32]:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[-1]), np.float32)

    weights = {
        "conv1/weight": random(WIDTH, BANDS, 3),
        "conv1/bias": random(WIDTH),
        "conv2/weight": random(WIDTH, WIDTH, 3),
        "conv2/bias": random(WIDTH),
        "position_encodings/encodings": random(FRAMES, WIDTH),
        "layer_norm/gamma": random(WIDTH),
    }
    for i in range(layers):
        for part, sizes in {
            "self_attention": ((3 * WIDTH, WIDTH), (WIDTH, WIDTH)),
            "ffn": ((4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)),
        }.items():
            prefix = f"layer_{i}/{part}"
            weights[f"{prefix}/layer_norm/gamma"] = 1 + random(WIDTH)
            weights[f"{prefix}/layer_norm/beta"] = random(WIDTH)
            for k, shape in enumerate(sizes):
                weights[f"{prefix}/linear_{k}/weight"] = random(*shape)
                weights[f"{prefix}/linear_{k}/bias"] = random(shape[0])
    return weights


def ctranslate2_file(weights: dict[str, NDArray[np.float32]]) -> bytes:
    """The format that `load_weights` reads."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<I", 3)
    data += struct.pack("<I", len(weights) + 1)
    for name, array in {"decoder/x": np.zeros(3, np.float32), **weights}.items():
        stored = array.astype(np.float16) if name.endswith("conv1/weight") else array
        full = name if name.startswith("decoder/") else f"encoder/{name}"
        data += string(full) + struct.pack("<B", stored.ndim)
        data += struct.pack(f"<{stored.ndim}I", *stored.shape)
        data += struct.pack("<BI", 4 if stored.dtype == np.float16 else 0, stored.nbytes)
        data += stored.tobytes()
    return data


def test_weights_come_from_a_file_or_from_two_wheels(tmp_path: Path) -> None:
    wanted = tiny_encoder()
    data = ctranslate2_file(wanted)
    (tmp_path / "model.bin").write_bytes(data)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for number, part in enumerate((data[:1000], data[1000:]), start=1):
        with zipfile.ZipFile(wheels / f"p{number}.whl", "w") as archive:
            archive.writestr(f"p{number}/data/model.bin.part{number}", part)
    for source in (tmp_path / "model.bin", wheels):
        found = load_weights(source)
        assert set(found) == set(wanted)
        assert layer_count(found) == 2
        np.testing.assert_allclose(found["conv1/weight"], wanted["conv1/weight"], atol=1e-3)
        np.testing.assert_array_equal(
            found["layer_1/ffn/linear_0/weight"], wanted["layer_1/ffn/linear_0/weight"]
        )


@pytest.mark.parametrize("content", [b"", b"no model at all", struct.pack("<I", 6) * 9])
def test_an_invalid_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a CTranslate2 model|no Whisper encoder"):
        load_weights(path)
    with pytest.raises(UserError, match="no such file"):
        load_weights(tmp_path / "nothing")


def reference(
    mel: NDArray[np.float32], w: dict[str, NDArray[np.float32]], layers: int
) -> list[dict[str, NDArray[np.float32]]]:
    """Whisper's encoder in numpy, with the exact GELU."""

    def gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(x * 0.5 * (1 + erf(x / np.sqrt(2))), np.float32)

    def norm(x: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return np.asarray(scaled * w[f"{name}gamma"] + w[f"{name}beta"])

    def conv(x: NDArray[np.float32], name: str, stride: int) -> NDArray[np.float32]:
        padded = np.pad(x, ((1, 1), (0, 0)))
        rows = [
            np.einsum("ki,oik->o", padded[t : t + 3], w[f"{name}/weight"])
            for t in range(0, len(x), stride)
        ]
        return gelu(np.array(rows) + w[f"{name}/bias"])

    x = conv(conv(mel, "conv1", 1), "conv2", 2)
    x = x + w["position_encodings/encodings"][: len(x)]
    found = []
    for i in range(layers):
        a, f = f"layer_{i}/self_attention/", f"layer_{i}/ffn/"
        qkv = norm(x, f"{a}layer_norm/") @ w[f"{a}linear_0/weight"].T + w[f"{a}linear_0/bias"]
        q, k, v = np.split(qkv, 3, axis=1)
        mixed = (softmax(q @ k.T / 8.0) @ v).astype(np.float32)
        x = x + mixed @ w[f"{a}linear_1/weight"].T + w[f"{a}linear_1/bias"]
        rest = x
        hidden = gelu(
            norm(x, f"{f}layer_norm/") @ w[f"{f}linear_0/weight"].T + w[f"{f}linear_0/bias"]
        )
        x = x + hidden @ w[f"{f}linear_1/weight"].T + w[f"{f}linear_1/bias"]
        found.append({"mean": x, "rest": rest, "mixed": mixed, "hidden": hidden})
    return found


def speech_weights(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    level = mel.mean(axis=1) * 40
    level = (level[0::2] + level[1::2]) / 2
    weight = 1 / (1 + np.exp(-(level - level.max() + 20) / 4))
    return np.asarray(weight / weight.sum(), np.float32)


def test_the_graph_equals_whisper_and_pools_over_speech() -> None:
    pytest.importorskip("tensorflow")
    from speech_emotion.train.model.whisper.graph import pooled_graph

    weights = tiny_encoder()
    rng = np.random.default_rng(1)
    mel = rng.normal(0.5, 0.3, (FRAMES, BANDS)).astype(np.float32)
    mel[-4:] = -0.75
    names = ("mean1", "mean2", "std2", "mixed2", "hidden1", "rest2", "melmean")
    found = np.asarray(pooled_graph(weights, FRAMES, BANDS, names)(mel[np.newaxis]))[0]
    layers, share = reference(mel, weights, 2), speech_weights(mel)
    mean2 = share @ layers[1]["mean"]
    wanted = np.concatenate(
        [
            share @ layers[0]["mean"],
            mean2,
            np.sqrt(share @ np.square(layers[1]["mean"] - mean2) + 1e-5),
            share @ layers[1]["mixed"],
            share @ layers[0]["hidden"],
            share @ layers[1]["rest"],
            share @ ((mel[0::2] + mel[1::2]) / 2),
        ]
    )
    np.testing.assert_allclose(found, wanted, atol=5e-3)
    assert share[-2:].max() < 0.1 * share.max()


def test_eight_bits_give_nearly_the_same_statistics() -> None:
    pytest.importorskip("tensorflow")
    from speech_emotion.train.bundle.writer import run_tflite_all
    from speech_emotion.train.model.export import to_tflite
    from speech_emotion.train.model.whisper.graph import pooled_graph

    mel = np.random.default_rng(1).normal(0.5, 0.3, (1, FRAMES, BANDS)).astype(np.float32)
    model = pooled_graph(tiny_encoder(), FRAMES, BANDS, ("mean2", "melstd"))
    exact = np.asarray(model(mel))[0]
    found = run_tflite_all(to_tflite(model, quantized=True), mel, "frames,dims")[0]
    assert np.corrcoef(exact, found)[0, 1] > 0.99


# --- readers and targets -------------------------------------------------------------------


def test_emospeech_in_its_public_layout(tmp_path: Path) -> None:
    for name in (
        "help-safe-angry-1563261412-A81f.wav",
        "go-street-calm-1563261413-77c0.wav",
        "go-street-calm-1563261413-unknown.wav",
        "noise.wav",
    ):
        (tmp_path / name).touch()
    clips = read_corpus("emospeech", tmp_path)
    assert [(c.speaker, c.emotion) for c in clips] == [
        ("EMOSPEECH_77c0", "calm"),
        ("EMOSPEECH_a81f", "angry"),
    ]


def _clip(name: str, emotion: str = "angry", corpus: str = "CREMAD") -> Clip:
    return Clip(Path(f"{name}.wav"), corpus, f"{corpus}_1", "", emotion, name)


def test_votes_soften_targets(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(
        "clip,raters,angry,disgust,fear,happy,neutral,sad,mean_intensity\n"
        "1001_DFA_ANG_XX,10,5,0,0,0,5,0,60.5\n"
    )
    votes = read_votes(path)
    assert votes["1001_DFA_ANG_XX"].intensity == 60.5
    labels = ("angry", "happy", "neutral", "sad")
    clips = [_clip("1001_DFA_ANG_XX"), _clip("other")]
    found = soft_targets(clips, np.array([0, 3]), labels, votes, smoothing=0.0, trust=0.5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert 0.7 < found[0, 0] < 0.8
    assert 0.2 < found[0, 2] < 0.3
    np.testing.assert_allclose(found[1], [0, 0, 0, 1])


def test_a_table_without_a_column_of_votes_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text("clip,raters\n1,2\n")
    with pytest.raises(UserError, match="has no column"):
        read_votes(path)
    with pytest.raises(UserError, match="not a table of votes"):
        read_votes(tmp_path / "nothing.csv")


def test_corpora_and_their_labels_have_equal_weight() -> None:
    corpus = np.array(["A"] * 6 + ["B"] * 2)
    truth = np.array([0, 0, 0, 0, 0, 1, 0, 1])
    weight = cell_weights(corpus, truth)
    assert weight[corpus == "A"].sum() == pytest.approx(weight[corpus == "B"].sum())
    assert weight[:5].sum() == pytest.approx(weight[5])


# --- discriminants -------------------------------------------------------------------------


def _corpus(
    offset: NDArray[np.float32], flip: float, labels: tuple[int, ...], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Column 0 separates the labels everywhere; column 1 better, with a sign per corpus."""
    rng = np.random.default_rng(seed)
    truth = np.array(labels)[rng.integers(len(labels), size=600)]
    x = rng.standard_normal((600, 4)).astype(np.float32)
    x[:, 0] += 1.5 * truth
    x[:, 1] += 3.0 * flip * truth
    return x + offset, truth


def test_directions_that_differ_between_corpora_are_suppressed() -> None:
    zero = np.zeros(4, np.float32)
    known = [_corpus(zero, flip, (0, 1), seed) for seed, flip in enumerate((1.0, 1.0, -0.8))]
    found = [moments(x, np.eye(2, dtype=np.float32)[t], t) for x, t in known]
    left_out, truth = _corpus(zero, -1.0, (0, 1), 9)

    def right(spread: float) -> float:
        scores = solve(found, spread=spread, ridge=0.1).scores(left_out)
        return float((scores.argmax(axis=1) == truth).mean())

    assert right(0.0) < 0.6
    assert right(10.0) > 0.75


def test_a_corpus_without_a_label_does_not_shift_the_means() -> None:
    far = np.array([50.0, 0.0, 0.0, 0.0], np.float32)
    near = np.zeros(4, np.float32)
    known = [_corpus(near, 0, (0, 1), 1), _corpus(near, 0, (0, 1), 2), _corpus(far, 0, (0,), 3)]
    found = [moments(x, np.eye(2, dtype=np.float32)[t], t) for x, t in known]
    means, _ = common_means(found)
    assert means[1, 0] - means[0, 0] == pytest.approx(1.5, abs=0.3)


def test_corpora_that_are_not_trained_on_are_set_aside() -> None:
    clips = [Clip(Path(f"{i}.wav"), c, f"{c}{i}", "", "sad", f"{i}") for i, c in enumerate("ABAC")]
    clip = np.array([0, 1, 1, 2, 3, 3], np.int32)
    x = np.arange(6, dtype=np.float16)[:, np.newaxis]
    noise = np.zeros((0, 1), np.float16)
    windows = WindowStatistics(x, clip, np.zeros(6, np.float32))
    everything = HeadTrainingSet(clips, [windows], noise, {})

    assert split_corpora(everything, ()) == (everything, None)
    assert split_corpora(everything, ("A", "B", "C")) == (everything, None)
    inside, others = split_corpora(everything, ("A",))
    assert [c.name for c in inside.clips] == ["0", "2"]
    assert inside.renderings[0].x.ravel().tolist() == [0, 3]
    assert inside.renderings[0].clip.tolist() == [0, 1]
    assert others is not None
    assert [c.name for c in others.clips] == ["1", "3"]
    assert others.renderings[0].x.ravel().tolist() == [1, 2, 4, 5]
    assert others.renderings[0].clip.tolist() == [0, 0, 1, 1]


def test_a_speaker_is_in_one_fold() -> None:
    corpus = np.repeat(["A", "B"], 40)
    speaker = np.char.add(corpus, np.tile(np.repeat(list("abcdefgh"), 5), 2))
    fold = speaker_folds(corpus, speaker, 4, seed=0)
    for name in np.unique(speaker):
        assert len(set(fold[speaker == name].tolist())) == 1
    for name in ("A", "B"):
        assert set(fold[corpus == name].tolist()) == {0, 1, 2, 3}
