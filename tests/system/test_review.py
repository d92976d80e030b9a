"""The review of a real pipeline: a person listens in a real browser, labels, adapts, rolls back."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import json
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.privacy.audit_log import verify
from speech_emotion.common.security.api_keys import add_api_key
from speech_emotion.common.wire import public
from speech_emotion.dashboard.review import store as review_store
from speech_emotion.dashboard.review.store import ReviewStore, Sound
from speech_emotion.train.personal.labels import read_labels
from tests.support.pages import (
    API,
    TOKEN,
    answers,
    get,
    new_context,
    opened,
    post_json,
    shows,
    text,
    violations,
)
from tests.support.personal import LABELS, examples, lines, write
from tests.support.pipelines import (
    BUNDLE,
    DEMO,
    PATIENCE_S,
    Running,
    leftovers,
    nothing_left_but,
    wait_until,
)
from tools.browser import CHROMIUM
from tools.ports import free_port

Supervise = Callable[..., Running]
BEARER = {"Authorization": f"Bearer {TOKEN}"}
GIVEN = 60
"""Labels that people gave before."""
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "narrow": {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "forced": {"viewport": {"width": 1280, "height": 900}, "forced_colors": "active"},
    "zoomed to 200 %": {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2},
}

pytestmark = pytest.mark.xdist_group("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"
)


@dataclasses.dataclass
class Site:
    """A pipeline on real speech with a review."""

    running: Running
    port: int
    folder: Path
    key: str = ""
    """An API key, which can only read."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def labels(self) -> Path:
        return self.folder / "review.labels.jsonl"

    @property
    def store(self) -> ReviewStore:
        return ReviewStore(self.folder / "review.sqlite")

    def review(self) -> dict[str, Any]:
        tables: list[dict[str, Any]] = []

        def asked() -> bool:
            """Whether the file was free: a test that fills it can hold its lock for seconds."""
            status, _, body = get(self.port, f"{API}/review", BEARER)
            assert status in (200, 503), body
            tables.append(json.loads(body))
            return status == 200

        wait_until(asked, "the file of the review")
        return tables[-1]

    def post(self, path: str, body: object = b"") -> tuple[int, str]:
        return post_json(self.port, f"{API}{path}", body, **BEARER)

    def bundle(self) -> str:
        """Id of the bundle of the newest result."""
        results: list[public.Result] = self.running.received.fresh(public.Result)
        return results[-1].bundle if results else ""


@contextlib.contextmanager
def site_in(folder: Path, queue: int, **more: str) -> Iterator[Site]:
    samples, rate = soundfile.read(DEMO, dtype="float32")
    path, port = folder / "talk.wav", free_port()
    soundfile.write(path, np.tile(samples, 30), rate)
    env = {
        "SEP_REVIEW__FILE": str(folder / "review.sqlite"),
        "SEP_REVIEW__QUEUE": str(queue),
        "SEP_DASHBOARD__TOKEN": TOKEN,
        "SEP_AUDIT__FILE": str(folder / "audit.jsonl"),
        "SEP_MUTE__STATE": str(folder / "mute.json"),
        **more,
    }
    before = leftovers()
    running = Running(f"--source=file:{path}", f"--dashboard=127.0.0.1:{port}", env=env)
    longer = pytest.MonkeyPatch()
    longer.setattr(review_store, "BUSY_S", PATIENCE_S)  # in this process
    try:
        wait_until(lambda: answers(port) or running.process.poll() is not None, "the page")
        wait_until(lambda: (folder / "review.sqlite").exists(), "the file of the review")
        yield Site(running, port, folder)
        running.process.terminate()
        code, stderr, _ = running.ended()
        assert code == 0, stderr
        assert "keeping the SOUND of utterances" in stderr
    finally:
        longer.undo()
        running.end()
    nothing_left_but(before)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("review")
    write(folder / "review.labels.jsonl", lines(examples(GIVEN), load_bundle(BUNDLE).id))
    key = add_api_key(folder / "keys.json", "panel")
    with site_in(folder, 50, SEP_DASHBOARD__API_KEYS=str(folder / "keys.json")) as one:
        one.key = key
        yield one


def press(button: Any) -> None:
    """With the keyboard alone."""
    button.focus()
    button.press("Enter")


@needs_chromium
@pytest.mark.slow
def test_a_person_listens_labels_adapts_and_rolls_back(chromium: Any, site: Site) -> None:
    own = load_bundle(BUNDLE).id
    with opened(chromium, f"{site.url}?token={TOKEN}", mortal=True) as page:
        shows(page, "#review-link", "Review (sound is kept)")
        page.locator("#review-link").click()
        shows(page, "#notice", "The sound of the 50 most uncertain utterances")
        shows(page, "#labels", f"Labels: {GIVEN}")
        # Listen, and give a label.
        row = page.locator("#kept li").first
        row.wait_for()
        player = row.locator("audio")
        player.focus()
        page.keyboard.press("Space")
        wait_until(lambda: player.evaluate("e => e.currentTime") > 0.2, "the sound to be played")
        number = int(row.get_attribute("data-id"))
        one = site.store.find(number)
        assert one is not None
        label = text(page, f"#kept li[data-id='{number}'] button:nth-child(2)").lower()
        press(row.locator("button").nth(1))
        page.locator(f"#kept li[data-id='{number}']").wait_for(state="detached")
        shows(page, "#labels", f"Labels: {GIVEN + 1}")
        assert page.evaluate("document.activeElement.matches('#kept audio, #review')")
        line = json.loads(site.labels.read_text().splitlines()[-1])
        assert (line["label"], line["run"], line["seq"]) == (label, one.run, one.seq)
        assert line["probabilities"] == one.probabilities
        assert site.store.find(number) is None
        # What is only in memory is kept at the press of a button, and a dead server loses no label.
        page.locator("#kept li").first.wait_for()
        number = int(page.locator("#kept li").first.get_attribute("data-id"))
        site.running.stages()["dashboard"].kill()
        row = page.locator(f"#kept li[data-id='{number}']")
        row.get_by_role("button", name="Sad").click()
        row.wait_for(state="detached")
        shows(page, "#labels", f"Labels: {GIVEN + 2}")
        # Adapt.
        press(page.locator("#adapt"))
        shows(page, "#task", "has replaced")
        shows(page, "#labels", "The bundle is adapted (small@")
        rows = page.locator("#gain tbody tr")
        assert rows.count() == 2
        assert "points (+" in rows.first.inner_text()
        wait_until(lambda: site.bundle() not in ("", own), "results of the adapted bundle")
        assert site.bundle() == site.review()["adapted"]
        # Undo it.
        press(page.locator("#rollback"))
        shows(page, "#task", f"{own} has replaced")
        page.locator("#rollback").wait_for(state="hidden")
        wait_until(lambda: site.bundle() == own, "results of the bundle without labels")
    assert load_bundle(site.folder / "review.bundle").id == own
    audit = site.folder / "audit.jsonl"
    assert verify(audit).broken is None
    rows = [json.loads(line) for line in audit.read_text().splitlines()]
    events = [row["event"] for row in rows]
    for event in ("sound fetched", "label taken", "adaptation asked", "rollback asked", "swap"):
        assert event in events
    (taken,) = [row for row in rows if row["event"] == "label taken"][:1]
    assert (taken["label"], taken["stream"], taken["address"]) == (label, "main", "127.0.0.1")


def test_what_is_only_in_memory_is_kept_on_request(site: Site) -> None:
    def keep() -> dict[str, Any] | None:
        for one in site.review()["keepable"]:
            key = {name: one[name] for name in ("stream", "run", "seq")}
            if site.post("/review/keep", key)[0] == 200:
                return key
        return None

    asked: list[dict[str, Any]] = []
    fill(site, 50)  # the queue takes nothing that is surer

    def has_asked() -> bool:
        if (key := keep()) is not None:
            asked.append(key)
        return bool(asked)

    wait_until(has_asked, "an utterance to ask for")

    def kept() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = site.review()["kept"]
        return [one for one in rows if one["asked"] and one["seq"] == asked[0]["seq"]]

    wait_until(lambda: bool(kept()), "it to be kept")
    (one,) = kept()
    status, headers, body = get(site.port, f"{API}/review/sound?id={one['id']}", BEARER)
    assert (status, headers["content-type"]) == (200, "audio/wav")
    with wave.open(io.BytesIO(body)) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(one["seconds"])
        assert np.abs(np.frombuffer(file.readframes(10**6), "<i2")).max() > 300
    part = {**BEARER, "Range": "bytes=44-143"}
    status, headers, some = get(site.port, f"{API}/review/sound?id={one['id']}", part)
    assert (status, some) == (206, body[44:144])
    assert headers["content-range"] == f"bytes 44-143/{len(body)}"
    wrong: Any
    for wrong in ({"stream": "main"}, {**asked[0], "x": 1}, {**asked[0], "seq": -1}, [], b"{"):
        assert site.post("/review/keep", wrong)[0] == 400
    assert site.post("/review/keep", {**asked[0], "seq": 10**9})[0] == 404
    assert site.post("/review/label", {"id": one["id"], "label": "bored"})[0] == 400
    assert site.post("/review/label", {"id": one["id"], "label": None})[0] == 200
    assert site.post("/review/label", {"id": one["id"], "label": "sad"})[0] == 404


def fill(site: Site, count: int) -> list[int]:
    """Put very uncertain utterances into the queue in place of others; their numbers."""
    for one in site.store.list():
        site.store.delete(one.id)
    sound = Sound(b"RIFF", 1.0)
    for seq in range(count):
        filler = public.Utterance(
            *("hall", "filled", seq, 0, 16000, 16000, time.time(), "sad", 0.25),
            *(dict.fromkeys(LABELS, 0.25), None, 2, load_bundle(BUNDLE).id),
        )
        assert site.store.keep(filler, sound, time.time(), asked=False, queue=count)
    return [one.id for one in site.store.list() if one.run == "filled"]


def test_a_server_that_is_killed_loses_no_label(site: Site) -> None:
    numbers = fill(site, 50)
    confirmed: dict[int, str] = {}

    def judge() -> None:
        for place, number in enumerate(numbers):
            label = LABELS[place % 4]
            with contextlib.suppress(OSError, http.client.HTTPException):
                if site.post("/review/label", {"id": number, "label": label})[0] == 200:
                    confirmed[number] = label
            time.sleep(0.04)

    seqs = {one.id: one.seq for one in site.store.list()}
    person = threading.Thread(target=judge)
    person.start()
    killed = 0
    while person.is_alive():
        time.sleep(0.15)
        stage = site.running.stages().get("dashboard")
        if stage is not None and killed < 3 and len(confirmed) > 5 * killed:
            with contextlib.suppress(psutil.NoSuchProcess):  # it was killed a moment ago
                stage.kill()
                killed += 1
    person.join()
    assert killed
    assert confirmed
    rows = [json.loads(line) for line in site.labels.read_text().splitlines()]
    written = {row["seq"]: row["label"] for row in rows if row["run"] == "filled"}
    waiting = {one.seq for one in site.store.list() if one.run == "filled"}
    assert {seqs[number]: label for number, label in confirmed.items()}.items() <= written.items()
    assert waiting | set(written) == {seqs[number] for number in numbers}
    assert len(read_labels(site.labels, LABELS)) >= GIVEN + len(confirmed)
    wait_until(lambda: answers(site.port), "the page")


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS)
def test_axe_core_finds_nothing(chromium: Any, site: Site, look: str) -> None:
    wait_until(lambda: answers(site.port), "the page")
    fill(site, 3)
    context = new_context(chromium, **LOOKS[look], bypass_csp=True)
    page = context.new_page()
    page.goto(f"{site.url}?token={TOKEN}")
    page.goto(f"{site.url}review.html")
    page.locator("#kept li").first.wait_for()
    assert violations(page) == []
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    if LOOKS[look].get("has_touch"):
        small = page.evaluate(
            """() => [...document.querySelectorAll('button, .button')].filter((e) => e.offsetParent
            && e.getBoundingClientRect().height < 43.9).map((e) => e.outerHTML.slice(0, 80))"""
        )
        assert small == []
    context.close()


def test_a_key_that_can_only_read_gets_no_sound_and_changes_nothing(site: Site) -> None:
    reader = {"Authorization": f"Bearer {site.key}"}
    (number,) = fill(site, 1)
    before = site.labels.read_bytes()
    assert get(site.port, f"{API}/streams", reader)[0] == 200
    for path in ("/review", f"/review/sound?id={number}"):
        status, _, body = get(site.port, f"{API}{path}", reader)
        assert (status, b"can only read" in body) == (403, True)
    label = {"id": number, "label": "sad"}
    for path, request in (("keep", {}), ("label", label), ("adapt", {}), ("rollback", {})):
        assert post_json(site.port, f"{API}/review/{path}", request, **reader)[0] == 403
    assert get(site.port, f"{API}/review")[0] == 401
    assert site.store.find(number) is not None
    assert site.labels.read_bytes() == before


@pytest.mark.slow
def test_nothing_is_kept_while_muted_and_old_sound_is_deleted(tmp_path: Path) -> None:
    with site_in(tmp_path, 3, SEP_REVIEW__HOURS="0.002") as site:
        wait_until(lambda: bool(site.review()["kept"]), "an utterance to be kept")
        # Without labels an adaptation is one line.
        assert site.post("/review/adapt")[0] == 200
        wait_until(lambda: site.review()["task"]["state"] == "failed", "the refusal")
        assert "cannot be read" in site.review()["task"]["text"]
        keepable = site.review()["keepable"][:1]
        assert site.post("/mute", {"muted": True})[0] == 200
        wait_until(lambda: site.review()["muted"], "the mute")
        for one in keepable:
            key = {name: one[name] for name in ("stream", "run", "seq")}
            assert site.post("/review/keep", key)[0] == 409
            assert site.store.want(*key.values())  # as if asked a moment before
        wait_until(lambda: not site.review()["kept"], "the old sound to be deleted")
        heard = len(site.running.received.fresh(public.Result))
        site.running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= heard + 4)
        review = site.review()
        assert (review["kept"], review["keepable"]) == ([], [])
        assert not site.labels.exists()


def test_a_review_that_cannot_work_is_one_line(
    supervise: Supervise, clip: Callable[..., Path], tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.sqlite"
    foreign.write_text("no database, but more than a hundred characters long" * 3)
    # In real time: a recording that ends before the review has begun is no error.
    source = (f"--source=file:{clip(60.0, repeat=4)}", "--speed=realtime")
    page = f"--dashboard=127.0.0.1:{free_port()}"
    for flags, cause in (
        ((), "start with --dashboard"),
        ((page,), "cannot be used for the review"),
    ):
        code, stderr, _ = supervise(*source, *flags, env={"SEP_REVIEW__FILE": str(foreign)}).ended()
        assert code == 2
        (line,) = stderr.splitlines()
        assert cause in line
