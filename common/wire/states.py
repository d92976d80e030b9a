"""States in `health` that need no attention."""

from __future__ import annotations

FINE_STAGES = ("ready", "done")
"""States of a stage (`StageHealth.state`)."""
FINE_STREAMS = ("live", "ended", "muted")
"""States of a stream's source (`StreamHealth.state`)."""
