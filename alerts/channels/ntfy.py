"""A notification by ntfy, published as JSON: https://docs.ntfy.sh/publish/#publish-as-json"""

from __future__ import annotations

import json

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.channels.http_post import post
from speech_emotion.alerts.channels.webhook import authorization
from speech_emotion.common.alert_address import AlertAddress


def send(address: AlertAddress, alert: Alert) -> None:
    """Publish an alert.

    Its id is the `sequence_id`: a notification that arrives twice replaces itself on the phone
    (ntfy 2.16 and later; earlier ones ignore it).

    Raises:
        DeliveryError: it did not arrive.
    """
    message = {
        "topic": address.target,
        "title": alert.title,
        "message": alert.text,
        "tags": ["speech-emotion", alert.rule],
        "sequence_id": alert.id,
    }
    headers = {"Content-Type": "application/json", "Idempotency-Key": alert.id}
    body = json.dumps(message, ensure_ascii=False).encode()
    post(address, "/", body, {**headers, **authorization(address)})
