"""Recipe files: the features, the network and the training of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.spec import FeatureSpec, read_toml
from speech_emotion.common.errors import UserError
from speech_emotion.train.model.network import Network


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: the table [recipe] of a recipe file.

    Attributes:
        labels: name of a label set in `LABEL_SETS`.
        copies: number of augmented renderings of every clip, in addition to the clean one.
        steps: number of optimizer steps (AdamW, cosine schedule).
        batch: windows per step.
        learning_rate: at the first step.
        weight_decay: of AdamW.
        balance: a corpus of n clips is drawn with weight n^balance; 0 draws corpora equally.
        smoothing: label smoothing (Szegedy et al., 2016), a fraction of 1.
        emotion_head: loss weight of a second output that learns the corpora's own emotions.
        teacher: loss weight of an output that learns the teacher's embedding of the clip.
        distil: share of a teacher's probabilities in the targets.
        ensemble: number of larger networks that are the teacher; 0: the teacher is Whisper.
        noise: share of windows without speech in a batch; their target is uniform.
        noise_minutes: length of the mixes from which these windows come, minutes.
        speech_head: loss weight of an output that separates speech from these windows; exported.
        overlay: share of the speech windows to which a window without speech is added.
        tilt: standard deviation in dB of a random smooth frequency response per window.
        masking: apply SpecAugment to every batch.
        warp: largest relative change of frequency and time scale per window; 0 for none; for
            log-mel features only.
        mixup: alpha of mixup (Zhang et al., 2018); 0 for none.
        network: the table [network].
    """

    labels: str = "four"
    copies: int = 3
    steps: int = 1500
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    balance: float = 0.5
    smoothing: float = 0.1
    emotion_head: float = 0.3
    teacher: float = 0.0
    distil: float = 0.0
    ensemble: int = 0
    noise: float = 0.0
    noise_minutes: int = 240
    speech_head: float = 0.0
    overlay: float = 0.0
    tilt: float = 0.0
    masking: bool = True
    warp: float = 0.0
    mixup: float = 0.0
    network: Network = dataclasses.field(default_factory=Network)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe file.

    Attributes:
        spec: feature spec of the bundle, the table [features].
        recipe: the tables [recipe] and [network].
        licence: SPDX identifier of the trained model's licence.
    """

    spec: FeatureSpec
    recipe: Recipe
    licence: str


def load_plan(path: Path) -> Plan:
    """Read a recipe file: `labels`, `licence`, [features], [recipe] and [network].

    Raises:
        UserError: the file is missing, or has an unknown key or a value of the wrong type.
    """
    table = read_toml(path)
    if unknown := sorted(set(table) - {"labels", "licence", "features", "recipe", "network"}):
        raise UserError(f"{path}: {unknown[0]} is not a key of a recipe")
    network = _fields(Network, table.get("network", {}), f"{path}: network")
    values = _fields(Recipe, table.get("recipe", {}), f"{path}: recipe")
    recipe = Recipe(**{**values, "network": Network(**network)})
    labels = table.get("labels", recipe.labels)
    spec = FeatureSpec.from_table(table.get("features", {}), str(path))
    if spec.waveform:
        raise UserError(f"{path}: `train fit` trains on spectral features; remove features.kind")
    return Plan(spec, dataclasses.replace(recipe, labels=labels), table.get("licence", ""))


def _fields(
    cls: type[Recipe] | type[Network], table: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The table's values, checked against the types of the class's defaults."""
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in defaults or key == "network":
            raise UserError(f"{where}.{key} is not a key; allowed: {', '.join(defaults)}")
        wanted = type(defaults[key])
        converted = tuple(value) if wanted is tuple and isinstance(value, list) else value
        if wanted is float and type(converted) is int:
            converted = float(converted)
        if type(converted) is not wanted:
            raise UserError(f"{where}.{key} = {value!r} must be {wanted.__name__}")
        values[key] = converted
    return values
