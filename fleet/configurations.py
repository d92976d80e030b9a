"""The files of a fleet: configurations of the servers, keys, streams, and `[nats]` of each box.

    DIR/centre/nats-server.conf, stream.json, store.nk, rollout.nk
    DIR/boxes/SITE.BOX/nats-server.conf, leaf-key.conf, box.nk, nats.toml

Keys that exist are kept, so a plan with one more box changes nothing on the others.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import tomli_w

from speech_emotion.common.errors import UserError
from speech_emotion.fleet.messages import ROOT
from speech_emotion.fleet.plan import Box, Centre, Plan
from speech_emotion.fleet.rollout.orders import box_requests
from speech_emotion.fleet.server import inbox_of
from speech_emotion.fleet.streams import CENTRE, definition, domain, source_of

ACCOUNT = "SEP"
GB = 1_000_000_000
SPARE_MB = 16
"""What a box's server may store beside its stream."""
CONFIGURATION, KEY, CA = "nats-server.conf", "box.nk", "ca.pem"
ORDERS_KEY = "rollout.nk"
"""Seed that signs the orders of roll-outs; it may lie on another machine than the centre."""
HEAD = "# Written by `speech-emotion fleet init`; do not edit.\n"


def write_files(plan: Plan, folder: Path) -> list[Path]:
    """Write every file of a plan; returns the folders, the centre's first.

    Raises:
        UserError: a file cannot be written or read.
    """
    try:
        centre = _folder(folder / "centre")
        boxes = [_folder(folder / "boxes" / f"{one.site}.{one.name}") for one in plan.box]
        users = [_user("store", _public_key(centre / "store.nk"), {})]
        orders = _public_key(centre / ORDERS_KEY) if any(one.rollout for one in plan.box) else None
        for box, here in zip(plan.box, boxes, strict=True):
            users.append(_write_box(plan.centre, box, here, orders if box.rollout else None))
        _write(centre / CONFIGURATION, _centre(plan.centre, users))
        subjects = [] if all(one.leaf for one in plan.box) else [f"{ROOT}.>"]
        size = None if plan.centre.gb is None else round(plan.centre.gb * GB)
        stream = definition(subjects, size, plan.centre.days * 86400.0)
        stream["sources"] = [source_of(one.site, one.name) for one in plan.box if one.leaf]
        _write(centre / "stream.json", json.dumps(stream, indent=1) + "\n")
        if plan.centre.ca is not None:
            for here in (centre, *boxes):
                shutil.copyfile(plan.centre.ca, here / CA)
    except OSError as error:
        used = " (centre.ca of the plan)" if error.filename == str(plan.centre.ca) else ""
        raise UserError(f"{error.filename}{used}: {error.strerror}") from None
    return [centre, *boxes]


def _centre(centre: Centre, users: list[str]) -> str:
    tls = ""
    if centre.encrypted:
        files = f"cert_file: {_text(centre.certificate)}, key_file: {_text(centre.private_key)}"
        tls = f"tls {{ {files} }}"
    lines = "\n    ".join(users)
    host = "127.0.0.1" if not centre.encrypted else "0.0.0.0"
    return (
        f"{HEAD}server_name: {CENTRE}\n"
        f'listen: "{host}:{centre.port}"\n{tls}\n'
        f"jetstream {{ store_dir: {_text(centre.store)}, domain: {CENTRE} }}\n"
        f'leafnodes {{ listen: "{host}:{centre.leaf_port}"\n  {tls}\n}}\n'
        f"accounts {{ {ACCOUNT} {{\n  jetstream: enabled\n  users: [\n    {lines}\n  ]\n}} }}\n"
    )


def _write_box(centre: Centre, box: Box, here: Path, orders: str | None) -> str:
    """Write the files of a box; returns its user at the centre.

    Args:
        orders: public key that signs the orders of a roll-out; None: the box takes none.
    """
    own = _public_key(here / KEY)
    scheme = "tls" if centre.encrypted else "nats"
    nats: dict[str, Any] = {"site": box.site, "box": box.name, "seed": str(box.folder / KEY)}
    if box.leaf:
        nats |= {"url": f"nats://127.0.0.1:{box.port}", "stream_mb": box.stream_mb}
        nats |= {"stream_days": box.stream_days}
        _write(here / CONFIGURATION, _leaf(centre, box, own))
        link = _public_key(here / "leaf.nk")
        # The configuration holds the seed itself: it cannot name a file with it.
        _write(here / "leaf-key.conf", f"nkey: {(here / 'leaf.nk').read_text()}\n", secret=True)
        permissions = {
            "publish": ["$JSC.R.*", "$JS.S.*", "$LDS.*"],
            "subscribe": [f"$JS.{domain(box.site, box.name)}.API.>", "$JS.FC.>", "$LDS.*"],
        }
    else:
        nats |= {"url": f"{scheme}://{centre.host}:{centre.port}"}
        if centre.ca is not None:
            nats |= {"ca": str(box.folder / CA)}
        link = own
        permissions = {
            "publish": [f"{ROOT}.{box.site}.{box.name}.>"],
            "subscribe": ["_INBOX.>"],
        }
    if orders is not None:
        nats |= {"rollout": orders}
        permissions["publish"] += box_requests(box.site, box.name, leaf=box.leaf)
        permissions["subscribe"] += [f"{inbox_of(box.site, box.name)}.>"]
    _write(here / "nats.toml", tomli_w.dumps({"nats": nats}))
    return _user(f"{box.site} {box.name}", link, permissions)


def _leaf(centre: Centre, box: Box, own: str) -> str:
    scheme = "tls" if centre.encrypted else "nats-leaf"
    tls = ""
    if centre.ca is not None and centre.encrypted:
        tls = f"tls {{ ca_file: {_text(box.folder / CA)} }}"
    name = json.dumps(domain(box.site, box.name))
    # The link forwards no message: the centre reads them from the stream.
    return (
        f"{HEAD}server_name: {name}\n"
        f'listen: "127.0.0.1:{box.port}"\nhttp: "127.0.0.1:{box.monitor_port}"\n'
        "# Every message is on the disk before it is accepted.\n"
        f"jetstream {{ store_dir: {_text(box.store)}, domain: {name}, sync_interval: always\n"
        # The default is a share of the space that is free at the start; the stream reduces it.
        f"  max_file_store: {box.stream_mb + SPARE_MB}MB }}\n"
        "leafnodes { remotes: [ {\n"
        f'  urls: ["{scheme}://{centre.host}:{centre.leaf_port}"]\n  account: {ACCOUNT}\n'
        f"  include leaf-key.conf\n  {tls}\n"
        f'  deny_exports: ["{ROOT}.>"], deny_imports: ["{ROOT}.>"]\n'
        "} ] }\n"
        f"accounts {{ {ACCOUNT} {{ jetstream: enabled, users: [ {{nkey: {own}}} ] }} }}\n"
    )


def _user(name: str, key: str, permissions: dict[str, list[str]]) -> str:
    allowed = ", ".join(f"{verb}: {{allow: {json.dumps(of)}}}" for verb, of in permissions.items())
    rights = f", permissions: {{{allowed}}}" if allowed else ""
    return f"{{nkey: {key}{rights}}} # {name}"


def _public_key(path: Path) -> str:
    """The public key of a seed file, which is made where it does not exist."""
    import nkeys

    if not path.exists():
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        _write(path, bytes(seed).decode(), secret=True)
    try:
        pair = nkeys.from_seed(bytearray(path.read_bytes().strip()))
        return bytes(pair.public_key).decode()
    except Exception as error:  # the library raises its own and those of base64 and nacl
        raise UserError(f"{path}: holds no seed of an NKey ({error})") from None


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _write(path: Path, text: str, *, secret: bool = False) -> None:
    """Replace a file as a whole."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if secret else 0o644)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(new, path)


def _text(value: Path | None) -> str:
    return json.dumps(str(value))
