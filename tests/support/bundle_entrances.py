"""Passes each bundle in a folder to one entrance, in one process: `… ENTRANCE FOLDER SOUND`.

Prints `NAME: ok` or `NAME: refused: TEXT` per bundle. Any other error is a traceback.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from speech_emotion.common.errors import UserError


def infer(bundle: Path, sound: str) -> object:
    from speech_emotion.infer.offline.command import report

    return report(sound, bundle, "auto", as_json=False)


def features(bundle: Path, sound: str) -> object:
    from speech_emotion.features.offline import report

    return report(sound, bundle=bundle, spec=None, out=None, timings=False)


def stages(bundle: Path, _sound: str) -> object:
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.features.extractor import load_extractors
    from speech_emotion.infer.model import Model

    loaded = load_bundle(bundle)
    return load_extractors(loaded), Model(loaded)


def swap(bundle: Path, _sound: str) -> object:
    from speech_emotion.commands.swap import main

    return main([str(bundle), "--pid", "1"])


def train(bundle: Path, sound: str) -> object:
    from speech_emotion.train.__main__ import main

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main(["calibrate", "--bundle", str(bundle), "--recording", sound])
    if code == 2:
        raise UserError(errors.getvalue().rstrip("\n"))
    return code


ENTRANCES: dict[str, Callable[[Path, str], object]] = {
    "infer": infer,
    "features": features,
    "stages": stages,
    "swap": swap,
    "train": train,
}


def main(entrance: str, folder: str, sound: str) -> None:
    warnings.simplefilter("error")
    for bundle in sorted(Path(folder).iterdir()):
        print(f"{bundle.name}: ", end="", flush=True)
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                ENTRANCES[entrance](bundle, sound)
        except UserError as error:
            print(f"refused: {error}", flush=True)
        else:
            print("ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
