"""Alerts to real receivers: HTTP servers, a mail server, mosquitto, commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from speech_emotion.alerts.channels import command, http_post, mail, mqtt, send
from speech_emotion.alerts.errors import DeliveryError
from speech_emotion.common.alert_address import parse_address
from tests.support.alert_messages import alert
from tests.support.alert_receivers import mail_server, ntfy_answer, web_server
from tests.support.broker import MOSQUITTO, Broker, Listener, connects
from tests.support.certificates import make_certificate
from tests.support.pipelines import wait_until
from tools.ports import free_port

# The mail server warns of a password without TLS; alerts send one so to this machine only.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

ONE = alert(1)
TEXT = "main sounds angry for 4.5 s (72% likely, by the model's own estimate)."


def refused(address: str, one: object = ONE) -> str:
    """Why an alert did not arrive; the cause shows no secret."""
    parsed = parse_address(address)
    with pytest.raises(DeliveryError) as caught:
        send(parsed, one)  # type: ignore[arg-type]
    text = parsed.without_secrets(str(caught.value))
    assert "pa55" not in text
    return text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is one that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))


def test_a_webhook_gets_the_alert_as_json_with_its_id() -> None:
    with web_server() as server:
        send(parse_address(f"http://box:p%40ss@127.0.0.1:{server.port}/hook?a=b"), ONE)
        send(parse_address(f"http://:a-token@127.0.0.1:{server.port}"), ONE)
    first, second = server.posted
    assert (first.path, second.path) == ("/hook?a=b", "/")
    assert first.headers["content-type"] == "application/json; charset=utf-8"
    assert first.headers["authorization"] == "Basic Ym94OnBAc3M="
    assert second.headers["authorization"] == "Bearer a-token"
    assert server.ids() == [ONE.id, ONE.id]
    assert first.json["id"] == ONE.id
    assert first.json["text"] == TEXT
    assert {"v", "rule", "stream", "label", "value", "time", "test"} <= set(first.json)


def test_only_success_counts_as_delivered() -> None:
    with web_server(answers=lambda _: (302, "")) as server:
        place = f"http://127.0.0.1:{server.port}/pa55-pa55"
        assert "answers 302" in refused(place)  # a POST is not sent on to another place
        server.answers = lambda _: (500, "out of order\nat /pa55-pa55")
        assert refused(place).endswith("answers 500 Internal Server Error out of order")
        server.answers = lambda _: None
        assert refused(place) == "the server closed the connection"
        assert server.posted == []
    assert refused(place) == "no server answers there (connection refused)"


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_post, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(mail, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert refused(f"http://127.0.0.1:{port}/") == "no answer within 0.2 s"
        assert refused(f"smtp://127.0.0.1:{port}/me@example.org") == "no answer within 0.2 s"


def test_encrypted_webhooks_check_the_certificate(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server(certificate=certificate) as server:
        place = f"https://127.0.0.1:{server.port}/pa55-pa55"
        assert "the certificate of the server is not trusted (self" in refused(place)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        send(parse_address(place), ONE)
        assert server.ids() == [ONE.id]


def test_ntfy_gets_a_message_of_its_schema() -> None:
    with web_server(answers=ntfy_answer("tk_pa55-token")) as server:
        place = f"127.0.0.1:{server.port}/my-topic_1"
        send(parse_address(f"ntfy+http://:tk_pa55-token@{place}"), ONE)
        assert "answers 401" in refused(f"ntfy+http://:tk_pa55-wrong@{place}")
        send(parse_address(f"ntfy+http://:tk_pa55-token@{place}"), alert(2, rule="x" * 40))
    message = server.posted[0].json
    assert message["topic"] == "my-topic_1"
    assert message["title"] == "Alert anger: main"
    assert message["message"] == TEXT
    assert message["sequence_id"] == ONE.id  # a second copy replaces the first on the phone


def test_an_email_has_text_and_data_and_one_id() -> None:
    with mail_server(("box@example.org", "p@ss word")) as server:
        user = "box%40example.org:p%40ss%20word"
        place = f"127.0.0.1:{server.port}/me@example.org"
        send(parse_address(f"smtp://{user}@{place}"), ONE)
        assert "535" in refused(f"smtp://box%40example.org:pa55-pa55@{place}")
        server.refused.add("me@example.org")
        assert refused(f"smtp://{user}@{place}") == (
            "the server refuses the recipient (550 no such mailbox)"
        )
        server.refused.clear()
        server.refuses_quit = True  # what the server says after it has taken a mail does not matter
        send(parse_address(f"smtp://{user}@{place}?from=other@example.org"), ONE)
    first, second = server.mails
    assert (first["From"], first["To"]) == ("box@example.org", "me@example.org")
    assert second["From"] == "other@example.org"
    assert first["Subject"] == "Alert anger: main"
    assert first["Message-ID"] == second["Message-ID"] == f"<{ONE.id}@speech-emotion.invalid>"
    assert first["Idempotency-Key"] == ONE.id
    body, (data,) = first.get_body(), list(first.iter_attachments())
    assert body is not None
    assert body.get_content().startswith(TEXT)
    assert json.loads(data.get_content())["id"] == ONE.id


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_email_is_encrypted(certificate: tuple[Path, Path], scheme: str) -> None:
    login = ("box", "pa55-pa55")
    with mail_server(login, certificate, tls=scheme == "smtps") as server:
        place = f"127.0.0.1:{server.port}/me@example.org?from=box@example.org"
        send(parse_address(f"{scheme}://box:pa55-pa55@{place}"), ONE)
    assert server.encrypted == [True]


def test_no_password_goes_to_another_machine_in_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "is_loopback", lambda _: False)
    with mail_server(("box", "pa55-pa55")) as server:
        place = f"127.0.0.1:{server.port}/me@example.org"
        assert "STARTTLS" in refused(f"smtp://box:pa55-pa55@{place}")
        assert server.mails == []


def test_a_command_gets_the_alert_on_stdin_and_in_its_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    go = tmp_path / "go"
    child = f"(while [ ! -e {go} ]; do sleep 0.05; done; rm {go}) &"
    script = f'cat >{out}; echo "$1 $SEP_ALERT_ID $SEP_ALERT_TEXT" >>{out}; {child} exit 0'
    send(parse_address(f"command:sh -c '{script}' x 'two words'"), ONE)
    go.touch()  # a child that it leaves behind was not waited for
    wait_until(lambda: not go.exists(), "the child to end")
    first, second = out.read_text().splitlines()
    assert json.loads(first)["id"] == ONE.id
    assert second == f"two words {ONE.id} {TEXT}"


def test_a_command_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert refused("command:/nonexistent/lamp pa55-pa55") == (
        "/nonexistent/lamp: No such file or directory"
    )
    script = "command:sh -c 'echo one >&2; echo no lamp at $0 >&2; exit 3' pa55-pa55"
    assert refused(script) == "exit code 3: no lamp at ***"
    monkeypatch.setattr(command, "TIMEOUT_S", 0.3)
    left = tmp_path / "left"
    assert "longer than 0.3 s" in refused(f"command:sh -c '(sleep 1; touch {left}) & sleep 5'")
    time.sleep(1.0)
    assert not left.exists()  # its children are killed with it


def test_a_broker_confirms_what_it_has_taken(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"mqtt://127.0.0.1:{broker.port}/sep/al%20erts"
    listener = Listener(broker.port)
    try:
        wait_until(lambda: listener.connected, "the listener")
        send(parse_address(address), ONE)
        wait_until(lambda: bool(listener.of("sep/al erts")), "the alert")
        assert json.loads(listener.of("sep/al erts")[0])["id"] == ONE.id
        monkeypatch.setattr(mqtt, "TIMEOUT_S", 0.5)
        broker.process.send_signal(signal.SIGSTOP)
        assert refused(address) == "no answer within 0.5 s"
    finally:
        broker.process.send_signal(signal.SIGCONT)
        listener.close()
    absent = f"mqtt://box:pa55-pa55@127.0.0.1:{free_port()}/a"
    assert refused(absent) == "no broker answers there (connection refused)"


def test_a_broker_with_passwords_refuses_others(locked_broker: int) -> None:
    port = locked_broker
    send(parse_address(f"mqtt://box:pa55-pa55@127.0.0.1:{port}/a"), ONE)
    assert "Not authorized" in refused(f"mqtt://box:pa55-wrong@127.0.0.1:{port}/a")


@pytest.fixture
def locked_broker(tmp_path: Path) -> Iterator[int]:
    """The port of a broker that knows one user."""
    if MOSQUITTO is None:
        pytest.skip("needs mosquitto: deploy/setup.sh dev installs it")
    port, passwords, config = free_port(), tmp_path / "passwords", tmp_path / "locked.conf"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "box", "pa55-pa55"], check=True)
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
        f"user {os.environ.get('USER', 'root')}\nlog_type error\n"
    )
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)])
    wait_until(lambda: connects(port), "the broker")
    yield port
    process.terminate()
    process.wait()


def test_a_module_is_loaded_when_its_kind_is_used() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys, speech_emotion.alerts.service; "
            "print({'ssl', 'smtplib', 'paho', 'http'} & {m.split('.')[0] for m in sys.modules})",
        ],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "set()\n", done.stderr
