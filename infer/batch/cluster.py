"""Workers of a batch as actors of a Ray cluster: one per processor of all its machines.

An actor keeps its interpreter, its model and its buffers for the whole run. The machines share the
folder of the inputs and that of the output, under the same paths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD
from speech_emotion.common.paths import IMPORT_ROOT
from speech_emotion.infer.batch.analysis import PartWriter
from speech_emotion.infer.batch.parts import OutputError, remove_unfinished
from speech_emotion.infer.batch.pool import Job, Worker
from speech_emotion.infer.batch.setting import Setting

PROGRESS_S = 0.5
"""Seconds between two questions for the progress of a worker."""
LOST = ("ActorUnavailableError", "NodeDiedError", "LocalRayletDiedError")
"""Errors of Ray that are no fault of an input: the machine is gone, or out of reach."""
NODE_DIED = "node has died"
"""What Ray says of an actor whose machine is gone."""


def connect(address: str) -> Any:
    """Ray, connected to the cluster at `address`, or to a new one on this machine for `local`.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError(
            "--cluster needs Ray: pip install 'speech-emotion-pipeline[archive,cluster]'"
        ) from None
    if address == "local":
        own = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    else:
        own = {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--cluster {address}: no cluster answers ({reason})") from None
    return ray


class Cluster:
    """A crew of actors.

    Args:
        address: `local`, or that of a cluster: `HOST:6379`, `ray://HOST:10001`, `auto`.

    Raises:
        UserError: the cluster cannot be used.
    """

    def __init__(self, address: str, setting: Setting) -> None:
        self._ray = connect(address)
        # Actors know the same paths, from the same folder.
        self._setting = dataclasses.replace(
            setting,
            bundle=os.path.abspath(setting.bundle),
            folder=os.path.abspath(setting.folder),
        )
        self._mark = Path(self._setting.folder) / f".cluster-{secrets.token_hex(8)}"
        try:
            self._mark.touch()
        except OSError as error:
            raise UserError(f"{setting.folder}: cannot be written ({error.strerror})") from None
        self._class = self._ray.remote(Analyst).options(
            max_concurrency=2,  # it answers for its progress while it works
            num_cpus=1,
            runtime_env={"env_vars": {**ONE_BLAS_THREAD, "PYTHONPATH": _import_path()}},
        )
        self._workers: list[_Actor] = []

    @property
    def size(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    @property
    def description(self) -> str:
        """How large it is, in words."""
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        machines = f"{nodes} machine{'s' * (nodes != 1)}"
        return f"a cluster of {machines}, {self.size} processors"

    def start(self) -> Worker:
        actor = self._class.remote(dataclasses.asdict(self._setting), os.getcwd(), self._mark.name)
        self._workers.append(_Actor(self._ray, actor))
        return self._workers[-1]

    def news(self) -> list[Worker]:
        waited = {ref: worker for worker in self._workers for ref in worker.waited}
        if not waited:
            raise RuntimeError("no machine of the cluster is left")
        ready, _ = self._ray.wait(list(waited), timeout=PROGRESS_S)
        found = {id(waited[ref]): waited[ref] for ref in ready}
        if not ready:
            for worker in self._workers:
                worker.look()
        return list(found.values())

    def remove(self, worker: Worker) -> None:
        self._workers = [one for one in self._workers if one is not worker]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._mark.unlink()
        self._ray.shutdown()


class Analyst:
    """What runs on a machine of the cluster. Its methods return answers as `worker.py` does."""

    def __init__(self, setting: dict[str, Any], folder: str, mark: str) -> None:
        self._setting = Setting(**setting)
        self._cwd = folder
        self._mark = mark
        self._progress = 0.0, 0.0
        self._writer: PartWriter | None = None

    def begin(self) -> dict[str, Any]:
        """Load the bundle, and check that this machine sees what the others see."""
        here = socket.gethostname()
        output = Path(self._setting.folder)
        try:
            os.chdir(self._cwd)
            if not (output / self._mark).exists():
                raise UserError(f"{here} does not see {output}: all machines must share --out")
            remove_unfinished(output)
            self._writer = PartWriter(self._setting)
        except OSError as error:
            return _fatal(f"{here}: {self._cwd}: {error.strerror}; all machines need it", user=True)
        except (UserError, OutputError) as error:
            return _fatal(f"{here}: {error}", user=isinstance(error, UserError))
        return {"ready": True}

    def process(self, name: str, known: list[str]) -> dict[str, Any]:
        """Write the part of an input."""
        assert self._writer is not None
        self._progress = 0.0, 0.0
        try:
            return {"outcome": dataclasses.asdict(self._writer.process(name, known, self._report))}
        except (UserError, OutputError) as error:
            return _fatal(str(error), user=isinstance(error, UserError))

    def progress(self) -> dict[str, Any]:
        """Seconds and share of the input that it has."""
        seconds, share = self._progress
        return {"seconds": seconds, "share": share}

    def _report(self, seconds: float, share: float) -> None:
        self._progress = seconds, share


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
        return [ref for ref in (self._work, self._look) if ref is not None]

    def look(self) -> None:
        """Ask for its progress."""
        if self.job is not None and self._look is None:
            self._look = self._handle.progress.remote()

    def give(self, job: Job | None) -> None:
        self.job, self._look = job, None
        self._work = job and self._handle.process.remote(job.name, job.known)

    def answers(self) -> list[dict[str, Any]]:
        found = []
        for name in ("_look", "_work"):
            ref = getattr(self, name)
            if ref is None or not self._ray.wait([ref], timeout=0)[0]:
                continue
            setattr(self, name, None)
            try:
                found.append(self._ray.get(ref))
            except self._ray.exceptions.RayActorError as error:
                self._died(error)
                break
            except self._ray.exceptions.RayError as error:
                raise RuntimeError(f"Ray: {_last_line(error)}") from None
        self.ready = self.ready or bool(found)
        return found

    def _died(self, error: Exception) -> None:
        self.ended = True
        self.lost = type(error).__name__ in LOST or NODE_DIED in str(error)
        self.death = "lost with its machine" if self.lost else _last_line(error)

    def close(self) -> None:
        with contextlib.suppress(Exception):  # it is dead, or the cluster is
            self._ray.kill(self._handle)


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]


def _fatal(text: str, *, user: bool) -> dict[str, Any]:
    return {"fatal": text, "user": user}


def _import_path() -> str:
    """Where an actor finds this package, where it is a checkout and not installed."""
    return os.pathsep.join(filter(None, [str(IMPORT_ROOT), os.environ.get("PYTHONPATH")]))
