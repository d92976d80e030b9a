"""An e-mail by SMTP."""

from __future__ import annotations

import contextlib
import email.utils
import smtplib
import socket
import ssl
from email.message import EmailMessage

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.errors import DeliveryError
from speech_emotion.common.alert_address import AlertAddress
from speech_emotion.common.connection_error import closed, phrase
from speech_emotion.common.wire.endpoint import is_loopback

TIMEOUT_S = 15.0
"""Longest time in seconds for the connection, and for each answer of the server."""


def send(address: AlertAddress, alert: Alert) -> None:
    """Send an alert. Credentials travel encrypted only, except to this machine.

    Raises:
        DeliveryError: the server did not take it.
    """
    try:
        server = _connected(address)
        try:
            if address.user is not None and address.password is not None:
                server.login(address.user, address.password)
            server.send_message(message(address, alert))
            with contextlib.suppress(smtplib.SMTPException, OSError):
                server.quit()  # the server has taken it, whatever it answers now
        finally:
            server.close()
    except TimeoutError:
        raise _silent() from None
    except smtplib.SMTPServerDisconnected as error:
        # Its context is the error of the socket; none where the server has ended the connection.
        if isinstance(error.__context__, TimeoutError):
            raise _silent() from None
        raise DeliveryError(closed()) from None
    except smtplib.SMTPRecipientsRefused as error:
        (answer,) = error.recipients.values()
        raise DeliveryError(f"the server refuses the recipient ({_text(*answer)})") from None
    except smtplib.SMTPResponseException as error:
        text = _text(error.smtp_code, error.smtp_error)
        raise DeliveryError(f"the server answers {text}") from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise DeliveryError(phrase(error)) from None


def message(address: AlertAddress, alert: Alert) -> EmailMessage:
    """The e-mail. Its Message-ID is the alert's id, so a second copy is known as such."""
    mail = EmailMessage()
    mail["From"], mail["To"] = address.sender, address.target
    mail["Subject"] = alert.title
    mail["Date"] = email.utils.formatdate(alert.time)
    mail["Message-ID"] = f"<{alert.id}@speech-emotion.invalid>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["Idempotency-Key"] = alert.id
    mail.set_content(f"{alert.text}\n\nTime: {alert.moment}\nRule: {alert.rule}\n")
    content = alert.to_json().encode()
    mail.add_attachment(content, maintype="application", subtype="json", filename="alert.json")
    return mail


def _connected(address: AlertAddress) -> smtplib.SMTP:
    """A connection, encrypted where the server can."""
    # Without a name, smtplib asks the resolver for one, which can take long without a network.
    place = address.host, address.port, socket.gethostname()
    if address.tls:
        return smtplib.SMTP_SSL(*place, timeout=TIMEOUT_S, context=ssl.create_default_context())
    server = smtplib.SMTP(*place, timeout=TIMEOUT_S)
    try:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
            server.ehlo()
        elif address.user is not None and not is_loopback(address.host):
            raise DeliveryError(
                "the server offers no STARTTLS: the password is not sent; use smtps"
            )
    except BaseException:
        server.close()
        raise
    return server


def _silent() -> DeliveryError:
    return DeliveryError(f"no answer within {TIMEOUT_S:g} s")


def _text(code: int, answer: bytes | str) -> str:
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    return f"{code} {text}"
