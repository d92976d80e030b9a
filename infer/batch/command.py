"""`infer PATH… --out DIR|FILE.parquet`: many recordings to one table."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from speech_emotion.common.bundle.manifest import (
    warn_without_baseline,
    warn_without_operating_point,
)
from speech_emotion.common.errors import (
    EXIT_FAULT,
    EXIT_INPUTS,
    EXIT_INTERRUPTED,
    EXIT_OK,
    UserError,
)
from speech_emotion.infer.batch.analysis import Outcome, PartWriter
from speech_emotion.infer.batch.cluster import Cluster, check_address
from speech_emotion.infer.batch.inputs import Inputs, collect, shard_of
from speech_emotion.infer.batch.merge import merge
from speech_emotion.infer.batch.parts import (
    PARTS_SUFFIX,
    OutputError,
    existing_parts,
    name_hash,
    open_folder,
    remove_unfinished,
)
from speech_emotion.infer.batch.pool import Crew, Job, Pool, Processes
from speech_emotion.infer.batch.progress import Progress
from speech_emotion.infer.batch.setting import Setting
from speech_emotion.infer.batch.table import schema_of

PARQUET = ".parquet"
OTHER_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xls", ".xlsx", ".txt", ".sqlite")
"""Suffixes of files that `--out` does not write, which are no names of folders either."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the command line asks for.

    Attributes:
        paths, manifest, shard: the inputs, see `inputs.collect` and `inputs.shard_of`.
        out: a folder, or a file whose name ends with `.parquet`.
        bundle: folder of the bundle.
        baseline, sensitivity, prosody, channel: as for one recording.
        jobs: number of processes; None: one per processor.
        cluster: address of a Ray cluster, or `local`; None: processes of this machine.
        resume: continue in the output of an earlier run.
    """

    paths: list[str]
    manifest: str | None
    shard: str | None
    out: str
    bundle: Path
    runtime: str
    baseline: str | None
    sensitivity: str
    prosody: bool
    channel: int | None
    jobs: int | None
    resume: bool
    cluster: str | None = None

    @property
    def single_file(self) -> Path | None:
        """The one file to write; None for a folder."""
        return Path(self.out) if self.out.lower().endswith(PARQUET) else None

    @property
    def folder(self) -> Path:
        """The folder of the parts."""
        return Path(self.out + PARTS_SUFFIX if self.single_file else self.out)

    @property
    def setting(self) -> Setting:
        """What the worker processes need."""
        return Setting(
            bundle=str(self.bundle),
            folder=str(self.folder),
            runtime=self.runtime,
            baseline=self.baseline,
            sensitivity=self.sensitivity,
            prosody=self.prosody,
            channel=self.channel,
            parent=os.getpid(),
        )


def run(batch: Batch) -> int:
    """Analyse all inputs. Returns the exit code.

    Raises:
        UserError: the inputs, the output or the bundle cannot be used.
    """
    bundle = batch.setting.load()
    if batch.baseline == "stream":
        warn_without_baseline(bundle)
    warn_without_operating_point(bundle, batch.sensitivity)
    schema = schema_of(
        bundle.labels, bundle.id, prosody=batch.prosody, dimensions=bundle.dimensions
    )
    inputs = collect(batch.paths, batch.manifest)
    names = shard_of(inputs.names, batch.shard)
    _check(batch)
    open_folder(batch.folder, batch.setting.index(bundle), resume=batch.resume)
    try:
        parts, progress = _analyse(batch, names)
        if batch.single_file and batch.shard is None:
            merge((batch.folder / part for part in parts), schema, batch.single_file)
    except KeyboardInterrupt:
        remove_unfinished(batch.folder)
        print("infer: interrupted; --resume continues with what is not done", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (OutputError, RuntimeError) as error:
        remove_unfinished(batch.folder)
        print(f"infer: {error}; --resume continues", file=sys.stderr)
        return EXIT_FAULT
    _report(batch, inputs, progress)
    return EXIT_INPUTS if progress.errors else EXIT_OK


def _check(batch: Batch) -> None:
    if batch.jobs is not None and batch.jobs < 1:
        raise UserError(f"--jobs {batch.jobs} must be at least 1")
    if Path(batch.out).suffix.lower() in OTHER_TABLES:
        raise UserError(
            f"--out {batch.out}: is written as {PARQUET} or as a folder; "
            "`speech-emotion export` makes other formats of it"
        )
    if (file := batch.single_file) is not None:
        if file.is_dir():
            raise UserError(f"{file}: is a folder; the name of a file ends with {PARQUET}")
        if file.exists() and not batch.resume:
            raise UserError(f"{file}: exists; --resume continues, or name another --out")
    if batch.cluster is not None:
        check_address(batch.cluster)


def _analyse(batch: Batch, names: list[str]) -> tuple[list[str], Progress]:
    """The part of each input, in order, and the counts."""
    known = existing_parts(batch.folder)
    jobs = [Job(k, name, known.get(name_hash(name), [])) for k, name in enumerate(names)]
    sizes = [_size(name) for name in names]
    parts = [""] * len(names)
    with Pool(_crew(batch), batch.jobs) as pool, Progress(len(names), sum(sizes)) as progress:
        for event in pool.run(jobs):
            number = event.job.number
            outcome = event.outcome
            if event.death is not None:
                reason = f"{event.job.name}: the process that read it {event.death}, twice"
                outcome = _record_failure(batch, event.job, reason)
            if outcome is None:
                progress.advance(number, event.seconds, event.share, sizes[number])
                continue
            parts[number] = outcome.part
            progress.end(
                number, outcome.seconds, sizes[number], outcome.error, skipped=outcome.skipped
            )
    return parts, progress


def _crew(batch: Batch) -> Crew:
    """Where the inputs are analysed.

    Raises:
        UserError: the cluster cannot be used.
    """
    if batch.cluster is None:
        return Processes(batch.setting)
    cluster = Cluster(batch.cluster, batch.setting)
    print(f"infer: {cluster.description}", file=sys.stderr)
    return cluster


def _record_failure(batch: Batch, job: Job, reason: str) -> Outcome:
    """The row of an input that no worker survives."""
    return PartWriter(batch.setting).fail(job.name, job.known, reason)


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except (OSError, ValueError):
        return 0


def _report(batch: Batch, inputs: Inputs, progress: Progress) -> None:
    if inputs.ignored:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in inputs.ignored.most_common(5))
        total = sum(inputs.ignored.values())
        print(f"infer: {total} files of other kinds were left out ({kinds})", file=sys.stderr)
    where = batch.folder if batch.shard is not None else batch.out
    print(progress.summary(str(where)), file=sys.stderr)
