"""The tables of the history file: results, utterances and health in SQLite, never sound.

One writer and any number of readers use the file at once: it is in WAL mode.
"""

from __future__ import annotations

SCHEMA_VERSION = 1
APPLICATION = 0x53455031
"""SQLite's `application_id`: "SEP1"."""
DIGITS = 4
"""Decimal places of a stored probability."""

TABLES = """
CREATE TABLE source (
    id INTEGER PRIMARY KEY, stream TEXT NOT NULL, run TEXT NOT NULL, bundle TEXT NOT NULL,
    rate INTEGER NOT NULL, labels TEXT, UNIQUE (stream, run, bundle)
);
CREATE TABLE result (
    source INTEGER NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, state TEXT NOT NULL,
    emotion TEXT, confidence REAL, reason TEXT, rms_db REAL NOT NULL,
    lost INTEGER NOT NULL, skipped INTEGER NOT NULL, smoothed TEXT, total_ms REAL, dimensions TEXT,
    PRIMARY KEY (source, seq)
) WITHOUT ROWID;
CREATE INDEX result_at ON result (source, at);
CREATE TABLE utterance (
    source INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, at REAL NOT NULL,
    seq INTEGER NOT NULL, emotion TEXT NOT NULL, confidence REAL NOT NULL, reason TEXT,
    probabilities TEXT NOT NULL, windows INTEGER NOT NULL, prosody TEXT,
    dimensions TEXT,
    PRIMARY KEY (source, first)
) WITHOUT ROWID;
CREATE INDEX utterance_at ON utterance (source, at);
CREATE TABLE health (at REAL PRIMARY KEY, state TEXT NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
"""
LATER_COLUMNS = (("utterance", "prosody"), ("utterance", "dimensions"), ("result", "dimensions"))
"""Columns that files of earlier versions lack, in this order: a key of the message as JSON, or
null."""
CLOCK_TABLE = """
CREATE TABLE IF NOT EXISTS purge_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1), trusted REAL NOT NULL, hold_s REAL NOT NULL
)
"""
"""State of `PurgeClock`: files of earlier versions do not have this table, readers ignore it."""
PROGRESS_TABLE = """
CREATE TABLE IF NOT EXISTS progress (
    stream TEXT NOT NULL, run TEXT NOT NULL, next INTEGER NOT NULL, lost INTEGER NOT NULL,
    UNIQUE (stream, run)
)
"""
"""Per run, the window after the newest result, and the windows before it that never arrived.
Files of earlier versions do not have this table, readers ignore it."""
PROGRESS_ROWS = 1000
"""Runs that the table keeps."""
