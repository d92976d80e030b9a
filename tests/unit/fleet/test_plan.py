"""The plan of a fleet, and the files that are written from it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

pytest.importorskip("nkeys")

from speech_emotion.common.config.load import load_config
from speech_emotion.common.errors import UserError
from speech_emotion.fleet.configurations import write_files
from speech_emotion.fleet.plan import load_plan
from speech_emotion.fleet.status import BoxState, Fault, judge

PLAN = """
[centre]
host = "127.0.0.1"
[[box]]
site = "home"
name = "kitchen"
"""


def plan(path: Path, text: str = PLAN) -> Path:
    file = path / "fleet.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("127.0.0.1", "example.org"), "needs certificate and private_key"),
        (('"home"', '"Home!"'), "a-z, 0-9"),
        (("[[box]]", "[[boxes]]"), "boxes is not a key; allowed: centre, box"),
        (("[centre]", "[[center]]"), "center is not a key"),
        (('name = "kitchen"', 'box = "kitchen"'), r"box\.0\.box is not a key; allowed: site, name"),
        ((PLAN, PLAN.partition("[[box]]")[0]), r"\[\[box\]\] is missing"),
        ((PLAN, "box = []\n" + PLAN.partition("[[box]]")[0]), "at least 1 rows"),
        ((PLAN, PLAN + PLAN.partition("[[box]]")[2].join(["[[box]]", ""])), "names must differ"),
        (('name = "kitchen"', ""), "box.0.name"),
        (("[centre]", "[centre"), "not valid TOML"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_plan(plan(tmp_path, PLAN.replace(*change)))
    assert "\n" not in str(caught.value)


def test_a_plan_with_one_more_box_keeps_every_key(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_files(load_plan(plan(tmp_path)), out)
    secrets = {path: path.read_bytes() for path in out.rglob("*.nk")}
    assert len(secrets) == 3
    more = PLAN + '[[box]]\nsite = "home"\nname = "hall"\nleaf = false\n'
    write_files(load_plan(plan(tmp_path, more)), out)
    assert {path: path.read_bytes() for path in secrets} == secrets
    for path in (*out.rglob("*.nk"), *out.rglob("leaf-key.conf")):
        assert path.stat().st_mode & 0o077 == 0
    centre = (out / "centre" / "nats-server.conf").read_text()
    assert not [seed for seed in secrets.values() if seed.decode() in centre]
    names = {path.name for path in (out / "boxes" / "home.hall").iterdir()}
    assert names == {"box.nk", "nats.toml"}


def test_the_table_of_a_box_is_a_configuration(tmp_path: Path) -> None:
    write_files(load_plan(plan(tmp_path)), tmp_path / "out")
    file = tmp_path / "out" / "boxes" / "home.kitchen" / "nats.toml"
    config = load_config(file, {"stream": [{"source": "mic"}]})
    assert (config.nats.site, config.nats.box) == ("home", "kitchen")
    assert config.nats.url == "nats://127.0.0.1:4222"
    assert tomllib.loads(file.read_text())["nats"]["stream_mb"] == 1024


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"url": "nats://example.org:4222"}, "unencrypted"),
        ({"url": "tls://user:secret@example.org"}, "credentials belong"),
        ({"url": "http://example.org"}, "must be nats://"),
        ({"site": "a.b"}, "a-z, 0-9"),
        ({"certificate": "/a.pem"}, "belong together"),
        ({"seed": "/a", "credentials": "/b"}, "not both"),
    ],
)
def test_a_mistake_in_the_table_is_one_line(table: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(None, {"nats": table, "stream": [{"source": "mic"}]})


def health(**changes: object) -> dict[str, object]:
    row = {"name": "main", "state": "live", "reason": None, "state_s": 3.0}
    usual: dict[str, object] = {
        "time": 995.0,
        "mute": None,
        "streams": [row],
        "counters": {},
        "version": "1.2",
    }
    return {**usual, **changes}


LOST = {"name": "main", "state": "lost", "reason": "unplugged", "state_s": 35.0}


@pytest.mark.parametrize(
    ("state", "fault", "words"),
    [
        (BoxState("s", "z", health(), 5.0, {"main": "new@1"}), None, "ok"),
        (BoxState("s", "z"), Fault("no contact"), "no contact yet"),
        (
            BoxState("s", "z", health(), 61.0),
            Fault("no contact", "", 939.0),
            "no contact for 0:01:01",
        ),
        (
            BoxState("s", "z", health(mute={"text": "by hand"}), 5.0, muted_since=900.0),
            Fault("muted", "by hand", 900.0),
            "muted: by hand",
        ),
        (
            BoxState("s", "z", health(), 5.0, {"main": "old@1"}),
            Fault("other bundle", "main has old@1"),
            "other bundle: main has old@1",
        ),
        (
            BoxState("s", "z", health(version="1.1"), 5.0),
            Fault("other version", "1.1, most have 1.2"),
            "other version: 1.1, most have 1.2",
        ),
        (
            BoxState("s", "z", health(counters={"fleet_dropped": 7}), 5.0),
            Fault("losses", "fleet_dropped 7"),
            "fleet_dropped 7",
        ),
        (
            BoxState("s", "z", health(streams=[LOST]), 5.0),
            Fault("no sound", "main is lost (unplugged)", 960.0),
            "no sound: main is lost (unplugged)",
        ),
    ],
)
def test_each_fault_of_a_box_is_named(state: BoxState, fault: Fault | None, words: str) -> None:
    others = [BoxState("s", f"b{n}", health(), 1.0, {"main": "new@1"}) for n in range(3)]
    lines = judge([*others, state], 1000.0)
    faulty = [line for line in lines if line.faults]
    assert lines[: len(faulty)] == faulty
    assert [line.faults for line in faulty] == ([] if fault is None else [(fault,)])
    (line,) = [one for one in lines if one.box == "z"]
    assert line.describe(1000.0) == f"s z: {words}"
    assert judge(others, 1000.0, "newer@2")[0].faults == (Fault("other bundle", "main has new@1"),)
