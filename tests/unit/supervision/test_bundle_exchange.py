"""What an exchange of the bundle changes in the ledger, in a session, and what it refuses."""

from __future__ import annotations

import dataclasses

import pytest

from speech_emotion.common.bundle.manifest import Bundle, load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.common.hub.ledger import Ledger, Verdict
from speech_emotion.common.wire import internal
from speech_emotion.infer.decision import Speaking, State
from speech_emotion.infer.session import Session
from speech_emotion.supervision.swap_attempt import check_grid
from tests.support.hub_messages import OPEN, submit
from tests.support.pipelines import BUNDLE
from tests.support.swaps import OTHER


def test_the_ledger_takes_results_of_the_bundle_in_force_only() -> None:
    ledger = Ledger("a")
    ledger.open(OPEN)

    def of(bundle: str, seq: int) -> internal.Submit:
        return dataclasses.replace(submit(seq), bundle=bundle)

    assert ledger.submit(of("a", 0)) is Verdict.ACCEPTED
    assert ledger.streams["main"].resume().checkpoint_bundle == "a"
    ledger.use("b", keep_gate=True)
    resume = ledger.streams["main"].resume()
    assert (resume.bundle, resume.checkpoint_bundle, resume.next) == ("b", "a", 1)
    assert resume.gate == [0.0]
    assert ledger.submit(of("a", 1)) is Verdict.OTHER_BUNDLE
    assert ledger.streams["main"].next == 1
    assert ledger.submit(of("b", 1)) is Verdict.ACCEPTED
    assert ledger.streams["main"].resume().checkpoint_bundle == "b"
    ledger.use("a", keep_gate=False)
    assert ledger.streams["main"].resume().gate == []
    ledger.open(dataclasses.replace(OPEN, stream="later"))
    assert ledger.streams["later"].resume().bundle == "a"


def spoken(bundle: Bundle) -> State:
    total = [1.0, *[0.0] * (len(bundle.labels) - 1)]
    speaking = Speaking(
        first=1, last=1, start=0, end=16000, time=None, total=total, windows=1, speech=1.0
    )
    return State(average=total, label=bundle.labels[0], speaking=speaking)


def test_an_exchange_ends_the_utterance_and_smoothing() -> None:
    old, new = load_bundle(BUNDLE), load_bundle(OTHER)
    state = spoken(old)
    resume = internal.Resume("main", "run", 2, False, [1.0], state.to_map(), new.id, old.id)
    session = Session.resume(resume, new, old)
    assert session.state == State()
    (utterance,) = session.pending_utterances
    assert (utterance.bundle, utterance.seq, utterance.run) == (old.id, 1, "run")
    assert session.gate == [1.0]
    assert session.credit().bundle == new.id
    same = Session.resume(dataclasses.replace(resume, checkpoint_bundle=new.id), new, new)
    assert same.state == state
    assert not same.pending_utterances
    # An utterance cut by an unknown bundle cannot be sent; every window was.
    assert not Session.resume(resume, new, None).pending_utterances


@pytest.mark.parametrize(("key", "value"), [("sample_rate", 8000), ("window_s", 2.0), ("hop_s", 1)])
def test_another_grid_is_refused(key: str, value: float) -> None:
    bundle = load_bundle(BUNDLE)
    spec = dataclasses.replace(bundle.spec, **{key: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="restart"):
        check_grid(bundle, dataclasses.replace(bundle, spec=spec))
    check_grid(bundle, dataclasses.replace(bundle, name="other"))
