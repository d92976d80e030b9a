"""The alerts process: a subscriber of the hub that judges rules and delivers alerts.

The main loop receives, judges and sends heartbeats. The store writes in a thread, and each address
has a thread that delivers to it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from typing import Any

import zmq

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.delivery_worker import DeliveryWorker
from speech_emotion.alerts.evaluation import Evaluation
from speech_emotion.alerts.outbox import GIVEN_UP, Delivery
from speech_emotion.alerts.requests import RequestSocket
from speech_emotion.alerts.store import Store
from speech_emotion.common.alert_address import AlertAddress, parse_address
from speech_emotion.common.client.results import NewerProtocolError, Results
from speech_emotion.common.errors import UserError
from speech_emotion.common.privacy.quiet_hours import find_zone, quiet_until
from speech_emotion.common.stage.draining import drain
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import AlertsJob
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire import control_messages, public
from speech_emotion.common.wire.sockets import connect

log = logging.getLogger("alerts")

POLL_S = 0.1
STOP_S = (1.5, 0.7)
"""Longest time at the end for the last deliveries, and twice for the file."""
SHOWN = 50
"""Deliveries of one answer."""


class Service:
    """Rules, store and workers.

    Args:
        job: the job of the stage.

    Raises:
        UserError: the outbox cannot be used.
    """

    def __init__(self, job: AlertsJob) -> None:
        self.fired = 0
        self._rules = {rule.name: rule for rule in job.rules}
        self._zone = find_zone(job.time_zone) if job.time_zone is not None else None
        self._addresses: dict[str, list[AlertAddress]] = {
            rule.name: [parse_address(text) for text in rule.to] for rule in job.rules
        }
        every = {one.key: one for group in self._addresses.values() for one in group}
        self._shown = {key: one.shown for key, one in every.items()}
        self._store = Store(job.file, self._deliver)
        self._workers = {
            key: DeliveryWorker(one, self._store.settle, job.give_up_s)
            for key, one in every.items()
        }
        self._evaluation = Evaluation(job.rules, self._store.loaded, self._zone)
        self._dropped = 0

    def start(self) -> None:
        """Start all threads, and deliver what an earlier process left."""
        left = self._store.waiting()
        known = [one for one in left if one.address in self._workers]
        for one in left:
            if one.address not in self._workers:
                self._dropped += 1
                reason = "its address is not configured any more"
                log.warning("alert %s dropped: %s", one.alert.rule, reason)
                self._settle_unknown(one, reason)
        if known:
            log.info("%d alerts of an earlier process are delivered now", len(known))
        self._store.start()
        for worker in self._workers.values():
            worker.start()
        self._deliver(known)

    def feed(self, message: public.Result | public.Utterance) -> None:
        """Judge a message; an alert that it raises is kept and delivered."""
        alerts = self._evaluation.feed(message, time.time())
        self.fired += len(alerts)
        deliveries = [
            Delivery(alert, address.key)
            for alert in alerts
            for address in self._addresses[alert.rule]
        ]
        changes = self._evaluation.take_changes()
        if changes or deliveries:
            self._store.put(changes, deliveries)

    def answer(self, request: control_messages.AskAlerts) -> control_messages.AlertsState:
        """The present state, after the test that the request asks for."""
        if request.test in self._rules:
            self._send_test(request.test)
        now = time.time()
        return control_messages.AlertsState(
            rules=[self._row(name, now) for name in self._rules],
            deliveries=[self._shown_delivery(one) for one in self._store.newest(SHOWN)],
        )

    def counters(self) -> Counter[str]:
        """Counters for `health`."""
        workers = self._workers.values()
        counters: Counter[str] = Counter()
        counters["alerts_fired"] = self.fired
        counters["alerts_suppressed"] = self._evaluation.suppressed
        counters["alerts_delivered"] = sum(worker.delivered for worker in workers)
        counters["alerts_failed"] = sum(worker.failed for worker in workers)
        counters["alerts_dropped"] = sum(worker.dropped for worker in workers) + self._dropped
        counters["alerts_unwritten"] = self._store.unwritten
        counters["alerts_lost"] = self._evaluation.lost
        return counters

    def age_s(self) -> float:
        """Time in seconds that the oldest alert has waited in this process."""
        return max((worker.age_s() for worker in self._workers.values()), default=0.0)

    def stop(self) -> None:
        """Deliver what can be delivered at once, and write the rest to the outbox."""
        deliver_s, write_s = STOP_S
        self._store.flush(write_s)  # the workers have everything then
        for worker in self._workers.values():
            worker.request_stop()
        deadline = time.monotonic() + deliver_s
        for worker in self._workers.values():
            worker.join(max(0.0, deadline - time.monotonic()))
        self._store.stop(write_s)
        if waiting := len(self._store.waiting()):
            log.warning("%d alerts wait in the outbox for the next start", waiting)

    def _deliver(self, deliveries: list[Delivery]) -> None:
        for one in deliveries:
            self._workers[one.address].add(one)

    def _settle_unknown(self, delivery: Delivery, reason: str) -> None:
        self._store.settle(
            Delivery(
                *(delivery.alert, delivery.address, GIVEN_UP, delivery.attempts),
                *(reason, time.time()),
            )
        )

    def _send_test(self, name: str) -> None:
        rule = self._rules[name]
        alert = Alert(
            id=secrets.token_hex(16),
            rule=name,
            stream=rule.stream or "every stream",
            label=rule.label,
            dimension=rule.dimension,
            value=rule.threshold,
            threshold=rule.threshold,
            time=time.time(),
            seconds=rule.length_s,
            run="",
            seq=0,
            bundle="",
            test=True,
        )
        self._store.put({}, [Delivery(alert, address.key) for address in self._addresses[name]])

    def _row(self, name: str, now: float) -> control_messages.AlertRow:
        rule, addresses = self._rules[name], self._addresses[name]
        fired = [
            state.fired
            for (rule_name, _), state in self._evaluation.states.items()
            if rule_name == name and state.fired is not None
        ]
        waiting = [one for one in self._store.waiting() if one.alert.rule == name]
        return control_messages.AlertRow(
            name=name,
            condition=rule.condition,
            to=[address.shown for address in addresses],
            waiting=len(waiting),
            fired=max(fired, default=None),
            quiet_until=quiet_until(rule.quiet_hours, now, self._zone),
        )

    def _shown_delivery(self, delivery: Delivery) -> control_messages.DeliveryRow:
        alert = delivery.alert
        return control_messages.DeliveryRow(
            id=alert.id,
            rule=alert.rule,
            to=self._shown.get(delivery.address, "an earlier address"),
            time=alert.time,
            text=alert.text,
            test=alert.test,
            state=delivery.state,
            attempts=delivery.attempts,
            failure=delivery.failure,
        )


def main(job: AlertsJob) -> int:
    """Judge and deliver until the process is stopped; returns the exit code.

    Raises:
        UserError: the outbox or an endpoint cannot be used.
    """
    stop = StopRequest()
    context: zmq.Context[Any] = zmq.Context()
    try:
        heartbeat = HeartbeatSender(job.stage, connect(context, job.hub, "hub"))
        service = Service(job)
        requests = RequestSocket(context, job.bind, service.answer)
        service.start()
        with Results(job.results) as results:
            heartbeat.state = "ready"
            heartbeat.beat(now=True)
            while not stop.requested:
                _receive(results, service, heartbeat, POLL_S)
                requests.turn()
                _report(heartbeat, service, results.malformed + requests.malformed)
                heartbeat.beat()
            drain(lambda: results.health, lambda s: _receive(results, service, heartbeat, s))
            service.stop()
            _report(heartbeat, service, results.malformed + requests.malformed)
            heartbeat.beat(now=True)
        requests.close()
    finally:
        context.destroy(linger=100)
    return 0


def _report(heartbeat: HeartbeatSender, service: Service, malformed: int) -> None:
    heartbeat.counters = service.counters()
    heartbeat.counters["alerts_malformed"] = malformed
    heartbeat.lag_ms = 1000.0 * service.age_s()


def _receive(
    results: Results, service: Service, heartbeat: HeartbeatSender, timeout: float
) -> bool:
    """Judge the next message; False where none came in time."""
    try:
        event = results.receive(timeout)
    except NewerProtocolError as error:
        raise UserError(str(error)) from None
    if event is None:
        return False
    # A replay was published while this process restarted; one that it knows changes nothing.
    if isinstance(event.message, public.Result | public.Utterance):
        service.feed(event.message)
        heartbeat.count += 1
    return True
