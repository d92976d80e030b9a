"""The feature cores compared with the reference, librosa's own three calls.

On x86-64 the exact core equals the reference bit for bit for any sound. On other processors the
compiler may contract multiply-adds in the FFT; there, and for the fast core everywhere, the
tolerance is 1e-4. For all cores, a window's bits depend on its samples alone.

The speech is three speakers' from EMODB (Burkhardt et al., 2005; CC0-1.0).
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.features.core import (
    TUNING_EDGES,
    Banks,
    Core,
    FastCore,
    LibrosaCore,
    TuningEstimator,
    make_core,
    normalize,
    pocketfft,
)
from speech_emotion.features.reference import reference_features
from tests.support.examples import examples

Samples = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests" / "data"

ORIGINAL = FeatureSpec()
SPECS = {
    "original": ORIGINAL,
    "in tune, power": dataclasses.replace(ORIGINAL, chroma_tuning=0.0, mel="power"),
    "shipped": load_bundle(DEFAULT_BUNDLE).spec,
    "2 s, log-mel": FeatureSpec(
        window_s=2.0,
        hop_length=320,
        n_fft=512,
        n_mfcc=0,
        chroma=False,
        n_mels=40,
        mel="db",
        chroma_tuning=0.0,
        gate="adaptive",
    ),
    "48 kHz, n_fft no power of two": FeatureSpec(
        sample_rate=48000, n_fft=1200, hop_length=480, n_mfcc=13, n_mels=64
    ),
    "window shorter than n_fft": FeatureSpec(window_s=0.1, hop_s=0.1, n_mfcc=20),
    "in tune, frames shared by windows": FeatureSpec(hop_length=500, chroma_tuning=0.0),
    "shared by many windows": FeatureSpec(
        window_s=1.0, hop_s=0.1, n_fft=512, hop_length=160, n_mfcc=20, chroma=False, n_mels=40
    ),
    "shared, hop and window of uneven frames": FeatureSpec(
        window_s=1.03, hop_s=0.35, n_fft=600, hop_length=400, n_mfcc=13, chroma_tuning=0.25
    ),
}
SHARED = {name: spec for name, spec in SPECS.items() if "shared" in name}
BANKS: dict[str, Banks] = {}
KINDS = ("noise", "tone", "clicks", "silence", "faint", "square", "dc", "ramp")

pytestmark = pytest.mark.filterwarnings(
    # librosa warns on silence, on windows shorter than n_fft, on mel bands narrower than a bin
    "ignore:Trying to estimate tuning",
    "ignore:n_fft=",
    "ignore:Empty filters",
)


def speech(name: str, length: int) -> Samples:
    samples, _ = soundfile.read(DATA / f"speech_{name}.flac", dtype="float32")
    return np.resize(samples, length)


def sound(kind: str, length: int, seed: int = 0, level: float = 1.0) -> Samples:
    """Synthetic sounds that are known to break feature code."""
    rng = np.random.default_rng(seed)
    time = np.arange(length)
    if kind == "noise":
        samples = rng.uniform(-1, 1, length)
    elif kind == "tone":
        samples = np.sin(time * rng.uniform(0.01, 1.5))
    elif kind == "clicks":
        samples = (rng.random(length) < 5 / length) * rng.choice([-1.0, 1.0], length)
    elif kind == "silence":
        samples = np.zeros(length)
    elif kind == "faint":
        samples = rng.integers(-1, 2, length) / 32768
    elif kind == "square":
        samples = np.where(time // 40 % 2, 1.0, -1.0)
    elif kind == "dc":
        samples = np.ones(length)
    else:
        samples = np.linspace(0, 1, length)
    return (samples * level).astype(np.float32)


def fresh(spec: FeatureSpec) -> Core:
    return make_core(spec, Banks.from_librosa(spec))


def assert_same(actual: Samples, expected: Samples, spec: FeatureSpec) -> None:
    assert actual.dtype == expected.dtype == np.float32
    exact = spec.n_fft % 2 or (spec.chroma and spec.chroma_tuning == "estimate")
    if exact and platform.machine() in ("x86_64", "AMD64"):
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def expected_features(window: Samples, spec: FeatureSpec) -> Samples:
    """The reference features with the number of frames that `spec.frames` asks for."""
    features = reference_features(window, spec)[: spec.n_frames]
    return np.pad(features, ((0, spec.n_frames - len(features)), (0, 0)))


@pytest.fixture(scope="module", params=list(SPECS.values()), ids=list(SPECS))
def spec(request: pytest.FixtureRequest) -> FeatureSpec:
    actual: FeatureSpec = request.param
    return actual


@pytest.fixture(scope="module")
def core(spec: FeatureSpec) -> Core:
    return fresh(spec)


@pytest.mark.parametrize("level", [1.0, 0.003], ids=["as recorded", "50 dB down"])
@pytest.mark.parametrize("name", ["03a01Wa", "08a02Na", "16a02Lb"])
def test_speech_gives_the_reference_features(
    spec: FeatureSpec, core: Core, name: str, level: float
) -> None:
    samples = speech(name, 3 * spec.window) * np.float32(level)
    for window in samples.reshape(3, -1):
        assert_same(core.extract(window), expected_features(window, spec), spec)


@pytest.mark.parametrize("kind", KINDS)
def test_other_sounds_give_the_reference_features(spec: FeatureSpec, core: Core, kind: str) -> None:
    window = sound(kind, spec.window)
    assert_same(core.extract(window), expected_features(window, spec), spec)


@st.composite
def small_specs(draw: st.DrawFn) -> FeatureSpec:
    n_fft = draw(st.integers(64, 600))
    spec = FeatureSpec(
        sample_rate=draw(st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])),
        window_s=draw(st.floats(0.1, 0.3)),
        hop_s=0.1,
        n_fft=n_fft,
        hop_length=draw(st.integers(16, 700)),
        n_mfcc=draw(st.sampled_from([0, 1, 13, 128])),
        chroma=draw(st.booleans()),
        n_mels=draw(st.integers(1, 50)),
        mel=draw(st.sampled_from(["power", "db", "db_max"])),
        chroma_tuning=draw(st.just("estimate") | st.floats(-0.5, 0.5)),
    )
    spec.from_table(dataclasses.asdict(spec), "the generated spec")
    return spec


@examples(60)
@given(
    spec=small_specs(),
    kind=st.sampled_from([*KINDS, "speech"]),
    seed=st.integers(0, 1000),
    level=st.sampled_from([1.0, 0.1, 1e-4]),
)
def test_any_spec_gives_the_reference_features(
    spec: FeatureSpec, kind: str, seed: int, level: float
) -> None:
    if kind == "speech":
        window = speech("08a02Na", spec.window + seed)[seed:] * np.float32(level)
    else:
        window = sound(kind, spec.window, seed, level)
    expected = reference_features(window, spec)
    actual = make_core(spec, Banks.from_librosa(spec)).extract(window)
    assert actual.shape == (spec.n_frames, spec.dims)
    assert_same(actual[: len(expected)], expected, spec)


@examples(100)
@given(
    cents=st.floats(-50, 50),
    seed=st.integers(0, 1000),
    noise=st.sampled_from([0.0, 0.01, 1.0]),
    partials=st.integers(0, 12),
)
def test_the_tuning_is_the_one_librosa_estimates(
    cents: float, seed: int, noise: float, partials: int
) -> None:
    rng = np.random.default_rng(seed)
    time = np.arange(ORIGINAL.window) / ORIGINAL.sample_rate
    window = noise * rng.standard_normal(ORIGINAL.window)
    for note in rng.integers(-12, 36, partials):
        window += np.sin(2 * np.pi * 440.0 * 2 ** ((note + cents / 100) / 12) * time)
    stft = librosa.stft(window.astype(np.float32), n_fft=ORIGINAL.n_fft, hop_length=512)
    power = np.abs(stft) ** 2
    tuning = librosa.estimate_tuning(S=power, sr=ORIGINAL.sample_rate)
    actual = TuningEstimator(ORIGINAL).estimate(np.ascontiguousarray(power.T))
    assert TUNING_EDGES[actual] == tuning


@examples(100)
@given(
    seed=st.integers(0, 10_000),
    levels=st.integers(2, 5),
    density=st.sampled_from([0.0003, 0.001, 0.01, 1.0]),
)
def test_ties_are_resolved_like_librosa_does(seed: int, levels: int, density: float) -> None:
    """Few peaks, plateaus and equal heights, which are rare in real sound."""
    rng = np.random.default_rng(seed)
    shape = ORIGINAL.natural_frames, 1 + ORIGINAL.n_fft // 2
    peaks = rng.integers(0, levels, shape) * (rng.random(shape) < density)
    power = peaks.astype(np.float32)
    tuning = librosa.estimate_tuning(S=power.T, sr=ORIGINAL.sample_rate)
    assert TUNING_EDGES[TuningEstimator(ORIGINAL).estimate(power)] == tuning


@pytest.mark.parametrize(
    "uncovered",
    [
        FeatureSpec(n_fft=2047, n_mfcc=13),
        FeatureSpec(sample_rate=8000, n_fft=66, hop_length=60, n_mfcc=13),
    ],
    ids=["odd n_fft", "Nyquist bin searched for pitch"],
)
def test_a_spec_that_no_core_covers_falls_back_to_librosa(uncovered: FeatureSpec) -> None:
    core = make_core(uncovered, Banks.from_librosa(uncovered))
    assert isinstance(core, LibrosaCore)
    window = speech("03a01Wa", uncovered.window)
    np.testing.assert_array_equal(core.extract(window), reference_features(window, uncovered))


def test_the_same_window_gives_the_same_bits_in_any_order(spec: FeatureSpec) -> None:
    windows = [speech("03a01Wa", spec.window), *(sound(kind, spec.window) for kind in KINDS)]
    core = fresh(spec)
    first = [core.extract(window).tobytes() for window in windows]
    order = np.random.default_rng(0).permutation(3 * len(windows)) % len(windows)
    for k in order:
        assert core.extract(windows[k]).tobytes() == first[k]
    assert [fresh(spec).extract(window).tobytes() for window in windows] == first


@pytest.mark.parametrize("spec", SHARED.values(), ids=SHARED)
def test_frames_are_shared_where_the_spec_says_so(spec: FeatureSpec) -> None:
    """Frames of the previous window are not computed again."""
    core = fresh(spec)
    assert isinstance(core, FastCore)
    computed: list[int] = []
    compute = core._batch.compute

    def counted(frame: Any, row: Any, count: int) -> Any:
        computed.append(count)
        return compute(frame, row, count)

    core._batch.compute = counted  # type: ignore[method-assign]
    samples = speech("03a01Wa", 6 * spec.window)
    for k in range(4):
        core.extract(samples[k * spec.hop :][: spec.window])
    assert sum(computed[:-3]) >= spec.natural_frames - core._batch.inner[0]
    start, stop = core._batch.inner
    assert computed[-3:] == [spec.hop // spec.hop_length + spec.natural_frames - stop] * 3
    assert computed[-1] + start < spec.natural_frames


WINDOWS = 8


@functools.cache
def in_order(name: str) -> tuple[FeatureSpec, dict[str, Samples], dict[tuple[str, int], bytes]]:
    """A spec, two voices, and the features of their first windows, read in order."""
    spec = SPECS[name]
    core = make_core(spec, BANKS.setdefault(name, Banks.from_librosa(spec)))
    length = spec.window + (WINDOWS - 1) * spec.hop
    sounds = {
        voice: speech(voice, length) + np.float32(0.01) * sound("noise", length, seed)
        for seed, voice in enumerate(("03a01Wa", "16a02Lb"))
    }
    sounds["16a02Lb"][: length // 2] = 0.0  # a gap, as the ring shows it
    streams = {voice: core.stream() for voice in sounds}
    bits = {
        (voice, k): streams[voice].extract(sounds[voice][k * spec.hop :][: spec.window]).tobytes()
        for k in range(WINDOWS)
        for voice in sounds
    }
    return spec, sounds, bits


@examples(40)
@given(data=st.data())
@pytest.mark.parametrize("name", SPECS)
def test_a_window_has_the_same_bits_from_any_start(name: str, data: st.DataObject) -> None:
    """In order, from any window on, with jumps, and interleaved with another stream."""
    spec, sounds, bits = in_order(name)
    voices, starts = st.sampled_from(sorted(sounds)), st.integers(0, WINDOWS - 1)
    core = make_core(spec, BANKS[name])
    streams = {voice: core.stream() for voice in sounds}
    for voice, start in data.draw(st.lists(st.tuples(voices, starts), min_size=1, max_size=4)):
        for k in range(start, min(WINDOWS, start + 3)):
            window = sounds[voice][k * spec.hop :][: spec.window]
            assert streams[voice].extract(window).tobytes() == bits[voice, k]


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ("original",)])
def test_no_array_is_allocated_in_the_steady_state(name: str) -> None:
    spec = SPECS[name]
    core = fresh(spec)
    if not isinstance(core, FastCore):
        pytest.skip("the tuning estimate takes memory for the peaks that it finds")
    samples = speech("08a02Na", spec.window + 20 * spec.hop)
    windows = [samples[k * spec.hop :][: spec.window] for k in range(21)]
    out = np.empty((spec.n_frames, spec.dims), np.float32)
    for window in windows[:10]:
        core.extract(window, out)
    tracemalloc.start()
    try:
        for window in windows[10:]:
            core.extract(window, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Views, numbers, numpy's buffer for a division per row, coverage's notes. A window has 64 kB.
    assert peak < 16384


def test_scipys_compiled_transforms_are_found_and_are_scipys() -> None:
    import scipy.fft

    assert pocketfft.compiled is not None
    rng = np.random.default_rng(0)
    for dtype, pair in ((np.float32, np.complex64), (np.float64, np.complex128)):
        frames = rng.standard_normal((7, 600)).astype(dtype)
        spectrum = np.empty((7, 301), pair)
        pocketfft.rfft(frames, spectrum)
        np.testing.assert_array_equal(spectrum, scipy.fft.rfft(frames, axis=1))
        for axis in (0, 1):
            cepstra = np.empty_like(frames)
            pocketfft.dct(frames, axis, cepstra)
            expected = scipy.fft.dct(frames, type=2, norm="ortho", axis=axis)
            np.testing.assert_array_equal(cepstra, expected)


@pytest.mark.parametrize("name", ["original", "in tune, frames shared by windows"])
def test_without_scipys_compiled_module_the_features_are_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS[name]
    window = speech("16a02Lb", spec.window)
    expected = fresh(spec).extract(window)
    monkeypatch.setattr(pocketfft, "compiled", None)
    np.testing.assert_array_equal(fresh(spec).extract(window), expected)


def test_features_do_not_change_with_the_next_window(core: Core, spec: FeatureSpec) -> None:
    window = speech("08a02Na", spec.window)
    window.flags.writeable = False
    features = core.extract(window)
    before = features.copy()
    core.extract(sound("noise", spec.window))
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("frames", [1, 20, 32, 40])
def test_frames_are_trimmed_at_the_end_or_filled_with_zeros(frames: int) -> None:
    window = speech("16a02Lb", ORIGINAL.window)
    natural = fresh(ORIGINAL).extract(window)
    fitted = fresh(dataclasses.replace(ORIGINAL, frames=frames)).extract(window)
    assert fitted.shape == (frames, ORIGINAL.dims)
    kept = min(frames, len(natural))
    np.testing.assert_array_equal(fitted[:kept], natural[:kept])
    assert not fitted[kept:].any()


def test_filled_frames_are_normalized_like_all_others() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.standard_normal(155, np.float32), rng.random(155, np.float32)
    std[7] = 0.0
    features = rng.standard_normal((32, 155), np.float32)
    features[30:] = 0.0
    actual = normalize(features, mean, std, 1e-8)
    assert actual.dtype == np.float32
    expected = (features - mean.astype(np.float64)) / (std.astype(np.float64) + 1e-8)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_array_equal(actual[30], actual[31])
    assert actual[30].all()


def test_the_live_path_imports_neither_librosa_nor_numba(tmp_path: Path) -> None:
    np.savez(tmp_path / "banks.npz", allow_pickle=False, **Banks.from_librosa(ORIGINAL).to_arrays())
    window = speech("03a01Wa", ORIGINAL.window)
    np.save(tmp_path / "window.npy", window)
    program = """
import sys
import numpy as np
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core import Banks, make_core
with np.load("banks.npz") as arrays:
    banks = Banks.from_arrays(FeatureSpec(), dict(arrays))
features = make_core(FeatureSpec(), banks).extract(np.load("window.npy"))
np.save("features.npy", features)
print(sorted({name.split(".")[0] for name in sys.modules} & {"librosa", "numba"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    assert_same(np.load(tmp_path / "features.npy"), reference_features(window, ORIGINAL), ORIGINAL)


def test_banks_survive_a_round_trip_through_their_file(spec: FeatureSpec, tmp_path: Path) -> None:
    banks = Banks.from_librosa(spec)
    np.savez(tmp_path / "banks.npz", allow_pickle=False, **banks.to_arrays())
    with np.load(tmp_path / "banks.npz") as arrays:
        again = Banks.from_arrays(spec, dict(arrays))
    window = speech("03a01Wa", spec.window)
    actual = make_core(spec, again).extract(window)
    np.testing.assert_array_equal(actual, make_core(spec, banks).extract(window))
