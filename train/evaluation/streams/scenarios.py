"""Streams as people make them: which utterances come before, which are judged then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from speech_emotion.train.evaluation.streams.window_outputs import Index, Matrix, WindowOutputs

HISTORY = 20
"""Utterances before the judged ones."""
TESTS = 12
"""Most judged utterances per speaker and label."""
SPEAKERS_IN_TURN = 3


@dataclasses.dataclass(frozen=True)
class Stream:
    """One stream of a speaker, or of several.

    Attributes:
        speaker: number of the speaker to whom the figures belong.
        before: clips that are heard before the count of utterances begins.
        history: clips in the order in which they are heard, (HISTORY,).
        tests: clips that are judged after any part of the history, (tests,).
    """

    speaker: int
    history: Index
    tests: Index
    before: Index = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


Maker = Callable[[WindowOutputs, np.random.Generator], Iterator[Stream]]


def halves(
    outputs: WindowOutputs, speaker: int, chance: np.random.Generator
) -> tuple[list[Index], Index]:
    """A speaker's clips per label for the history, and the clips to judge.

    The two have no clip in common. A label with a single clip has none to judge.
    """
    pools, tests = [], []
    for label in range(len(outputs.labels)):
        mine = (outputs.speaker == speaker) & (outputs.truth == label) & outputs.plain
        mine = np.flatnonzero(mine)
        mine = chance.permutation(mine)
        half = (len(mine) + 1) // 2
        pools.append(mine[:half])
        tests.append(mine[half:][:TESTS])
    return pools, np.concatenate(tests)


def drawn(
    pools: list[Index], shares: Matrix, length: int, chance: np.random.Generator
) -> Index | None:
    """Clips of a history: each of a label drawn by `shares`, then one of the label's clips.

    A clip comes again only after all others of its label. None if the labels have no clips.
    """
    there = np.array([len(pool) > 0 for pool in pools])
    shares = np.where(there, shares, 0.0)
    if shares.sum() == 0.0:
        return None
    wanted = chance.choice(len(pools), size=length, p=shares / shares.sum())
    used = [0] * len(pools)
    clips = []
    for label in wanted:
        clips.append(pools[label][used[label] % len(pools[label])])
        used[label] += 1
    return np.array(clips, np.int64)


def neutral_share(share: float) -> Maker:
    """One speaker; a share of the history is neutral, the rest is spread over other labels."""

    def make(outputs: WindowOutputs, chance: np.random.Generator) -> Iterator[Stream]:
        shares = _shares(outputs, share)
        for speaker in range(int(outputs.speaker.max()) + 1):
            pools, tests = halves(outputs, speaker, chance)
            history = drawn(pools, shares, HISTORY, chance)
            if history is not None and len(tests):
                yield Stream(speaker, history, tests)

    return make


def one_label(others: bool) -> Maker:
    """One speaker who shows one emotion only, each in turn.

    Args:
        others: all emotions are judged then, not just the one of the history.
    """

    def make(outputs: WindowOutputs, chance: np.random.Generator) -> Iterator[Stream]:
        for speaker in range(int(outputs.speaker.max()) + 1):
            pools, tests = halves(outputs, speaker, chance)
            for label in range(len(outputs.labels)):
                shares = np.arange(len(outputs.labels)) == label
                history = drawn(pools, shares.astype(float), HISTORY, chance)
                judged = tests if others else tests[outputs.truth[tests] == label]
                if history is not None and len(judged):
                    yield Stream(speaker, history, judged)

    return make


def in_turn(share: float) -> Maker:
    """Several speakers speak one after the other; the last one is judged."""

    def make(outputs: WindowOutputs, chance: np.random.Generator) -> Iterator[Stream]:
        shares, number = _shares(outputs, share), int(outputs.speaker.max()) + 1
        for speaker in range(number):
            others = chance.permutation([s for s in range(number) if s != speaker])
            people = [speaker, *others[: SPEAKERS_IN_TURN - 1].tolist()]
            pools, tests = halves(outputs, speaker, chance)
            parts = [drawn(pools, shares, HISTORY, chance)]
            parts += [
                drawn(halves(outputs, one, chance)[0], shares, HISTORY, chance)
                for one in people[1:]
            ]
            if not len(tests) or any(part is None for part in parts):
                continue
            history = [parts[-(k + 1) % len(parts)][k] for k in range(HISTORY)]  # type: ignore[index]
            yield Stream(speaker, np.array(history, np.int64), tests)

    return make


def another_voice(share: float) -> Maker:
    """A change in the middle: first another speaker, then this one.

    In corpora that people recorded by themselves it is another microphone and room, too.
    """

    def make(outputs: WindowOutputs, chance: np.random.Generator) -> Iterator[Stream]:
        shares, number = _shares(outputs, share), int(outputs.speaker.max()) + 1
        for speaker in range(number):
            other = int(chance.choice([s for s in range(number) if s != speaker]))
            pools, tests = halves(outputs, speaker, chance)
            history = drawn(pools, shares, HISTORY, chance)
            before = drawn(halves(outputs, other, chance)[0], shares, HISTORY, chance)
            if history is not None and before is not None and len(tests):
                yield Stream(speaker, history, tests, before)

    return make


def another_microphone(share: float) -> Maker:
    """A change in the middle: the same speaker through another microphone."""

    def make(outputs: WindowOutputs, chance: np.random.Generator) -> Iterator[Stream]:
        shares = _shares(outputs, share)
        for speaker in range(int(outputs.speaker.max()) + 1):
            pools, tests = halves(outputs, speaker, chance)
            before, history = (drawn(pools, shares, HISTORY, chance) for _ in range(2))
            if before is None or history is None or not len(tests):
                continue
            if (outputs.twin[[*history, *tests]] >= 0).all():
                yield Stream(speaker, outputs.twin[history], outputs.twin[tests], before)

    return make


def _shares(outputs: WindowOutputs, neutral: float) -> Matrix:
    """Share of each label in a history."""
    at = outputs.labels.index("neutral")
    shares = np.full(len(outputs.labels), (1.0 - neutral) / (len(outputs.labels) - 1))
    shares[at] = neutral
    return shares


SCENARIOS: dict[str, Maker] = {
    "40 % neutral": neutral_share(0.4),
    "70 % neutral": neutral_share(0.7),
    "90 % neutral": neutral_share(0.9),
    "one emotion only": one_label(others=False),
    "one emotion, then all": one_label(others=True),
    "speakers in turn": in_turn(0.7),
    "another voice in the middle": another_voice(0.7),
    "another microphone in the middle": another_microphone(0.7),
}
