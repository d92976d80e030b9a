"""Roll-outs without sockets: waves, orders, archives, the watch, the state of a box."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("nacl")
pytest.importorskip("nats")
pytest.importorskip("nkeys")

import nkeys

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.bundle.rolled_out import STATE, RolledOut, rolled_out_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.common.nats_server import RolloutOptions
from speech_emotion.common.wire import public
from speech_emotion.fleet.messages import Intake
from speech_emotion.fleet.rollout.archive import MAX_FILES, ArchiveError, pack, unpack
from speech_emotion.fleet.rollout.box import BoxRollout
from speech_emotion.fleet.rollout.box_state import BoxState, StateFile
from speech_emotion.fleet.rollout.orders import (
    BACK,
    USE,
    Order,
    OrderError,
    Report,
    number_of,
    opened,
    signed,
)
from speech_emotion.fleet.rollout.plan import (
    COMPLETE,
    STOPPED,
    Plan,
    decode,
    encode,
    holders,
    judge,
    waves_of,
)
from speech_emotion.fleet.rollout.watch import LONGER_S, SETTLED_S, Watch
from tests.support.pipelines import BUNDLE
from tests.support.publisher import health, result

BOXES = tuple(f"home.{name}" for name in "abcde")
SHA = "0" * 64
PLAN = Plan(3, USE, "small@00000000", SHA, "x", 9, SHA, 1.0, 9.0, (BOXES[:1], BOXES[1:3]), 60.0)
SEED = bytes(range(32))


def public_key(seed: bytes = SEED) -> str:
    encoded = nkeys.encode_seed(seed, nkeys.PREFIX_BYTE_USER)
    return bytes(nkeys.from_seed(bytearray(encoded)).public_key).decode()


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1,10%,100%", [1, 4]),
        ("1,3,100%", [1, 2, 2]),
        ("50%", [3]),
        ("2,40%,5", [2, 3]),
        ("99", [5]),
    ],
)
def test_waves(text: str, sizes: list[int]) -> None:
    waves = waves_of(BOXES, text)
    assert [len(wave) for wave in waves] == sizes
    assert [name for wave in waves for name in wave] == list(BOXES[: sum(sizes)])


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "1,,2", "one", "3,1", "-1", "60%,1"])
def test_waves_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--waves"):
        waves_of(BOXES, text)


def test_a_plan_goes_on_stops_and_ends() -> None:
    begun = judge(PLAN, {}, 100.0)
    assert (begun.begun, begun.began, begun.wave) == (1, 100.0, BOXES[:1])
    assert judge(begun, {}, 160.0) is begun
    late = judge(begun, {"home.a": Report(2, "taken")}, 161.0)
    assert late.state == STOPPED
    assert late.reason == "wave 1 of 2: home a has not reported within 60 s"
    second = judge(begun, {"home.a": Report(3, "taken")}, 160.0)
    assert second.ordered == list(BOXES[:3])
    found = {"home.a": Report(3, "taken"), "home.b": Report(3, "testing")}
    assert judge(second, found, 170.0) is second
    failed = judge(second, {**found, "home.c": Report(3, "refused", "", "why")}, 170.0)
    assert (failed.state, failed.reason) == (STOPPED, "wave 2 of 2: home c: refused: why")
    assert holders(failed, found) == ["home.a", "home.b"]
    done = {name: Report(3, "taken") for name in BOXES}
    assert judge(second, done, 170.0).state == COMPLETE
    assert decode(encode(second)) == second


def test_an_order_counts_for_its_box_with_its_signature_only() -> None:
    order = PLAN.order("home.a")
    body = signed(order, SEED)
    assert opened(body, public_key(), "home", "a") == order
    assert number_of(body) == 3
    other = public_key(bytes(32))
    for words, content, key, box in (
        ("not signed", body, other, "a"),
        ("for home a", body, public_key(), "b"),
        ("not signed", body.replace(b"small", b"other"), public_key(), "a"),
        ("damaged", b"{}", public_key(), "a"),
        ("damaged", b"\xff", public_key(), "a"),
        ("damaged", b'{"order": "x", "signature": "?"}', public_key(), "a"),
    ):
        with pytest.raises(OrderError, match=words):
            opened(content, key, "home", box)
    for wrong in ({"number": 0}, {"action": "rm"}, {"digest": "../../etc"}, {"object": ">"}):
        body = signed(dataclasses.replace(order, **wrong), SEED)
        with pytest.raises(OrderError, match="damaged"):
            opened(body, public_key(), "home", "a")
    assert number_of(b"[") == number_of(b'{"order": "{}"}') == 0


def test_an_archive_is_the_same_each_time_and_gives_the_bundle_back(tmp_path: Path) -> None:
    bundle = load_bundle(BUNDLE)
    content = pack(bundle)
    assert content == pack(bundle)
    archive, folder = tmp_path / "archive.tar", tmp_path / "bundle"
    archive.write_bytes(content)
    unpack(archive, folder, bundle.digest)
    assert load_bundle(folder).id == bundle.id
    with pytest.raises(ArchiveError, match="another bundle than the order"):
        unpack(archive, tmp_path / "second", SHA)
    archive.write_bytes(content[:5000])
    with pytest.raises(ArchiveError, match="no bundle"):
        unpack(archive, tmp_path / "second", bundle.digest)
    assert not (tmp_path / "second").exists()


def member(name: str, **changes: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([member("../outside")], "no plain file"),
        ([member("/tmp/outside")], "no plain file"),
        ([member("a/b")], "no plain file"),
        ([member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "no plain file"),
        ([member("link", type=tarfile.LNKTYPE, linkname="bundle.toml")], "no plain file"),
        ([member("device", type=tarfile.CHRTYPE)], "no plain file"),
        ([member("folder", type=tarfile.DIRTYPE)], "no plain file"),
        ([member("sparse", type=tarfile.GNUTYPE_SPARSE)], "no plain file"),
        ([member(".")], "cannot be a file"),
        ([member("..")], "cannot be a file"),
        ([member("twice"), member("twice")], "cannot be a file"),
        ([member(str(n)) for n in range(MAX_FILES + 1)], "more than a bundle may"),
        ([member("a")], "no bundle"),
    ],
)
def test_an_archive_that_holds_anything_else_is_refused(
    tmp_path: Path, members: list[tarfile.TarInfo], words: str
) -> None:
    archive, folder = tmp_path / "archive.tar", tmp_path / "here" / "bundle"
    folder.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        for one in members:
            tar.addfile(one, io.BytesIO())
    with pytest.raises(ArchiveError, match=words):
        unpack(archive, folder, SHA)
    assert not folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.tar", "here"]


def watched(*fed: tuple[float, public.Public], until: float = 10.0) -> Watch:
    watch = Watch("new@00000000", 10.0, 100.0, 0.0)
    for now, message in fed:
        watch.feed(message, now)
    assert watch.over(until)
    return watch


def made(seq: int, bundle: str = "new@00000000", ms: float = 50.0) -> public.Result:
    return dataclasses.replace(result(seq), bundle=bundle, time=1.0, timing_ms={"total": ms})


def state(
    *, pid: int = 1, restarts: int = 0, overrun: int = 0, source: str = "live", since: float = 60.0
) -> public.Health:
    found = health(source=source)
    stage = dataclasses.replace(found.stages[0], pid=pid, restarts=restarts)
    stream = dataclasses.replace(found.streams[0], state_s=since)
    return dataclasses.replace(
        found, stages=[stage], streams=[stream], counters={"windows_overrun": overrun}
    )


def test_a_pipeline_that_works_is_taken() -> None:
    late = made(0, bundle="old@00000000")  # it waited in the socket
    watch = watched(
        (0.0, state(pid=9)), (0.1, late), (0.2, made(1)), (1.0, state()), (9.0, made(2))
    )
    assert (watch.tried, watch.fault) == (True, None)


def test_without_sound_nothing_is_tried() -> None:
    watch = watched((0.0, state(source="muted")), (9.0, state(source="muted")))
    assert (watch.tried, watch.fault) == (False, None)


@pytest.mark.parametrize(
    ("fed", "fault"),
    [
        ([(0.1, made(1)), (0.2, made(2, bundle="old@00000000"))], "old@00000000 is in use again"),
        ([(0.1, made(1)), (1.0, state()), (2.0, state(pid=2))], "infer was restarted: broke"),
        ([(0.1, made(1)), (1.0, state()), (2.0, state(restarts=1))], "infer was restarted"),
        (
            [(0.1, made(1)), (1.0, state()), (2.0, state(overrun=3))],
            "too slow: 3 windows were lost",
        ),
        ([(0.1, made(1, ms=200.0))], "take more than 200 ms; the limit is 100"),
        ([(0.1, made(1)), (SETTLED_S + 1.0, state())], "main: no result for 6 s"),
    ],
)
def test_what_rolls_a_bundle_back(fed: list[tuple[float, public.Public]], fault: str) -> None:
    found = watched(*fed).fault
    assert found is not None
    assert fault in found


def test_a_result_is_awaited_for_longer_where_sound_arrives() -> None:
    watch = Watch("new@00000000", 1.0, 100.0, 0.0)
    watch.feed(state(), 0.5)
    assert not watch.over(1.5)
    assert watch.over(1.0 + LONGER_S)
    assert watch.fault == "no result, though sound arrives"


def test_the_state_of_a_box_is_kept_and_old_bundles_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(4)]
    for digest in digests:
        (folder / digest).mkdir(parents=True)
    (folder / "other").mkdir()
    file = StateFile(folder)
    assert file.state == BoxState()
    order = dataclasses.replace(PLAN.order("home.a"), digest=digests[2])
    here = [RolledOut(digest, "/models") for digest in digests[:2]]
    file.change(order=order, report=Report(3, "testing"), in_use=here[0], previous=here[1])
    file.remove_others()
    assert {path.name for path in folder.iterdir()} == {*digests[:3], "other", STATE}
    assert StateFile(folder).state == file.state
    (folder / STATE).write_text("{}")
    with pytest.raises(UserError, match="is no state of roll-outs"):
        StateFile(folder)


def test_which_bundle_a_start_uses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = load_bundle(BUNDLE)
    assert rolled_out_bundle(tmp_path, BUNDLE) == BUNDLE
    file = StateFile(tmp_path)
    archive = tmp_path / "archive.tar"
    archive.write_bytes(pack(own))
    unpack(archive, tmp_path / own.digest, own.digest)
    file.change(in_use=RolledOut(own.digest, str(BUNDLE)))
    assert rolled_out_bundle(tmp_path, BUNDLE) == tmp_path / own.digest
    assert not caplog.records
    # The user has configured another bundle since.
    elsewhere = tmp_path / "elsewhere"
    assert rolled_out_bundle(tmp_path, elsewhere) == elsewhere
    assert "is configured now" in caplog.text
    (tmp_path / own.digest / "model.tflite").write_bytes(b"damaged")
    assert rolled_out_bundle(tmp_path, BUNDLE) == BUNDLE
    assert "is not used" in caplog.text
    for text in ('{"in_use": {"digest": "../x", "replaces": ""}}', "[]", "?"):
        (tmp_path / STATE).write_text(text)
        assert rolled_out_bundle(tmp_path, BUNDLE) == BUNDLE
    assert "cannot be read" in caplog.text


def test_a_report_is_published_when_it_changes() -> None:
    intake = Intake({})
    report = dataclasses.asdict(Report(1, "taken", "small@00000000"))
    (record,) = intake.rollout(report, 5.0)
    assert (record.stream, record.kind) == ("ROLLOUT", "event")
    assert Report.from_table(json.loads(record.body)) == Report(1, "taken", "small@00000000")
    assert intake.rollout(report, 6.0) == []
    assert record.mark is not None
    again = Intake(dict([record.mark]))
    assert again.has_rollout
    assert again.rollout(report, 7.0) == []


def test_a_way_back_names_no_other_order() -> None:
    order = PLAN.order("home.a", BACK)
    assert isinstance(order, Order)
    assert (order.action, order.number, order.digest) == (BACK, 3, SHA)


@pytest.mark.parametrize("changed", [False, True])
def test_an_archive_with_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, changed: bool
) -> None:
    """Its bytes may reach the disk, but nothing of it is unpacked."""
    content = pack(load_bundle(BUNDLE))
    order = Order(
        number=1,
        site="home",
        box="attic",
        action="use",
        bundle=load_bundle(BUNDLE).id,
        digest=load_bundle(BUNDLE).digest,
        object="chunks",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        watch_s=1.0,
        max_ms=500.0,
    )
    box = BoxRollout.__new__(BoxRollout)
    box._options = RolloutOptions(public_key(), tmp_path, tmp_path / "control", BUNDLE)
    sent = content[:-1] + b"\x01" if changed else content

    async def chunk(_box: BoxRollout, _order: Order, sequence: int) -> tuple[bytes, int]:
        return sent, sequence + 1

    monkeypatch.setattr(BoxRollout, "_chunk", chunk)
    fault = asyncio.run(box._fetch(order))
    assert (fault is not None and "another hash" in fault) == changed
    assert [path.name for path in tmp_path.iterdir()] == ([] if changed else [order.digest])
