"""The feature spec: all parameters of the window and of its features, or of its samples."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.errors import UserError

KINDS = ("spectral", "waveform")
MEL_SCALES = ("power", "db", "db_max")
GATES = ("fixed", "adaptive")
SPECTRAL_KEYS = frozenset(
    ("n_fft", "hop_length", "n_mfcc", "chroma", "n_mels", "mel", "chroma_tuning", "frames")
)
"""Keys of the spec that only the kind `spectral` has."""
N_CHROMA = 12
MAX_STFT_SAMPLES = 1 << 24
"""Most samples in the STFT frames of a window; they take 128 MiB."""
MAX_FEATURE_BYTES = 4_000_000
"""Most bytes in the features of a window; a message between stages has at most 4 MiB."""


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """The `[features]` table of a bundle, or of a file given with `--spec`.

    The defaults are those of the original engine. Each frame of a window has `n_mfcc` MFCC,
    12 chroma values (unless `chroma` is false) and `n_mels` mel values. The kind `waveform` has
    the samples of the window themselves: as many frames as samples, of one value each.
    """

    kind: str = "spectral"
    sample_rate: int = 16000
    window_s: float = 1.0
    hop_s: float = 0.5
    n_fft: int = 2048
    hop_length: int = 512
    n_mfcc: int = 128
    chroma: bool = True
    n_mels: int = 15
    mel: str = "db_max"
    chroma_tuning: float | str = "estimate"
    gate: str = "fixed"
    gate_dbfs: float = -40.0
    gate_margin_db: float = 9.0
    gate_hold_s: float = 0.3
    eps: float = 1e-8
    frames: int = 0

    @property
    def window(self) -> int:
        """Window length in samples."""
        return round(self.window_s * self.sample_rate)

    @property
    def hop(self) -> int:
        """Distance between the starts of consecutive windows in samples."""
        return round(self.hop_s * self.sample_rate)

    @property
    def grid(self) -> WindowGrid:
        """The window grid of a stream with this spec."""
        return WindowGrid(self.window, self.hop)

    @property
    def natural_frames(self) -> int:
        """Frames of a centred STFT over one window, before `frames` trims or pads them."""
        padded = self.window + 2 * (self.n_fft // 2)
        return 1 + (padded - self.n_fft) // self.hop_length

    @property
    def waveform(self) -> bool:
        """Whether the features are the samples of the window."""
        return self.kind == "waveform"

    @property
    def n_frames(self) -> int:
        """Frames of the feature matrix that the model takes."""
        return self.window if self.waveform else self.frames or self.natural_frames

    @property
    def dims(self) -> int:
        """Features per frame."""
        if self.waveform:
            return 1
        return self.n_mfcc + (N_CHROMA if self.chroma else 0) + self.n_mels

    @classmethod
    def from_table(cls, table: Mapping[str, Any], source: str) -> FeatureSpec:
        """Check a `[features]` table. `source` names the file in the error.

        Raises:
            UserError: an unknown key, a value of the wrong type or out of range.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in fields:
                raise UserError(
                    f"{source}: features.{key[:60]} is not a key of the feature spec; "
                    f"allowed: {', '.join(fields)}"
                )
            default = fields[key].default
            if isinstance(default, float) and type(value) is int and abs(value) < 2**53:
                value = float(value)
            allowed = (float, int, str) if key == "chroma_tuning" else (type(default),)
            if type(value) not in allowed:
                raise UserError(
                    f"{source}: features.{key} = {reprlib.repr(value)} must be "
                    f"{' or '.join(t.__name__ for t in allowed)}"
                )
            values[key] = value
        spec = cls(**values)
        if spec.waveform and (without := sorted(SPECTRAL_KEYS.intersection(values))):
            raise UserError(
                f'{source}: features.{without[0]} has no meaning with kind = "waveform"; remove it'
            )
        spec._check(source)
        return spec

    def to_table(self) -> dict[str, Any]:
        """The `[features]` table of this spec."""
        table = dataclasses.asdict(self)
        if not self.waveform:
            return table
        return {key: value for key, value in table.items() if key not in SPECTRAL_KEYS}

    def _check(self, source: str) -> None:
        def need(ok: bool, key: str, allowed: str) -> None:
            if not ok:
                raise UserError(
                    f"{source}: features.{key} = {reprlib.repr(getattr(self, key))} "
                    f"must be {allowed}"
                )

        need(self.kind in KINDS, "kind", f"one of {', '.join(KINDS)}")
        need(8000 <= self.sample_rate <= 48000, "sample_rate", "8000 to 48000 (Hz)")
        need(0.1 <= self.window_s <= 10.0, "window_s", "0.1 to 10 (seconds)")
        need(0.01 <= self.hop_s <= self.window_s, "hop_s", "0.01 to window_s (seconds)")
        need(self.gate in GATES, "gate", f"one of {', '.join(GATES)}")
        need(-100.0 <= self.gate_dbfs <= 0.0, "gate_dbfs", "-100 to 0 (dBFS)")
        need(1.0 <= self.gate_margin_db <= 40.0, "gate_margin_db", "1 to 40 (dB)")
        need(0.0 <= self.gate_hold_s <= 5.0, "gate_hold_s", "0 to 5 (seconds)")
        need(math.isfinite(self.eps) and self.eps > 0, "eps", "more than 0")
        if self.waveform:
            return
        need(64 <= self.n_fft <= 16384, "n_fft", "64 to 16384 (samples)")
        need(self.window >= self.n_fft // 2, "window_s", "at least half of n_fft long")
        need(16 <= self.hop_length <= self.window, "hop_length", "16 to the window (samples)")
        need(0 <= self.n_mfcc <= 128, "n_mfcc", "0 to 128 (librosa makes MFCCs of 128 mels)")
        need(0 <= self.n_mels <= 256, "n_mels", "0 to 256")
        need(self.dims > 0, "n_mels", "more than 0 where there is neither MFCC nor chroma")
        need(self.mel in MEL_SCALES, "mel", f"one of {', '.join(MEL_SCALES)}")
        need(
            self.chroma_tuning == "estimate"
            or (isinstance(self.chroma_tuning, float | int) and -0.5 <= self.chroma_tuning <= 0.5),
            "chroma_tuning",
            '"estimate" or -0.5 to 0.5 (fractional bins)',
        )
        need(0 <= self.frames <= 4096, "frames", "0 to 4096 (0: all frames of the window)")
        need(
            self.natural_frames * self.n_fft <= MAX_STFT_SAMPLES,
            "hop_length",
            f"larger: the STFT of a window has at most {MAX_STFT_SAMPLES} samples",
        )
        need(
            4 * self.n_frames * self.dims <= MAX_FEATURE_BYTES,
            "frames",
            f"smaller: the features of a window have at most {MAX_FEATURE_BYTES} bytes",
        )


def load_spec(path: Path) -> FeatureSpec:
    """Read a TOML file with a `[features]` table, as `--spec FILE` takes it.

    Raises:
        UserError: the file is missing, is no TOML, or holds no valid `[features]` table.
    """
    table = read_toml(path).get("features")
    if not isinstance(table, dict):
        raise UserError(f"{path}: has no [features] table")
    return FeatureSpec.from_table(table, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; every failure is one clear line.

    Raises:
        UserError: the file is missing, unreadable or no TOML.
    """
    import tomllib

    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # endless digits and depth are no TOMLDecodeError
        raise UserError(f"{path}: is not valid TOML ({error})") from None
