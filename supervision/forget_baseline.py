"""Forget the baselines of a running pipeline, at a request over the control socket."""

from __future__ import annotations

import logging
from concurrent.futures import TimeoutError as NoAnswer

from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, EXIT_USER
from speech_emotion.common.wire.control_messages import ForgetBaseline, Swapped
from speech_emotion.supervision.resources import Resources

log = logging.getLogger("baseline")

HUB_S = 1.0
"""Longest time that the hub's thread may take; it needs milliseconds."""


def forget_baseline(resources: Resources, request: ForgetBaseline) -> Swapped:
    """Forget the baseline of a stream, or of all, and the answer to the client."""
    if request.stream is not None and request.stream not in resources.state.runs:
        known = ", ".join(resources.state.runs)
        return Swapped(EXIT_USER, f"{request.stream}: no such stream; streams: {known}")
    if not resources.baseline:
        return Swapped(EXIT_OK, "nothing to forget: the baseline is off")
    if resources.state.bundle.baseline is None:
        bundle = resources.state.bundle.id
        return Swapped(EXIT_OK, f"nothing to forget: {bundle} has no baseline")
    try:
        windows = resources.hub.forget_baseline(request.stream).result(HUB_S)
    except NoAnswer:
        return Swapped(EXIT_FAULT, f"the hub has not answered within {HUB_S:g} s")
    if not windows:
        return Swapped(EXIT_OK, "nothing to forget: no stream is open")
    text = ", ".join(f"{name} from window {window} on" for name, window in windows.items())
    log.info("forgotten: %s", text)
    return Swapped(EXIT_OK, f"baseline forgotten: {text}")
