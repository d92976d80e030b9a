"""Every transition of a stage's state machine."""

from __future__ import annotations

import pytest

from speech_emotion.common.errors import EXIT_DEVICE
from speech_emotion.supervision.restart_policy import (
    Action,
    Backoff,
    ProcessLifecycle,
    ProcessState,
    RestartPolicy,
)

POLICY = RestartPolicy(quick_limit=10)


def waiting(policy: RestartPolicy = POLICY) -> ProcessLifecycle:
    return ProcessLifecycle(policy, 0.0, random_factor=lambda: 1.0)


def ready(policy: RestartPolicy = POLICY, at: float = 1.0) -> ProcessLifecycle:
    stage = waiting(policy)
    assert stage.act(0.0) is Action.START
    stage.started(0.0)
    stage.beat(at, ready=True)
    return stage


def state_of(stage: ProcessLifecycle) -> ProcessState:
    return stage.state


def died(stage: ProcessLifecycle, now: float, code: int = -9) -> None:
    stage.exited(now, code, "last words")


def test_it_starts_at_once() -> None:
    stage = waiting()
    assert state_of(stage) is ProcessState.WAITING
    assert stage.act(0.0) is Action.START
    stage.started(0.0)
    assert state_of(stage) is ProcessState.STARTING
    assert stage.act(0.1) is None
    assert stage.restarts == 0


def test_a_beat_alone_is_not_ready() -> None:
    stage = waiting()
    stage.started(0.0)
    stage.beat(1.0, ready=False)
    assert state_of(stage) is ProcessState.STARTING
    stage.beat(1.5, ready=True)
    assert state_of(stage) is ProcessState.READY


def test_the_first_restart_is_immediate() -> None:
    stage = ready()
    died(stage, 2.0)
    assert state_of(stage) is ProcessState.WAITING
    assert stage.reason == "killed by signal 9: last words"
    assert stage.act(2.0) is Action.START
    stage.started(2.0)
    assert stage.restarts == 1


def test_the_delay_grows_only_while_it_dies_quickly() -> None:
    stage, now, delays = ready(RestartPolicy(backoff=Backoff(limit_s=4.0))), 2.0, []
    for _ in range(8):
        died(stage, now)
        waited = next(d / 2 for d in range(100) if stage.act(now + d / 2) is Action.START)
        delays.append(waited)
        now += waited
        stage.started(now)
        stage.beat(now, ready=True)
        now += 1.0
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    stage.beat(now + 10.0, ready=True)
    died(stage, now + 10.0)
    assert stage.act(now + 10.0) is Action.START


def test_delays_are_jittered() -> None:
    stage = ProcessLifecycle(POLICY, 0.0, random_factor=lambda: 1.2)
    for now in (0.0, 1.0):
        stage.started(now)
        stage.beat(now, ready=True)
        died(stage, now)
    assert stage.act(1.0 + 0.59) is None
    assert stage.act(1.0 + 0.6) is Action.START


def test_months_of_quick_deaths_do_no_harm() -> None:
    stage, now = ready(RestartPolicy(quick_limit=None)), 1.0
    for _ in range(5000):
        died(stage, now)
        now += 31.0
        assert stage.act(now) is Action.START
        stage.started(now)
        stage.beat(now, ready=True)
    assert state_of(stage) is ProcessState.READY


def test_a_start_that_never_becomes_ready_is_killed() -> None:
    stage = waiting()
    stage.started(0.0)
    assert stage.act(30.0) is None
    assert stage.act(30.1) is Action.KILL
    assert stage.act(30.2) is None  # once is enough
    died(stage, 30.3)
    assert state_of(stage) is ProcessState.WAITING
    assert stage.reason == "not ready within 30 s"


def test_a_stage_without_a_heartbeat_is_killed_and_started_again() -> None:
    stage = ready(at=1.0)
    assert stage.act(3.5) is None
    assert stage.act(3.6) is Action.KILL
    died(stage, 3.7)
    assert stage.reason == "no heartbeat for 2.6 s"
    assert stage.act(3.7) is Action.START


def test_never_ready_three_times_is_given_up() -> None:
    stage, now = waiting(), 0.0
    for _ in range(POLICY.never_ready_limit):
        while stage.act(now) is not Action.START:
            now += 0.5
        stage.started(now)
        died(stage, now, code=1)
    assert state_of(stage) is ProcessState.FAILED
    assert stage.over
    assert stage.reason == "exit code 1: last words"


def test_ten_quick_deaths_are_given_up_where_the_policy_says_so() -> None:
    stage, now = ready(), 1.0
    for _ in range(10):
        assert stage.state in (ProcessState.READY, ProcessState.WAITING)
        stage.started(now)
        stage.beat(now, ready=True)
        died(stage, now)
    assert state_of(stage) is ProcessState.FAILED


@pytest.mark.parametrize("was_ready", [True, False])
def test_the_users_mistake_is_not_repeated(was_ready: bool) -> None:
    stage = ready() if was_ready else waiting()
    died(stage, 2.0, code=2)
    assert state_of(stage) is ProcessState.FAILED
    assert stage.exit_code == 2
    assert stage.reason == "last words"


def test_work_that_is_over_is_done() -> None:
    stage = ready()
    died(stage, 9.0, code=0)
    assert state_of(stage) is ProcessState.DONE
    assert stage.over
    assert stage.act(10.0) is None


def test_a_stage_without_an_end_of_its_own_is_started_again() -> None:
    stage = ready(RestartPolicy(ends=False))
    died(stage, 9.0, code=0)
    assert state_of(stage) is ProcessState.WAITING
    assert stage.reason == "exit code 0: last words"
    assert stage.act(9.0) is Action.START
    stage.started(9.0)
    stage.stop()
    died(stage, 10.0, code=0)
    assert state_of(stage) is ProcessState.DONE


def test_a_restarted_stage_that_hangs_again_is_killed_again() -> None:
    stage, now = ready(), 1.0
    for _ in range(3):
        now += POLICY.beat_within + 0.1
        assert stage.act(now) is Action.KILL
        died(stage, now)
        now += 100.0
        assert stage.act(now) is Action.START
        stage.started(now)
        stage.beat(now, ready=True)
    assert stage.restarts == 3


def test_the_reason_of_a_hang_outlives_the_kill() -> None:
    stage = ready(at=1.0)
    stage.act(9.0)
    died(stage, 9.1, code=-9)
    assert stage.reason == "no heartbeat for 8.0 s"
    stage.started(9.2)
    died(stage, 9.3, code=1)
    assert stage.reason == "exit code 1: last words"


def test_a_death_without_words_says_how_it_died() -> None:
    stage = ready()
    stage.exited(2.0, 1, None)
    assert stage.reason == "exit code 1"


def test_a_slow_start_that_fails_is_a_quick_death_too() -> None:
    stage, now = ready(), 1.0
    delays = []
    for _ in range(4):
        died(stage, now)
        delays.append(next(s / 2 for s in range(100) if stage.act(now + s / 2) is Action.START))
        now += delays[-1]
        stage.started(now)
        now += POLICY.ready_within  # longer than `quick`, but never ready
    assert delays == [0.0, 0.5, 1.0, 2.0]


def test_one_good_run_forgives_the_quick_deaths_before_it() -> None:
    stage, now = ready(), 1.0
    for death in range(50):
        now += POLICY.quick if death % POLICY.quick_limit == 0 else 0.1  # type: ignore[operator]
        died(stage, now)
        assert state_of(stage) is ProcessState.WAITING
        stage.started(now)
        stage.beat(now, ready=True)


@pytest.mark.parametrize("was_ready", [True, False])
def test_a_device_that_is_away_is_waited_for_without_end(was_ready: bool) -> None:
    policy = RestartPolicy(backoff=Backoff(limit_s=2.0), quick_limit=10)
    stage, now = (ready(policy) if was_ready else waiting(policy)), 1.0
    for _ in range(1000):
        died(stage, now, code=EXIT_DEVICE)
        assert state_of(stage) is ProcessState.WAITING
        now += policy.backoff.limit_s
        assert stage.act(now) is Action.START
        stage.started(now)
    stage.beat(now, ready=True)
    assert state_of(stage) is ProcessState.READY


def test_a_device_that_is_away_counts_for_no_failed_start() -> None:
    stage = waiting()
    codes = [EXIT_DEVICE, 1, EXIT_DEVICE, 1, EXIT_DEVICE, 1]
    for code in codes:
        assert state_of(stage) is ProcessState.WAITING
        stage.started(0.0)
        died(stage, 0.0, code=code)
    assert state_of(stage) is ProcessState.FAILED


def test_jitter_stays_around_the_delay() -> None:
    dues = set()
    for _ in range(50):
        stage = ProcessLifecycle(POLICY, 0.0)
        for _ in range(2):
            stage.started(0.0)
            stage.beat(0.0, ready=True)
            died(stage, 0.0)
        dues.add(next(ms for ms in range(1000) if stage.act(ms / 1000) is Action.START))
    assert len(dues) > 10
    assert min(dues) >= 0.75 * 500
    assert max(dues) <= 1.25 * 500 + 1


def test_a_stop_makes_every_death_the_wanted_one() -> None:
    stage = ready()
    stage.stop()
    assert state_of(stage) is ProcessState.STOPPING
    assert stage.act(100.0) is None
    died(stage, 100.0)
    assert state_of(stage) is ProcessState.DONE


def test_a_stop_while_waiting_is_the_end() -> None:
    stage = ready()
    died(stage, 2.0)
    stage.stop()
    assert state_of(stage) is ProcessState.DONE
    assert stage.act(3.0) is None


def test_a_stop_does_not_undo_a_failure() -> None:
    stage = ready()
    died(stage, 2.0, code=2)
    stage.stop()
    assert state_of(stage) is ProcessState.FAILED


def test_a_mistake_of_the_user_at_the_first_start_is_final_for_every_process() -> None:
    stage = waiting(RestartPolicy(vital=False))
    assert stage.act(0.0) is Action.START
    stage.started(0.0)
    died(stage, 0.1, 2)
    assert state_of(stage) is ProcessState.FAILED


@pytest.mark.parametrize("code", [-9, 1, 2])
def test_a_stage_that_is_not_vital_is_never_given_up(code: int) -> None:
    policy = RestartPolicy(quick_limit=2, vital=False, backoff=Backoff(limit_s=4.0))
    stage, now = waiting(policy), 0.0
    for start in range(30):
        while stage.act(now) is not Action.START:
            now += 0.5
        stage.started(now)
        if start == 0:
            stage.beat(now, ready=True)
        died(stage, now + 0.1, code)
        assert state_of(stage) is ProcessState.WAITING
    assert stage.reason is not None
    assert "last words" in stage.reason
    assert stage.act(now + 3.9) is None  # and it costs little
    while stage.act(now) is not Action.START:
        now += 0.5
    stage.started(now)
    stage.beat(now, ready=True)
    assert state_of(stage) is ProcessState.READY


def test_a_renewed_process_starts_again_at_once_and_counts_as_no_failure() -> None:
    stage = ready()
    for turn in range(12):  # more than `quick_limit`
        stage.renew()
        died(stage, 1.1 + turn, code=0)
        assert state_of(stage) is ProcessState.WAITING
        assert stage.reason == "its settings have changed"
        assert stage.act(1.1 + turn) is Action.START
        stage.started(1.1 + turn)
        stage.beat(1.2 + turn, ready=True)
    stage.renew()
    stage.stop()
    died(stage, 20.0, code=0)
    assert state_of(stage) is ProcessState.DONE
