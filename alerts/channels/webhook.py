"""A webhook: the alert as JSON in a POST request, its id in `Idempotency-Key`."""

from __future__ import annotations

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.channels.http_post import basic, post
from speech_emotion.common.alert_address import AlertAddress


def send(address: AlertAddress, alert: Alert) -> None:
    """POST an alert; with credentials as HTTP Basic, or as Bearer token where there is no user.

    Raises:
        DeliveryError: it did not arrive.
    """
    headers = {"Content-Type": "application/json; charset=utf-8", "Idempotency-Key": alert.id}
    post(address, address.target, alert.to_json().encode(), {**headers, **authorization(address)})


def authorization(address: AlertAddress) -> dict[str, str]:
    """The header with the credentials of an address; none where it has none."""
    if address.password is None:
        return {}
    if not address.user:
        return {"Authorization": f"Bearer {address.password}"}
    return {"Authorization": basic(address.user, address.password)}
