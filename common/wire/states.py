"""States in `health` that need no attention, and outcomes of a swap."""

from __future__ import annotations

FINE_STAGES = ("ready", "done")
"""States of a stage (`StageHealth.state`)."""
FINE_STREAMS = ("live", "ended", "muted")
"""States of a stream's source (`StreamHealth.state`)."""
DONE, REFUSED, ROLLED_BACK, BUSY = OUTCOMES = ("done", "refused", "rolled back", "busy")
"""Outcomes of a swap (`Swapped.outcome`); after `busy` a later request can succeed."""
