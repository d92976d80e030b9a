"""Encoder weights of Whisper from a CTranslate2 file, in plain numpy."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError

Weights = Mapping[str, NDArray[np.float32]]
"""Tensors by name, e.g. `layer_0/ffn/linear_0/weight`, without the prefix `encoder/`."""

_TYPES: dict[int, type[np.generic]] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
}
_PART = "model.bin.part"


def load_weights(source: Path) -> dict[str, NDArray[np.float32]]:
    """Read the encoder's tensors.

    Args:
        source: a CTranslate2 `model.bin`, or a folder that holds it, its parts
            (`model.bin.part1`, …), or the two wheels that hold one part each.

    Raises:
        UserError: no such file, or it is not a CTranslate2 model of a Whisper encoder.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    data = source.read_bytes() if source.is_file() else _joined(source)
    try:
        weights = _parse(data)
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: is not a CTranslate2 model ({error})") from None
    if "conv1/weight" not in weights or "layer_0/ffn/linear_0/weight" not in weights:
        raise UserError(f"{source}: holds no Whisper encoder")
    return weights


def _joined(folder: Path) -> bytes:
    if (whole := folder / "model.bin").is_file():
        return whole.read_bytes()
    parts: dict[str, bytes] = {
        p.name: p.read_bytes() for p in folder.rglob(f"{_PART}*") if p.is_file()
    }
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if _PART in name:
                    parts[name.rsplit("/", 1)[-1]] = archive.read(name)
    if not parts:
        raise UserError(f"{folder}: holds neither model.bin nor parts of it")
    return b"".join(parts[name] for name in sorted(parts))


def _parse(data: bytes) -> dict[str, NDArray[np.float32]]:
    position = 0

    def number(form: str) -> int:
        nonlocal position
        value: int = struct.unpack_from(form, data, position)[0]
        position += struct.calcsize(form)
        return value

    def string() -> str:
        nonlocal position
        length = number("<H")
        position += length
        return data[position - length : position].rstrip(b"\0").decode()

    number("<I"), string(), number("<I")  # format version, name and revision of the model
    weights: dict[str, NDArray[np.float32]] = {}
    for _ in range(number("<I")):
        name, rank = string(), number("<B")
        shape = [number("<I") for _ in range(rank)]
        kind = _TYPES[number("<B")]
        size = number("<I")
        if name.startswith("encoder/") and rank:
            array = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, position)
            weights[name[8:]] = array.reshape(shape).astype(np.float32)
        position += size
    return weights


def layer_count(weights: Weights) -> int:
    """Number of transformer layers in the weights."""
    return len({k.split("/")[0] for k in weights if k[6:7].isdigit() and k.startswith("layer_")})
