"""What `health` says of streams and stages, and as metrics."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from speech_emotion.common.errors import UserError
from speech_emotion.common.hub.health import stream_health
from speech_emotion.common.source_state import SourceState
from speech_emotion.common.wire import internal, public
from speech_emotion.supervision.metrics.server import MetricsServer


def stage(state: str, reason: str | None = None, restarts: int = 0) -> public.StageHealth:
    return public.StageHealth("capture", 7, state, restarts, 0.1, 50.0, None, 2, 12.5, 40.0, reason)


def source(state: SourceState, reason: str | None = None) -> internal.SourceStatus:
    return internal.SourceStatus(
        "main", state.value, reason, 4.0, "usb", 16000, -30.0, 0.25, 1, 320
    )


@pytest.mark.parametrize(
    "state", [SourceState.LIVE, SourceState.SILENT_INPUT, SourceState.STUCK, SourceState.LOST]
)
def test_a_capture_that_runs_is_believed(state: SourceState) -> None:
    row = stream_health("main", "r", source(state, "why"), stage("ready"))
    assert (row.state, row.reason, row.state_s, row.device) == (state.value, "why", 4.0, "usb")
    assert (row.level_db, row.clipped, row.position) == (-30.0, 0.25, 16000)


@pytest.mark.parametrize("now", ["restarting", "starting"])
@pytest.mark.parametrize("state", [SourceState.LIVE, SourceState.LOST])
def test_a_source_whose_capture_is_gone_is_recovering(now: str, state: SourceState) -> None:
    # No process measures the level now, so an old one must not be shown.
    row = stream_health("main", "r", source(state), stage(now, "no heartbeat for 2.6 s", 1))
    assert (row.state, row.reason) == ("recovering", "no heartbeat for 2.6 s")
    assert row.level_db is None
    assert row.position == 16000


def test_a_source_that_was_given_up_has_failed() -> None:
    row = stream_health("main", "r", source(SourceState.LIVE), stage("failed", "no such file"))
    assert (row.state, row.reason) == ("failed", "no such file")


def test_a_source_that_never_came_is_starting_and_says_why() -> None:
    waits = stage("restarting", "capture: waiting: there is no input device 'usb'")
    row = stream_health("main", "r", None, waits)
    assert row.state == "starting"
    assert "waiting" in (row.reason or "")
    assert row.device is None


def test_a_source_that_has_ended_stays_so() -> None:
    row = stream_health("main", "r", source(SourceState.ENDED), stage("stopping"))
    assert row.state == "ended"


@pytest.fixture
def scraped() -> dict[str, float]:
    rows = [stream_health("main", "r", source(SourceState.STUCK), stage("ready"))]
    health = public.Health(
        1.0, "degraded", [stage("ready", restarts=3)], rows, {"hub_malformed": 9}
    )
    server = MetricsServer("127.0.0.1", 0, lambda: health)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        server.close()
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_health_says(scraped: dict[str, float]) -> None:
    of_stage, of_stream = "[('stage', 'capture')]", "[('stream', 'main')]"
    assert scraped["sep_state[('sep_state', 'degraded')]"] == 1.0
    assert scraped["sep_state[('sep_state', 'ok')]"] == 0.0
    stuck = "[('sep_stream_state', 'stuck'), ('stream', 'main')]"
    assert scraped[f"sep_stream_state{stuck}"] == 1.0
    assert scraped[f"sep_stage_restarts_total{of_stage}"] == 3.0
    assert scraped[f"sep_stage_cpu_ratio{of_stage}"] == 0.125
    assert scraped[f"sep_stage_windows_dropped_total{of_stage}"] == 2.0
    assert scraped[f"sep_stream_samples_lost_total{of_stream}"] == 320.0
    assert scraped[f"sep_stream_level_dbfs{of_stream}"] == -30.0
    assert scraped["sep_events_total[('event', 'hub_malformed')]"] == 9.0


def test_a_taken_port_is_one_line() -> None:
    health = public.Health(1.0, "ok", [], [], {})
    server = MetricsServer("127.0.0.1", 0, lambda: health)
    try:
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{server.port}.*metrics\.port"):
            MetricsServer("127.0.0.1", server.port, lambda: health)
    finally:
        server.close()
