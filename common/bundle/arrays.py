"""Reads npz files of unknown origin: checks every size before it allocates memory."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_FILE_BYTES = 64 << 20
"""Largest array, uncompressed. The largest that a feature spec allows is below 40 MiB."""
MAX_ARRAYS = 16
NUMERIC_KINDS = "biuf"
"""numpy's kind codes of bool, integers and floats."""


def read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """The numeric arrays of an npz file.

    Raises:
        ValueError: the file is damaged, too large, or holds other arrays; the text is the cause.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS:
                raise ValueError(f"{len(members)} arrays, allowed: {MAX_ARRAYS}")
            return {
                member.filename.removesuffix(".npy"): _parse(_content(archive, member))
                for member in members
            }
    except ValueError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many types for damaged data
        raise ValueError(str(error) or type(error).__name__) from None


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # The sizes in a zip header may lie, so read no more than the limit.
    with archive.open(member) as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{member.filename} has more than {MAX_FILE_BYTES >> 20} MiB")
    return content


def _parse(content: bytes) -> NDArray[np.generic]:
    import numpy as np
    from numpy.lib import format as npy

    file = io.BytesIO(content)
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy version {version} is not supported")
    shape, fortran_order, dtype = readers[version](file)
    if dtype.kind not in NUMERIC_KINDS:
        raise ValueError(f"arrays of type {dtype} are not allowed")
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {shape} is negative")
    start = file.tell()
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError(
            f"shape {shape} of {dtype} does not match its {len(content) - start} bytes"
        )
    array = np.frombuffer(content, dtype, offset=start)
    return array.reshape(shape, order="F" if fortran_order else "C").copy()
