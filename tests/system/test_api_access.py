"""Access to the HTTP interface: token, read-only keys, audit log, TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.common.privacy.audit_log import verify
from speech_emotion.common.security.api_keys import add_api_key, remove_api_key
from tests.support.live_page import INFO, live
from tests.support.pages import API, TOKEN, Dashboard, answers, get
from tests.support.pipelines import PATIENCE_S, ROOT, Running, fresh_endpoint, wait_until
from tests.support.publisher import Publisher
from tools.ports import free_port

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="needs openssl")
Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_reads_and_changes_nothing(supervise: Supervise, clip: Clip, tmp_path: Path) -> None:
    """Also what the audit log says about it."""
    file, log, port = tmp_path / "keys.json", tmp_path / "audit.jsonl", free_port()
    key, other = add_api_key(file, "panel"), add_api_key(file, "hall")
    running = supervise(
        f"--source=file:{clip(5.0, repeat=20)}",
        f"--dashboard=127.0.0.1:{port}",
        env={
            "SEP_DASHBOARD__TOKEN": TOKEN,
            "SEP_DASHBOARD__API_KEYS": str(file),
            "SEP_AUDIT__FILE": str(log),
            "SEP_MUTE__STATE": str(tmp_path / "mute.json"),
        },
    )
    wait_until(lambda: answers(port), "the page")
    for path in ("/streams", "/health", "/service", "/recent?stream=main", "/openapi.json"):
        assert get(port, API + path, bearer(key))[0] == 200, path
        assert get(port, API + path)[0] == 401
    # Neither the page nor anything that changes something; whether it is malformed or not.
    body = json.dumps({"muted": True})
    for method, path in (("POST", f"{API}/mute"), ("GET", "/"), ("POST", "/login"), ("PUT", API)):
        status, _, text = get(port, path, bearer(key), method, body)
        assert status == 403, (method, path)
        assert b"panel can only read" in text
    for wrong in (f"{key}x", "sep_unknown", "a-token-that-is-wrong"):
        status, headers, _ = get(port, f"{API}/streams", bearer(wrong))
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
    stream = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    stream.request("GET", f"{API}/results", headers=bearer(other))
    response = stream.getresponse()
    assert response.readline()
    remove_api_key(file, "hall")
    response.read()  # ends by itself
    assert get(port, f"{API}/streams", bearer(other))[0] == 401
    stream.close()
    wait_until(lambda: '"hall"' in log.read_text(), "the audit log")
    running.process.terminate()
    assert running.ended()[0] == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert verify(log).broken is None
    used = [(one["event"], one["name"], one["asked"]) for one in events if "key" in one["event"]]
    assert used[0] == ("api key used", "panel", f"GET {API}/streams")
    assert ("api key refused", "panel", f"POST {API}/mute") in used
    assert ("api key refused", None, f"GET {API}/streams") in used
    assert [one for one in used if one[0] == "api key used"] == [
        used[0],
        ("api key used", "hall", f"GET {API}/results"),
    ]
    assert not any(secret in log.read_text() for secret in (key, other, TOKEN))
    assert "mute asked" not in {one["event"] for one in events}


def test_a_key_without_a_token_still_only_reads(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add_api_key(file, "panel")
    page = Dashboard(fresh_endpoint(), f"--api-keys={file}")
    try:
        assert get(page.port, f"{API}/streams")[0] == 200  # loopback needs none
        assert get(page.port, f"{API}/streams", bearer(key))[0] == 200
        assert get(page.port, f"{API}/mute", bearer(key), "POST")[0] == 403
        remove_api_key(file, "panel")
        assert get(page.port, f"{API}/streams", bearer(key))[0] == 401
    finally:
        assert page.end() == 0


# TLS ---------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for this machine, and its key."""
    assert OPENSSL is not None
    folder.mkdir(exist_ok=True)
    pem, key = folder / "page.pem", folder / "page.key"
    command = [
        *(OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-noenc", "-days", "2", "-subj", f"/CN={name}"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-keyout", str(key), "-out", str(pem)),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key


def name_of(port: int, trusted: Path) -> str:
    """The name in the certificate that a server shows."""
    context = ssl.create_default_context(cafile=str(trusted))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        found = secure.getpeercert()
        assert found is not None
        return str(dict(pair[0] for pair in found["subject"])["commonName"])  # type: ignore[misc]


@needs_openssl
def test_tls_with_a_certificate_that_is_renewed(
    publisher: tuple[Publisher, str], tmp_path: Path
) -> None:
    pem, key = certificate(tmp_path / "one", "first")
    flags = [f"--certificate={pem}", f"--private-key={key}"]
    page = Secure(publisher[1], *flags, token=TOKEN)
    try:
        assert name_of(page.port, pem) == "first"
        publisher[0].wait_for()
        publisher[0].send(INFO)
        publisher[0].send(live(0))
        context = ssl.create_default_context(cafile=str(pem))
        path, key_of_page = f"{API}/streams", bearer(TOKEN)
        wait_until(
            lambda: b"sad" in fetched(page.port, context, path, key_of_page)[1],
            "the result over TLS",
        )
        cookie, _ = fetched(page.port, context, f"/?token={TOKEN}", {})
        assert "Secure" in cookie
        with (
            socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE_S) as plain,
            contextlib.suppress(ConnectionError),
        ):
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"HTTP" not in plain.recv(1000)  # nothing is served without encryption
        # A pair that does not fit changes nothing; the renewed one is used.
        new_pem, new_key = certificate(tmp_path / "two", "second")
        shutil.copy(new_key, key)
        time.sleep(3.0)
        assert name_of(page.port, pem) == "first"
        shutil.copy(new_pem, pem)
        wait_until(lambda: shown(page.port, pem) == "second", "the renewed certificate")
    finally:
        assert page.end() == 0


class Secure(Dashboard):
    """A page that does not answer without TLS."""

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, cwd=ROOT, env=self._env)
        wait_until(lambda: accepts(self.port) or self.process.poll() is not None, "the page")
        assert self.process.poll() is None


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def shown(port: int, trusted: Path) -> str:
    try:
        return name_of(port, trusted)
    except ssl.SSLError:
        return ""


def fetched(
    port: int, context: ssl.SSLContext, path: str, headers: dict[str, str]
) -> tuple[str, bytes]:
    """Cookie and body, over a new connection: the server closes one that is idle for seconds."""
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.getheader("set-cookie") or "", response.read()


@needs_openssl
def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path / "one", "first")
    _, other = certificate(tmp_path / "two", "second")
    absent = tmp_path / "absent"
    locked = tmp_path / "locked.key"
    subprocess.run(
        [str(OPENSSL), "pkey", "-in", key, "-aes256", "-passout", "pass:abcd", "-out", locked],
        check=True,
        capture_output=True,
    )
    for flags, words in (
        ([f"--certificate={pem}"], "belong together"),
        ([f"--certificate={absent}", f"--private-key={key}"], "absent"),
        ([f"--certificate={pem}", f"--private-key={other}"], "mismatch"),
        ([f"--certificate={key}", f"--private-key={key}"], "page.key"),
        ([f"--certificate={pem}", f"--private-key={locked}"], "password"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "dashboard", f"--listen=127.0.0.1:{free_port()}", *flags],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert words in line
