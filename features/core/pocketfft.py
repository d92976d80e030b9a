"""FFT and DCT of pocketfft, as scipy ships it, with results written to existing arrays.

librosa calls the same functions, so the bits are equal. scipy.fft itself returns a new array
from each call, and its import costs about 28 MB and half of a cold start. So this module loads
only scipy's compiled extension, and falls back to scipy.fft where it does not find it.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ONE_THREAD = 1
ORTHO = 1
"""pocketfft's number for norm="ortho"."""


def _load() -> Any:
    """scipy's compiled pocketfft. None if scipy moved it or changed its functions."""
    package = importlib.util.find_spec("scipy")
    for folder in (package.submodule_search_locations if package else None) or ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = Path(folder) / "fft" / "_pocketfft" / f"pypocketfft{suffix}"
            if path.is_file():
                spec = importlib.util.spec_from_file_location("pypocketfft", path)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                try:
                    spec.loader.exec_module(module)
                    return module if _works(module) else None
                except (ImportError, AttributeError, TypeError):
                    return None
    return None


def _works(module: Any) -> bool:
    frame = np.ones((1, 4))
    spectrum, cepstrum = np.empty((1, 3), np.complex128), np.empty((1, 4))
    module.r2c(frame, (1,), True, 0, spectrum, ONE_THREAD)
    module.dct(frame, 2, (1,), ORTHO, cepstrum, ONE_THREAD)
    return bool(np.allclose(spectrum, [[4, 0, 0]]) and np.allclose(cepstrum, [[2, 0, 0, 0]]))


compiled: Any = _load()
"""The compiled extension. None: scipy.fft is used."""


def rfft(frames: NDArray[Any], out: NDArray[Any]) -> None:
    """FFT along the rows of real (n, n_fft), float32 or float64, to complex (n, n_fft // 2 + 1)."""
    if compiled is not None:
        compiled.r2c(frames, (1,), True, 0, out, ONE_THREAD)
    else:
        import scipy.fft

        out[...] = scipy.fft.rfft(frames, axis=1)


def dct(values: NDArray[Any], axis: int, out: NDArray[Any]) -> None:
    """Orthonormal DCT-II along an axis of real (n, m), to the same shape and type."""
    if compiled is not None:
        compiled.dct(values, 2, (axis,), ORTHO, out, ONE_THREAD)
    else:
        import scipy.fft

        out[...] = scipy.fft.dct(values, type=2, norm="ortho", axis=axis)
