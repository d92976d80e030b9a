"""The operations of the HTTP interface."""

from __future__ import annotations

from speech_emotion.dashboard import messages
from speech_emotion.dashboard.api.declared import (
    LONGEST,
    Operation,
    Parameter,
    one_of,
    parse_bool,
    parse_time,
    whole_number,
)
from speech_emotion.dashboard.history.rows import KEY_PATTERN, TABLES, Key
from speech_emotion.dashboard.review_messages import MOST

BASE = "/api/v1"
JSON = "application/json"
EVENTS = "text/event-stream"
WAV = "audio/wav"
PARQUET = "application/vnd.apache.parquet"
FORMATS = ("json", "csv", "parquet")
PAGE_ROWS = 500
MOST_ROWS = 5000
LISTED = 100
MOST_LISTED = 1000
SHARE_STEPS = (0, 900, 3600)

NO_HISTORY = "no history is written, or its file cannot be read"
NO_ALERTS = "the pipeline has no rules, or it has not started this server"
NO_REVIEW = "the review is off"
GONE = "the sound of the utterance is not there any more"
REVIEW_FILE = "the files of the review cannot be used now"
NO_SETTINGS = "the pipeline has not started this server, or its file has changed or is read-only"
REVIEW_BUSY = "the review is off, or an adaptation or rollback runs already"
BUSY = "too many clients; try again after `Retry-After` seconds"

TEXT = {"type": "string", "maxLength": LONGEST}
NUMBER = {"type": "integer", "minimum": 0, "maximum": MOST}
TIME = {"anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}]}


def _key(text: str) -> Key:
    try:
        return Key.parse(text)
    except ValueError:
        raise ValueError("must be the `next` of an earlier page") from None


STREAM = Parameter("stream", "name of a stream; absent: all streams", TEXT)
ONE_STREAM = Parameter("stream", "name of a stream", TEXT, required=True)
SPAN = (
    Parameter(
        "from",
        "unix time in seconds or RFC 3339 time; rows after it; absent: one hour before `to`",
        TIME,
        parse_time,
    ),
    Parameter("to", "the same; rows up to it; absent: now", TIME, parse_time),
)
EVENT_STREAM = (
    STREAM,
    Parameter(
        "after",
        "id of the last event that the client has; the header `Last-Event-ID` goes before it",
        TEXT,
    ),
    Parameter(
        "wait",
        "`false`: end the answer when all events that are there have been sent",
        {"type": "boolean", "default": True},
        parse_bool,
        True,
    ),
)


def _stream(path: str, summary: str, *events: str) -> Operation:
    return Operation(
        *("GET", path, "events", summary, EVENT_STREAM, {EVENTS: None}),
        events=(*events, "gap"),
        refusals={503: BUSY},
    )


OPERATIONS = (
    Operation(
        *("GET", "/service", "service", "What this server offers."),
        answers={JSON: messages.Service},
    ),
    Operation(
        *("GET", "/streams", "streams", "Each stream with its newest result."),
        answers={JSON: messages.Streams},
    ),
    Operation(
        *("GET", "/health", "health", "Health of the pipeline, and whether results arrive."),
        answers={JSON: messages.HealthReport},
    ),
    _stream("/results", "Results as they come.", "result"),
    _stream("/utterances", "Utterances when they end.", "utterance"),
    _stream(
        *("/events", "Everything that the page shows: the present, then what changes."),
        *("state", "result", "utterance", "info", "health", "status"),
    ),
    Operation(
        *("GET", "/recent", "recent", "The last five minutes of a stream; needs no history."),
        (ONE_STREAM,),
        {JSON: messages.Recent},
    ),
    Operation(
        *("GET", "/history", "history", "Rows of the history between two times, oldest first."),
        (
            *SPAN,
            STREAM,
            Parameter(
                "table",
                "what to read",
                {"type": "string", "enum": [*TABLES], "default": TABLES[0]},
                one_of(*TABLES),
                TABLES[0],
            ),
            Parameter(
                "format",
                "`json` gives pages, `csv` and `parquet` everything",
                {"type": "string", "enum": [*FORMATS], "default": FORMATS[0]},
                one_of(*FORMATS),
                FORMATS[0],
            ),
            Parameter(
                "limit",
                "rows of a page of JSON",
                {"type": "integer", "minimum": 1, "maximum": MOST_ROWS, "default": PAGE_ROWS},
                whole_number(1, MOST_ROWS),
                PAGE_ROWS,
            ),
            Parameter(
                "after",
                "`next` of the page before: the rows after it; in each format",
                {"type": "string", "pattern": KEY_PATTERN, "maxLength": LONGEST},
                _key,
            ),
        ),
        {JSON: messages.HistoryPage, "text/csv": None, PARQUET: None},
        refusals={404: NO_HISTORY, 501: "Parquet needs the extra `archive`", 503: BUSY},
    ),
    Operation(
        *("GET", "/summary", "summary", "A time span of the history, made shorter for a chart."),
        (ONE_STREAM, *SPAN),
        {JSON: messages.Summary},
        refusals={404: NO_HISTORY},
    ),
    Operation(
        *("GET", "/shares", "shares", "How much speech, and with which labels, over long times."),
        (
            *SPAN,
            STREAM,
            Parameter(
                "step",
                "length of a step in seconds; 0: one row of a stream, for the whole time",
                {"type": "integer", "enum": [*SHARE_STEPS], "default": 3600},
                lambda text: int(one_of(*map(str, SHARE_STEPS))(text)),
                3600,
            ),
        ),
        {JSON: messages.Shares},
        refusals={404: NO_HISTORY},
    ),
    Operation(
        *("GET", "/utterance-list", "utterance_list", "Utterances of the history, newest first."),
        (
            *SPAN,
            STREAM,
            Parameter("label", "label of the utterances; absent: each", TEXT),
            Parameter(
                "limit",
                "utterances of an answer",
                {"type": "integer", "minimum": 1, "maximum": MOST_LISTED, "default": LISTED},
                whole_number(1, MOST_LISTED),
                LISTED,
            ),
            Parameter(
                "before",
                "`next` of the answer before: older utterances",
                {"type": "string", "pattern": KEY_PATTERN, "maxLength": LONGEST},
                _key,
            ),
        ),
        {JSON: messages.UtteranceList},
        refusals={404: NO_HISTORY},
    ),
    Operation(
        *("GET", "/model-card", "model_card", "The model card of a bundle."),
        (Parameter("bundle", "id of the bundle, as in `bundle` of a result", TEXT, required=True),),
        {"text/html": None},
        refusals={404: "this machine has no model card of this bundle"},
    ),
    Operation(
        *("POST", "/mute", "mute", "Mute or unmute by hand."),
        answers={JSON: messages.MuteAnswer},
        body=messages.MuteRequest,
        refusals={409: "this server cannot mute: the pipeline has not started it"},
    ),
    Operation(
        *("GET", "/alerts", "alerts", "The rules of alerts, and what was sent; no secrets."),
        answers={JSON: messages.AlertsState},
        refusals={409: NO_ALERTS},
    ),
    Operation(
        *("POST", "/alerts/test", "alerts_test", "Send a test of a rule to its addresses."),
        answers={JSON: messages.AlertsState},
        body=messages.AlertTest,
        refusals={404: "there is no such rule", 409: NO_ALERTS},
    ),
    Operation(
        *("GET", "/review", "review", "Utterances to judge, labels, and the last adaptation."),
        answers={JSON: messages.Review},
        refusals={503: REVIEW_FILE},
    ),
    Operation(
        *("GET", "/review/sound", "review_sound", "The sound of a kept utterance."),
        (Parameter("id", "`id` of the utterance", NUMBER, whole_number(0, MOST), required=True),),
        {WAV: None},
        refusals={404: GONE, 409: NO_REVIEW, 503: REVIEW_FILE},
    ),
    Operation(
        *("POST", "/review/keep", "review_keep", "Keep the sound of an utterance."),
        answers={JSON: messages.Done},
        body=messages.KeepRequest,
        refusals={404: GONE, 409: f"{NO_REVIEW}, or it is muted", 503: REVIEW_FILE},
    ),
    Operation(
        *("POST", "/review/label", "review_label", "Write its label, and delete its sound."),
        answers={JSON: messages.Done},
        body=messages.LabelRequest,
        refusals={404: GONE, 409: NO_REVIEW, 503: REVIEW_FILE},
    ),
    Operation(
        *("POST", "/review/adapt", "review_adapt", "Adapt the bundle to the labels, if better."),
        answers={JSON: messages.Done},
        refusals={409: REVIEW_BUSY},
    ),
    Operation(
        *("POST", "/review/rollback", "review_rollback", "Undo the newest adaptation."),
        answers={JSON: messages.Done},
        refusals={409: REVIEW_BUSY},
    ),
    Operation(
        *("GET", "/settings", "settings", "The settings that can be changed; no secrets."),
        answers={JSON: messages.Settings},
        refusals={409: NO_SETTINGS},
    ),
    Operation(
        *("POST", "/settings/check", "settings_check", "Check changed settings; write nothing."),
        answers={JSON: messages.SettingsAnswer},
        body=messages.SettingsChange,
        refusals={409: NO_SETTINGS},
    ),
    Operation(
        *("POST", "/settings", "settings_change", "Write settings to the configuration file."),
        answers={JSON: messages.SettingsAnswer},
        body=messages.SettingsChange,
        refusals={409: NO_SETTINGS},
    ),
    Operation(
        *("POST", "/settings/undo", "settings_undo", "Undo the newest change of settings."),
        answers={JSON: messages.SettingsAnswer},
        body=messages.SettingsUndo,
        refusals={409: NO_SETTINGS},
    ),
    Operation(
        *("GET", "/openapi.json", "openapi", "This interface as an OpenAPI document."),
        answers={JSON: None},
    ),
)
