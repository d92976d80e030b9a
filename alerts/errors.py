"""Why an alert did not arrive."""

from __future__ import annotations


class DeliveryError(Exception):
    """One attempt failed; the text is the cause in a few words. A later attempt may succeed."""
