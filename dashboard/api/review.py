"""The operations of the review: what is kept, its sound, the label that a person gives, and the
adaptation to the labels.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from speech_emotion.common.bundle.adapted import adapted_id
from speech_emotion.common.errors import UserError
from speech_emotion.common.stage.jobs import ReviewOptions
from speech_emotion.common.wire.control_messages import ReviewAct
from speech_emotion.common.wire.public import Health, Utterance
from speech_emotion.dashboard import review_messages as messages
from speech_emotion.dashboard.access.middleware import reads_only
from speech_emotion.dashboard.api.declared import RefusedError
from speech_emotion.dashboard.api.operations import WAV
from speech_emotion.dashboard.api.routing import NO_STORE, json_body
from speech_emotion.dashboard.review.adapting import ADAPT, ROLL_BACK, Adapting
from speech_emotion.dashboard.review.labels import LabelCounts, append_label
from speech_emotion.dashboard.review.store import LONGEST_S, ReviewStore

OFF = "the review is off; `file` in the table [review] of the configuration switches it on"
GONE = "the sound of this utterance is not there any more"
KEY = "refused: a key that can only read gives no access to the review"
KEEP_BODY = 'the body must be JSON such as {"stream": "main", "run": "c0ffee", "seq": 41}'
LABEL_BODY = 'the body must be JSON such as {"id": 7, "label": "sad"}; label may be null'
NEEDED = 20
"""Labels that `train personal` needs."""
RECENT = 50
MARGIN_S = 1.5
"""Seconds of a ring that its reader does not get, and that a request takes."""
OFF_REVIEW = messages.Review("off", 0, 0.0, False, [], [], {}, NEEDED, None, None)

T = TypeVar("T")


class ReviewOperations:
    """The handlers of `/review…`, each for a client with the token only.

    Args:
        options: None: the review is off.
        control: control socket of the supervisor; None: no pipeline has started the page.
        noted: takes what a person does, for the audit log.
    """

    def __init__(
        self,
        options: ReviewOptions | None,
        control: Path | None = None,
        noted: Callable[[ReviewAct], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._noted = noted
        self._recent: OrderedDict[tuple[str, str, int], tuple[float, Utterance]] = OrderedDict()
        self._muted = False
        if options is not None:
            self._store = ReviewStore(options.file)
            self._counts = LabelCounts(options.labels)
            self._adapting = Adapting(options, control)

    @property
    def mode(self) -> str:
        """`off`, `on request` or `queue`."""
        if self._options is None:
            return "off"
        return "queue" if self._options.queue else "on request"

    @property
    def adapted(self) -> Path | None:
        """Folder for the adapted bundle; None: the review is off."""
        return self._options.adapted if self._options is not None else None

    def hear(self, message: object, *, replay: bool) -> None:
        """Take note of what the pipeline publishes.

        Args:
            replay: it was published before this server started.
        """
        if isinstance(message, Health):
            self._muted = message.mute is not None
        elif isinstance(message, Utterance) and not replay:
            key = (message.stream, message.run, message.seq)
            self._recent[key] = (time.monotonic(), message)
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    async def close(self) -> None:
        """End an adaptation that runs."""
        if self._options is not None:
            await self._adapting.close()

    async def get_review(self, _: Any, request: Request, __: Any) -> messages.Review:
        """What waits for a person, and how it is kept."""
        _check_access(request)
        options = self._options
        if options is None:
            return OFF_REVIEW
        kept = await self._do(self._store.list)
        return messages.Review(
            mode=self.mode,
            queue=options.queue,
            hours=options.hours,
            muted=self._muted,
            keepable=self._keepable({(one.stream, one.run, one.seq) for one in kept}),
            kept=kept,
            labels=await run_in_threadpool(self._counts.read),
            needed=NEEDED,
            adapted=await run_in_threadpool(adapted_id, options.adapted),
            task=self._adapting.task,
        )

    async def get_review_sound(
        self, _: Any, request: Request, given: Mapping[str, Any]
    ) -> Response:
        """The WAV file of an utterance."""
        one = await self._find(request, given["id"])
        sound = await self._do(lambda: self._store.sound(one.id))
        if sound is None:
            raise RefusedError(404, GONE)
        response = _part(request, sound)
        if response.headers.get("content-range", "bytes 0-").startswith("bytes 0-"):
            self._note(request, "sound fetched", one.stream)
        return response

    async def post_review_keep(self, _: Any, request: Request, __: Any) -> messages.Done:
        """Ask the stage `review` to keep an utterance."""
        _check_access(request)
        asked = messages.keep_request(await json_body(request))
        if asked is None:
            raise RefusedError(400, KEEP_BODY)
        options = self._on()
        if self._muted:
            raise RefusedError(409, "muted: no sound is kept")
        key = (asked.stream, asked.run, asked.seq)
        if key not in self._recent or self._left_s(key, options) <= 0.0:
            raise RefusedError(404, GONE)
        if not await self._do(lambda: self._store.want(*key)):
            raise RefusedError(503, "too many requests wait: does the stage `review` run?")
        self._note(request, "keep asked", asked.stream)
        return messages.Done("it is kept if its sound is still in memory")

    async def post_review_label(self, _: Any, request: Request, __: Any) -> messages.Done:
        """Write a label, then delete the sound."""
        _check_access(request)
        asked = messages.label_request(await json_body(request))
        if asked is None:
            raise RefusedError(400, LABEL_BODY)
        one = await self._find(request, asked.id)
        label, labels = asked.label, self._on().labels
        if label is not None and label not in one.probabilities:
            raise RefusedError(400, f"label must be one of {', '.join(one.probabilities)}")
        if label is not None:
            try:
                await run_in_threadpool(append_label, labels, one, label)
            except UserError as error:
                raise RefusedError(503, str(error)) from None
        await self._do(lambda: self._store.delete(one.id))
        self._note(request, "sound deleted" if label is None else "label taken", one.stream, label)
        return messages.Done("the sound is deleted")

    async def post_review_adapt(self, _: Any, request: Request, __: Any) -> messages.Done:
        """Start an adaptation to the labels."""
        return self._start(request, ADAPT, "adaptation asked")

    async def post_review_rollback(self, _: Any, request: Request, __: Any) -> messages.Done:
        """Start to undo the newest adaptation."""
        return self._start(request, ROLL_BACK, "rollback asked")

    def _start(self, request: Request, name: str, act: str) -> messages.Done:
        _check_access(request)
        self._on()
        if not self._adapting.start(name):
            raise RefusedError(409, "an adaptation or a rollback runs already")
        self._note(request, act)
        return messages.Done("it runs; `task` of the review says what becomes of it")

    def _keepable(self, kept: set[tuple[str, str, int]]) -> list[messages.KeepableUtterance]:
        options = self._options
        if options is None or self._muted:
            return []
        found = []
        for key, (_, one) in reversed(self._recent.items()):
            left_s = self._left_s(key, options)
            if left_s > 0.0 and key not in kept:
                found.append(
                    messages.KeepableUtterance(
                        *(*key, one.time, (one.end - one.start) / one.rate, one.emotion),
                        *(one.confidence, one.probabilities, round(left_s, 1)),
                    )
                )
        return found

    def _left_s(self, key: tuple[str, str, int], options: ReviewOptions) -> float:
        """Seconds for which the ring still holds the sound of an utterance."""
        heard, one = self._recent[key]
        length = min(LONGEST_S, (one.end - one.start) / one.rate)
        return options.memory_s - length - MARGIN_S - (time.monotonic() - heard)

    async def _find(self, request: Request, number: int) -> messages.KeptUtterance:
        _check_access(request)
        self._on()
        one = await self._do(lambda: self._store.find(number))
        if one is None:
            raise RefusedError(404, GONE)
        return one

    def _on(self) -> ReviewOptions:
        if self._options is None:
            raise RefusedError(409, OFF)
        return self._options

    async def _do(self, step: Callable[[], T]) -> T:
        try:
            return await run_in_threadpool(step)
        except sqlite3.Error as error:
            raise RefusedError(503, f"the review file cannot be used ({error})") from None

    def _note(
        self, request: Request, act: str, stream: str | None = None, label: str | None = None
    ) -> None:
        address = request.client.host if request.client is not None else "unknown"
        self._noted(ReviewAct(act, address, stream, label))


def _part(request: Request, sound: bytes) -> Response:
    """The bytes that a player asks for: Safari plays nothing without byte ranges."""
    headers = {**NO_STORE, "accept-ranges": "bytes"}
    asked = re.fullmatch(r"bytes=([0-9]{1,9})-([0-9]{0,9})", request.headers.get("range", ""))
    last = len(sound) - 1
    begin, end = (int(asked[1]), min(int(asked[2] or last), last)) if asked else (0, -1)
    if not begin <= end:
        return Response(sound, media_type=WAV, headers=headers)
    headers["content-range"] = f"bytes {begin}-{end}/{len(sound)}"
    return Response(sound[begin : end + 1], 206, media_type=WAV, headers=headers)


def _check_access(request: Request) -> None:
    """Raises RefusedError for an API key: it reads results, no sound and no labels of people."""
    if reads_only(request.scope):
        raise RefusedError(403, KEY)
