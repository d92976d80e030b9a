"""Writes the table and the plot of docs/PERFORMANCE.md from bench/results.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_emotion.supervision.budgets import budget_of

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "PERFORMANCE.md"
PLOT = DOCS / "streams.png"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

Results = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        measure: name of the measure.
        aim: the limit as text.
        measured: the value as text, with its spread.
        value, limit: the aim is met if value <= limit, or >= if `more`.
    """

    measure: str
    aim: str
    measured: str
    value: float
    limit: float
    more: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.more else self.value <= self.limit

    @property
    def verdict(self) -> str:
        if self.met:
            return "met"
        return f"**missed: {self.value:.3g}, not {self.limit:g}**"


def rows_of(results: Results) -> list[Row]:
    """The rows of the parts that were measured."""
    makers: dict[str, Callable[[Any], list[Row]]] = {
        "features": _features,
        "latency": _latency,
        "loaded": _loaded,
        "cost": _cost,
        "start": _start,
        "ring": _ring,
        "inference": _inference,
        "streams": _streams,
        "batch": _batch,
        "long": _long,
        "sources": _sources,
        "speed": _speed,
    }
    return [row for part, make in makers.items() if part in results for row in make(results[part])]


def _features(part: Any) -> list[Row]:
    rows = []
    original, fixed, shipped = part["original"], part["original, tuning 0"], part["shipped"]
    us = {name: part[name]["us"] for name in ("original", "original, tuning 0", "shipped")}
    exact = "bit-identical" if original["bit_identical"] else "not bit-identical"
    rows.append(
        Row(
            "features, original's spec, to librosa's three calls",
            "≥ 5x less CPU, within 1e-4",
            f"{original['to_original']:.1f}x, {exact}: {_us(us['original']['core'])} to "
            f"{_us(us['original']['librosa'])} µs; with tuning 0 "
            f"{fixed['to_own_librosa']:.1f}x to its own calls, within 1e-4",
            original["to_original"],
            5,
            more=True,
        )
    )
    rows.append(
        Row(
            "features, shipped spec, to the original's three calls",
            "≥ 12x less CPU",
            f"{shipped['to_original']:.1f}x: {_us(us['shipped']['core'])} µs, "
            f"{shipped['to_own_librosa']:.1f}x to its own one call; within "
            f"{shipped['of_tolerance_1e-4']:.2f} of the tolerance 1e-4",
            shipped["to_original"],
            12,
            more=True,
        )
    )
    rows.append(
        Row(
            "features, shipped spec, to a bare batched rfft and one matrix product",
            "≤ 1.5x",
            f"{shipped['to_bare']:.2f}x: {_us(us['shipped']['core'])} to "
            f"{_us(us['shipped']['bare'])} µs",
            shipped["to_bare"],
            1.5,
        )
    )
    return rows


def _ms(part: Any) -> str:
    by = part["p99_by_round"]
    return (
        f"p50 {part['median']:.1f}, p99 {part['p99']:.1f} ms "
        f"({by['min']:.1f} to {by['max']:.1f} by round, {part['n']} windows)"
    )


def _latency(part: Any) -> list[Row]:
    ours, rival = part["ours"], part["rival"]
    typical, late = ours["median"] / rival["median"], ours["p99"] / rival["p99"]
    text = f"{_ms(ours)}; rival {_ms(rival)}"
    return [
        Row("sound to message, quiet, p50 to the rival's", "≤ 1/2", f"{typical:.2f}", typical, 0.5),
        Row("sound to message, quiet, p99 to the rival's", "≤ 1", f"{late:.2f}: {text}", late, 1),
    ]


def _loaded(part: Any) -> list[Row]:
    ours, rival = part["ours"], part["rival"]
    to_rival = ours["p99"] / rival["p99"]
    text = f"{to_rival:.2f}: {_ms(ours)}; rival {_ms(rival)}"
    measure = "sound to message, both cores loaded, p99 to the rival's"
    return [Row(measure, "≤ 1/3", text, to_rival, round(1 / 3, 3))]


def _cost(part: Any) -> list[Row]:
    def cpu(name: str) -> float:
        return float(part[name]["cpu_percent"]["median"])

    def text(name: str) -> str:
        percent = part[name]["cpu_percent"]
        return f"{percent['median']:.2f} % ({percent['min']:.2f} to {percent['max']:.2f})"

    pss = part["ours"]["pss_total_mb"]["median"], part["rival"]["pss_total_mb"]["median"]
    each = ", ".join(f"{name} {mb:.0f}" for name, mb in part["ours"]["pss_mb"].items())
    shares = {
        name: max(
            part["ours"]["cpu_by_process"][name] / budget_of(name).cpu_percent,
            mb / budget_of(name).pss_mb,
        )
        for name, mb in part["ours"]["pss_mb"].items()
    }
    largest = max(shares.values())
    budgets = ", ".join(
        f"{name} {percent:.2f} %" for name, percent in part["ours"]["cpu_by_process"].items()
    )
    same = cpu("ours, the original's spec") / cpu("rival")
    shipped = cpu("ours") / cpu("rival, our spec")
    silent = cpu("ours, silent room") / cpu("rival, silent room")
    return [
        Row(
            "CPU of one live stream, speech all the time, blocks of 100 ms, to the rival's",
            "≤ 1",
            f"{cpu('ours') / cpu('rival'):.2f}: {text('ours')} to {text('rival')} of a core; both "
            f"with the original's spec {same:.2f}, both with the shipped one {shipped:.2f}",
            cpu("ours") / cpu("rival"),
            1,
        ),
        Row(
            "CPU per stream at 16 streams, to the rival's one",
            "≤ 1/3",
            f"{cpu('ours, 16 streams') / cpu('rival'):.2f}: {text('ours, 16 streams')} each",
            cpu("ours, 16 streams") / cpu("rival"),
            round(1 / 3, 3),
        ),
        Row(
            "CPU in a silent room, blocks of 20 ms, to the rival's with blocks of 100 ms",
            "≤ 3",
            f"{silent:.2f}: {text('ours, silent room')} to {text('rival, silent room')} of a core",
            silent,
            3,
        ),
        Row(
            "CPU and memory of every process within its budget (supervision/budgets.py)",
            "≤ 1 of it",
            f"at most {largest:.2f}: {budgets}",
            largest,
            1,
        ),
        Row(
            "memory, sum of PSS, one stream, to the rival's",
            "≤ 1",
            f"{pss[0] / pss[1]:.2f}: {pss[0]:.0f} MB ({each}) to {pss[1]:.0f} MB",
            pss[0] / pss[1],
            1,
        ),
    ]


def _start(part: Any) -> list[Row]:
    warm, first = part["warm"], part["first"]

    def text(s: Any) -> str:
        return f"{s['median']:.2f} s ({s['min']:.2f} to {s['max']:.2f}, {s['n']})"

    rival = f"; rival {first['rival']['median']:.1f} s" if first["rival"]["n"] else ""
    return [
        Row(
            "start to ready, warm",
            "≤ 2.5 s",
            f"{text(warm['ours'])}; rival {text(warm['rival'])}",
            warm["ours"]["median"],
            2.5,
        ),
        Row(
            "start to ready, the first ever (nothing compiled, no numba)",
            "≤ 4 s",
            f"{text(first['ours'])}{rival}",
            first["ours"]["median"],
            4,
        ),
    ]


def _ring(part: Any) -> list[Row]:
    rows = []
    names = {
        "write": "ring: write of a 20 ms block",
        "read": "ring: read of a 1 s window",
        "second": "ring: a second of sound, 50 blocks written and its window read",
    }
    for kind, measure in names.items():
        us, to = part[kind]["us"], part[kind]["to_ring"]
        tick = us.get("ring and tick")
        beside = f", {tick['median']:.1f} with a tick each" if tick else ""
        measured = f"{us['ring']['median']:.2f} µs{beside}; " + "; ".join(
            f"{name} {us[name]['median']:.1f} ({to[name]:.1f}x)"
            for name in ("queue", "pipe", "pipe, bytes", "zmq")
        )
        least = min(to["queue"], to["pipe"])
        rows.append(Row(f"{measure}, to Queue and Pipe", "≥ 20x", measured, least, 20, more=True))
        rows.append(
            Row(f"{measure}, to ZeroMQ ipc", "≥ 5x", f"{to['zmq']:.1f}x", to["zmq"], 5, more=True)
        )
        bare = 1 / to["memcpy"]
        text = f"{bare:.2f}x: {us['memcpy']['median']:.2f} µs"
        rows.append(Row(f"{measure}, to a bare copy", "≤ 4x", text, bare, 4))
    return rows


def _inference(part: Any) -> list[Row]:
    ms = part["ms"]
    text = f"{ms['median']:.3f} ms (p99 {ms['p99']:.3f}), {part['runtime']}"
    return [Row("inference, one window, one thread", "≤ 0.5 ms", text, ms["median"], 0.5)]


def _streams(part: Any) -> list[Row]:
    counts = sorted(int(key) for key in part if key.isdigit())
    good = [
        n
        for n in counts
        if part[str(n)]["holes"] == 0 and part[str(n)]["latency_ms"]["p99"] < 250.0
    ]
    most = max(good, default=0)
    at = part[str(most)] if most else None
    text = "none"
    if at is not None:
        text = (
            f"{most}: {at['cpu_percent']:.0f} % of a core in all, {at['pss_total_mb']:.0f} MB, "
            f"p99 {at['latency_ms']['p99']:.0f} ms, {at['speech']:.0%} speech"
        )
    row = "live streams, every window delivered, p99 < 250 ms, the most that was tried"
    return [Row(row, "≥ 100", text, most, 100, more=True)]


def _speed(part: Any) -> list[Row]:
    speed = part["times_real_time"]
    text = (
        f"{speed['median']:.0f}x ({speed['min']:.0f} to {speed['max']:.0f}); with the start, "
        f"{part['seconds'] / 60:.0f} minutes of sound: {part['with_start']['median']:.0f}x"
    )
    measure = "one file at full speed through the whole pipeline"
    return [Row(measure, "≥ 200x real time", text, speed["median"], 200, more=True)]


def _batch(part: Any) -> list[Row]:
    def speed(*keys: str) -> float:
        found = part
        for key in keys:
            found = found[key]
        return float(found["median"])

    def to_floor(bundle: str, files: str, program: str = "batch") -> float:
        return speed(bundle, files, "floor") / speed(bundle, files, program)

    ours = speed("small", "long, flac", "batch")
    others = [("librosa", "librosa's three calls", 20)]
    if part["openSMILE"]:
        name = f"openSMILE's eGeMAPSv02 low-level descriptors (opensmile {part['openSMILE']})"
        others.append(("openSMILE", name, 5))
    rows = []
    for program, name, least in others:
        ratio = ours / speed("others", program)
        measure = f"recordings (`infer --out`, models/small), CPU to {name}"
        text = f"{ratio:.1f}x: {ours:.0f} times real time to {speed('others', program):.0f}"
        rows.append(Row(measure, f"≥ {least}x less", text, ratio, least, more=True))
    for kind, limit in (("long", 2.5), ("clips", 5.0)):
        found = to_floor("small", f"{kind}, flac")
        text = ", ".join(
            f"{bundle} from {form} {to_floor(bundle, f'{kind}, {form}'):.2f}x (library "
            f"{to_floor(bundle, f'{kind}, {form}', 'library'):.2f}x)"
            for bundle in ("small", "default")
            for form in ("flac", "opus")
        )
        what = "one long file" if kind == "long" else "clips of 3 s"
        measure = f"the same, {what}, CPU to decoding, rfft, product and model alone"
        rows.append(Row(measure, f"≤ {limit:g}x", text, found, limit))
    if "cores" not in part:  # measured by an earlier version
        return rows
    one, *_, most = part["cores"]
    ratio = speed("cores", most) / speed("cores", one)
    rows.append(
        Row(
            f"the same, long files, {most} processes to one, with start and end",
            "≥ 1.6x",
            f"{ratio:.2f}x: {speed('cores', most):.0f} times real time to "
            f"{speed('cores', one):.0f}",
            ratio,
            1.6,
            more=True,
        )
    )
    return rows


def _long(part: Any) -> list[Row]:
    total = sum(part["peak_mb"].values())
    each = ", ".join(f"{name} {mb:.0f}" for name, mb in part["peak_mb"].items())
    speed = part["hours"] * 3600 / part["seconds"]
    return [
        Row(
            f"memory of `infer --out`, one file of {part['hours']:g} hours at 192 kHz, peak",
            "≤ 300 MB",
            f"{total:.0f} MB ({each}); {part['bytes'] / 1e9:.1f} GB at {speed:.0f} times real time",
            total,
            300,
        )
    ]


def _sources(part: Any) -> list[Row]:
    def cpu(source: str) -> float:
        return sum(float(process["cpu_percent"]) for process in part[source].values())

    costs = {name: found for name, found in part.items() if name not in ("bundle", "machine")}
    if not costs:
        return []
    text = "; ".join(
        f"{source} "
        + ", ".join(
            f"{name} {used['cpu_percent']:.1f} % of a core, {used['pss_mb']:.0f} MB"
            for name, used in processes.items()
        )
        for source, processes in costs.items()
    )
    microphone, camera, *_ = costs
    ratio = cpu(camera) / cpu(microphone)
    measure = "CPU of an RTSP source, capture and its ffmpeg, to the same sound from a microphone"
    return [Row(measure, "≤ 1.5", f"{ratio:.2f}: {text}", ratio, 1.5)]


def _us(us: Any) -> str:
    return f"{us['median']:.0f} (p99 {us['p99']:.0f})"


def table(results: Results) -> str:
    """The table in Markdown, after lines that say where and when its parts were measured."""
    places: dict[str, list[str]] = {}
    for name, part in results.items():
        if isinstance(part, dict) and "machine" in part:
            places.setdefault(_place(part), []).append(name)
    lines = []
    for place, names in places.items():
        lines += [f"{', '.join(names)}: {place}" if len(places) > 1 else place, ""]
    lines += ["| measure | aim | found | |", "|---|---|---|---|"]
    lines += [f"| {r.measure} | {r.aim} | {r.measured} | {r.verdict} |" for r in rows_of(results)]
    return "\n".join(lines)


def _place(part: Any) -> str:
    machine = part["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores"
        f"{' of a virtual machine' if machine['virtual'] else ''}, "
        f"{machine['memory_gb']:.0f} GB, Linux {machine['kernel']}, Python "
        f"{machine['python']}, {packages}; {machine['date']}; bundle {part['bundle']}."
    )


def write(results: Results) -> None:
    """Write the table between its marks in docs/PERFORMANCE.md, and the plot to docs/."""
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(results)}\n\n{END}{tail}")
    if "streams" in results:
        plot(results["streams"])


def plot(part: Any) -> None:
    """CPU, memory and latency against the number of live streams."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = sorted(int(key) for key in part if key.isdigit())
    runs = [part[str(n)] for n in counts]
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    cpu, memory, late = axes
    cpu.plot(counts, [run["cpu_percent"] for run in runs], "o-")
    cpu.set(title="CPU of all processes", ylabel="% of one core")
    memory.plot(counts, [run["pss_total_mb"] for run in runs], "o-")
    memory.set(title="Memory of all processes", ylabel="sum of PSS, MB")
    late.plot(counts, [run["latency_ms"]["median"] for run in runs], "o-", label="p50")
    late.plot(counts, [run["latency_ms"]["p99"] for run in runs], "s--", label="p99")
    late.axhline(250.0, color="grey", linewidth=1, linestyle=":")
    late.set(title="Sound to message", ylabel="ms", yscale="log")
    late.legend()
    for axis in axes:
        axis.set_xlabel("live streams")
        axis.grid(alpha=0.3)
        if axis is not late:
            axis.set_ylim(bottom=0)
    figure.savefig(PLOT, dpi=110)
    pyplot.close(figure)
