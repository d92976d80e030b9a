"""Workers of a batch as actors of a Ray cluster: one per processor of all its machines.

An actor keeps its interpreter, its model and its buffers for the whole run. The machines see the
inputs, the bundle and the output under the same paths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import speech_emotion
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import restrict_file_access
from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD
from speech_emotion.common.paths import IMPORT_ROOT
from speech_emotion.infer.batch.analysis import PartWriter
from speech_emotion.infer.batch.parts import Draft, OutputError, remove_unfinished
from speech_emotion.infer.batch.pool import Job, Worker
from speech_emotion.infer.batch.setting import Setting

LOCAL, AUTO = "local", "auto"
ADDRESS = re.compile(r"(ray://)?(?P<host>[^:/]+|\[[0-9a-fA-F:]+\]):(?P<port>\d+)")
CONNECT_S = 10.0
"""Seconds in which a cluster must answer."""
PROGRESS_S = 0.5
"""Seconds between two questions for the progress of a worker."""
STORE_BYTES = 80_000_000
"""Shared memory of a cluster of this machine alone; answers are small."""
ENVIRONMENT = {
    "RAY_gcs_server_request_timeout_seconds": f"{2 * CONNECT_S:.0f}",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Of the program and of a cluster that it starts: Ray waits for less than a minute, gives its
workers the usual priority, reports nothing to its makers, and prints less."""
NODE_DIED = "node has died"
"""What Ray says of an actor whose machine is gone."""


def check_address(address: str) -> None:
    """Refuse an address that cannot be one, or where no Ray answers.

    Ray itself would try for minutes.

    Raises:
        UserError: it is such an address, or Ray is not installed.
    """
    known = address in (LOCAL, AUTO, f"ray://{AUTO}")
    found = ADDRESS.fullmatch(address)
    if not known and (found is None or int(found["port"]) > 65535):
        raise UserError(
            f"--cluster {address}: no address; allowed: local, auto, HOST:6379, ray://HOST:10001"
        )
    os.environ.update({**ENVIRONMENT, **os.environ})
    try:
        import grpc
        import ray  # noqa: F401
    except ImportError:
        raise UserError(
            "--cluster needs Ray: pip install 'speech-emotion-pipeline[archive,cluster]'"
        ) from None
    if found is None:
        return
    host, port = found["host"], found["port"]
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise _no_answer(address, error.strerror or str(error)) from None
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_S)
        except grpc.FutureTimeoutError:
            raise _no_answer(address, f"no answer of Ray within {CONNECT_S:g} s") from None


def _no_answer(address: str, reason: str) -> UserError:
    return UserError(
        f"--cluster {address}: no cluster answers ({reason}); "
        "`ray start` on its machines, or `--cluster local`"
    )


class Cluster:
    """A crew of actors. Connects at once.

    Args:
        address: of a cluster, see `check_address`; `local`: a new one of this machine alone.

    Raises:
        UserError: the cluster cannot be used.
        OutputError: the output cannot be written.
    """

    def __init__(self, address: str, setting: Setting) -> None:
        import ray

        self._ray: Any = ray
        self._workers: list[_Actor] = []
        self._look_at = 0.0
        with contextlib.ExitStack() as stack:
            # A thread of Ray prints there what becomes of workers.
            silence = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silence))
            self._connect(address, stack)
            mark = stack.enter_context(Draft(Path(setting.folder), "cluster"))
            self._arguments: dict[str, Any] = {
                "setting": dataclasses.asdict(setting),
                "folder": os.getcwd(),
                "mark": mark.path.name,
                "version": speech_emotion.__version__,
            }
            self._open = stack.pop_all()

    def _connect(self, address: str, stack: contextlib.ExitStack) -> None:
        path = os.pathsep.join(filter(None, [str(IMPORT_ROOT), os.environ.get("PYTHONPATH")]))
        # Of all processes of this run on all machines.
        environment = {**ONE_BLAS_THREAD, "PYTHONPATH": path}
        options: dict[str, Any] = {"runtime_env": {"env_vars": environment}}
        if address == LOCAL:
            # Its sockets are in this folder: their paths must be short.
            folder = tempfile.mkdtemp(prefix="sep-ray-", dir="/tmp")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            # Without a token Ray would save one in the home folder.
            token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            os.environ.update({**token, **os.environ})
            options |= {
                "num_cpus": len(os.sched_getaffinity(0)),
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
                "_temp_dir": folder,
            }
        try:
            stack.callback(self._ray.shutdown)
            with _without_stderr():
                self._ray.init(
                    AUTO if address == f"ray://{AUTO}" else address,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    **options,
                )
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise UserError(f"--cluster {address}: {_reason(error)}") from None

    @property
    def size(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    @property
    def description(self) -> str:
        """How large it is, in words."""
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        text = f"a cluster of {nodes} machine{'s' * (nodes != 1)}, {self.size} processors"
        free = int(self._ray.available_resources().get("CPU", 0))
        return text if free else f"{text}; none is free, waiting for one"

    def start(self) -> Worker:
        # It answers for its progress while it works.
        analyst = self._ray.remote(Analyst).options(max_concurrency=2, num_cpus=1)
        self._workers.append(_Actor(self._ray, analyst.remote(**self._arguments)))
        return self._workers[-1]

    def news(self) -> list[Worker]:
        try:
            return self._news()
        except (OSError, self._ray.exceptions.RayError) as error:
            raise RuntimeError(f"the cluster is lost ({_last_line(error)})") from None

    def _news(self) -> list[Worker]:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + PROGRESS_S
            self._check_machines()
            for worker in self._workers:
                worker.look()
        waited = {ref: worker for worker in self._workers for ref in worker.waited}
        self._ray.wait(list(waited), timeout=PROGRESS_S)
        ready, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        return list({id(waited[ref]): waited[ref] for ref in ready}.values())

    def _check_machines(self) -> None:
        if not any(node["Alive"] and "CPU" in node["Resources"] for node in self._ray.nodes()):
            raise RuntimeError("the cluster has no machine left that computes")

    def remove(self, worker: Worker) -> None:
        self._workers = [one for one in self._workers if one is not worker]

    def close(self) -> None:
        self._open.close()
        # Of actors that died on this machine; other machines remove theirs at their next run.
        remove_unfinished(Path(self._arguments["setting"]["folder"]))


class Analyst:
    """What runs on a machine of the cluster. Its methods return answers as `worker.py` does.

    Args:
        setting: fields of a `Setting`.
        folder: where relative paths begin.
        mark: name of a file in the folder of the parts.
        version: of this package, on the machine of the program.
    """

    def __init__(self, setting: dict[str, Any], folder: str, mark: str, version: str) -> None:
        self._setting = Setting(**setting)
        self._cwd = folder
        self._mark = mark
        self._version = version
        self._progress = 0.0, 0.0
        self._writer: PartWriter | None = None

    def begin(self) -> dict[str, Any]:
        """Load the bundle, and check that this machine sees what the others see."""
        restrict_file_access()
        try:
            if speech_emotion.__version__ != self._version:
                raise UserError(
                    f"has version {speech_emotion.__version__} of this package, "
                    f"not {self._version}; install the same one on all machines"
                )
            try:
                os.chdir(self._cwd)
            except OSError:
                raise _unseen(self._cwd) from None
            output = Path(self._setting.folder)
            if not (output / self._mark).exists():
                raise _unseen(output.absolute())
            remove_unfinished(output)
            self._writer = PartWriter(self._setting)
        except (UserError, OutputError) as error:
            return _fatal(error)
        return {"ready": True}

    def process(self, name: str, known: list[str]) -> dict[str, Any]:
        """Write the part of an input. `unseen` says that this machine has no such file."""
        assert self._writer is not None
        self._progress = 0.0, 0.0
        unseen = None if os.path.lexists(name) else _at_machine(_unseen(name))
        try:
            outcome = self._writer.process(name, known, self._report)
        except OutputError as error:
            return _fatal(error)
        return {"outcome": dataclasses.asdict(outcome), "unseen": unseen}

    def progress(self) -> dict[str, Any]:
        """Seconds and share of the input that it has."""
        seconds, share = self._progress
        return {"seconds": seconds, "share": share}

    def _report(self, seconds: float, share: float) -> None:
        self._progress = seconds, share


def _unseen(path: object) -> UserError:
    return UserError(
        f"{path}: is not there; all machines need inputs, bundle and --out under the same paths"
    )


def _at_machine(error: Exception) -> str:
    return f"machine {socket.gethostname()}: {error}"


def _fatal(error: Exception) -> dict[str, Any]:
    return {"fatal": _at_machine(error), "user": isinstance(error, UserError)}


class _Actor:
    """One actor, seen from the program, and the input that it has."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray = ray
        self._handle = handle
        self.job: Job | None = None
        self.ready = self.ended = self.lost = False
        self.death = ""
        self._work = handle.begin.remote()
        self._look: Any = None

    @property
    def waited(self) -> list[Any]:
        """What Ray is to wait for."""
        return [ref for ref in (self._look, self._work) if ref is not None]

    def look(self) -> None:
        """Ask for its progress."""
        if self.job is not None and self._look is None:
            self._look = self._handle.progress.remote()

    def give(self, job: Job | None) -> None:
        self.job, self._look = job, None
        self._work = job and self._handle.process.remote(job.name, job.known)

    def answers(self) -> list[dict[str, Any]]:
        found = []
        ready, _ = self._ray.wait(self.waited, num_returns=len(self.waited), timeout=0)
        for ref in ready:
            if ref == self._look:
                self._look = None
            else:
                self._work = None
            try:
                found.append(self._seen(self._ray.get(ref)))
            except self._ray.exceptions.RayError as error:
                self._died(error)
                break
        self.ready = self.ready or bool(found)
        return found

    def _seen(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An input that only this machine does not see is no row but a fault of the cluster."""
        unseen = answer.pop("unseen", None)
        if unseen is not None and self.job is not None and os.path.lexists(self.job.name):
            return {"fatal": unseen, "user": True}
        return answer

    def _died(self, error: Exception) -> None:
        self.ended = True
        unavailable = isinstance(error, self._ray.exceptions.ActorUnavailableError)
        self.lost = unavailable or NODE_DIED in str(error)
        if self.lost:
            self.death = "was lost with its machine"
        else:
            self.death = f"died ({_last_line(error)})"

    def close(self) -> None:
        with contextlib.suppress(Exception):  # it is dead, or the cluster is
            self._ray.kill(self._handle)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's core writes there once a second while it waits for a cluster."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _reason(error: Exception) -> str:
    """Why there is no connection, on one line."""
    reason = " ".join(str(error.__cause__ or error).split())
    if "InvalidAuthToken" in reason or "client connection timeout" in reason:
        return (
            "Ray answers, but not to this machine; set RAY_AUTH_MODE=token, and copy "
            "~/.ray/auth_token from the machine of `ray start --head`"
        )
    if "any running Ray instance" in reason:
        return "no cluster runs on this machine; `ray start`, or `--cluster local`"
    return reason


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
