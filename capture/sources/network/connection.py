"""What a network source needs of a connection: one attempt to get sound, from its start to its end.

Each kind of network source is one class of connections. `NetworkSource` opens one after the other.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Protocol, runtime_checkable

from speech_emotion.capture.samples import Samples


class Retry(enum.Enum):
    """When to connect again after the end of a connection."""

    SOON = "soon"
    LATER = "later"
    """The server refused the credentials: some lock an account after a few attempts."""
    NEVER = "never"
    """A mistake in the configuration, which no attempt mends."""


@dataclasses.dataclass(frozen=True)
class End:
    """The end of a connection.

    Attributes:
        reason: its cause as a phrase, without credentials.
        retry: when to connect again.
    """

    reason: str
    retry: Retry = Retry.SOON


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Samples of one packet.

    Attributes:
        samples: (frames, channels).
        arrived: CLOCK_MONOTONIC, in seconds.
        index: the sender's time stamp of the first frame, in frames; None: it sends none.
    """

    samples: Samples
    arrived: float
    index: int | None


class Connection(Protocol):
    """One attempt to get sound. No method waits.

    Attributes:
        rate: sample rate in Hz; None until it is known. It is known before the first chunk.
        end: why it has ended; None while it lasts. Chunks that arrived before have been read.
        doing: what it waits for before the first chunk, as a phrase.
    """

    rate: int | None
    end: End | None
    doing: str

    def read(self, now: float, seconds: float) -> list[Chunk]:
        """The chunks that have arrived, about `seconds` of sound at most.

        Args:
            now: CLOCK_MONOTONIC.
        """
        ...

    def close(self) -> None:
        """End it; its process or socket is gone afterwards."""
        ...


@runtime_checkable
class StoredConnection(Connection, Protocol):
    """A connection to a server that keeps sound in segments: more arrives than is read."""

    @property
    def received(self) -> int:
        """Bytes of samples that have arrived, read or not."""
        ...
