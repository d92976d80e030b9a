"""Cost and latency of the live page in a real browser, and its screenshots.

    python -m bench.page                 # the figures of docs/DASHBOARD.md
    python -m bench.page --shots docs    # the screenshots, which take six minutes

Page loads and CPU are measured with a real pipeline on the demo clip, the latency from socket to
pixels with a test publisher that records when it sends.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import zmq

from speech_emotion.common.client.results import Results
from speech_emotion.common.paths import PACKAGE as ROOT
from speech_emotion.common.wire import public
from tools.browser import browser
from tools.ports import free_port

DEMO = ROOT / "examples" / "demo.flac"
LOADS = 10
MESSAGES = 200
PACE_S = 0.15
CPU_S = 60.0
SHOT_S = 320.0
SHOT_REPEATS = 7
REVIEW_LABELS = 3
SHOTS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
WATCH = """() => {
  window.seen = [];
  const node = document.getElementById("level-number");
  new MutationObserver(() => requestAnimationFrame(() => {
    const level = Number(node.textContent.replace("−", "-"));
    const channel = new MessageChannel();  // its message arrives after the frame was painted
    channel.port1.onmessage = () =>
      seen.push([level, (performance.timeOrigin + performance.now()) / 1000]);
    channel.port2.postMessage(0);
  })).observe(node, {childList: true, characterData: true, subtree: true});
}"""
PAINT = """() => ({
  paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
  bytes: ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
    .filter((e) => !e.name.includes("/events")).reduce((sum, e) => sum + e.transferSize, 0),
})"""


@contextlib.contextmanager
def pipeline(sound: Path, *flags: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run a pipeline with its page. Yields the page's address and its server process."""
    port = free_port()
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    command = [
        *(sys.executable, str(ROOT / "supervisor.py"), "--results", endpoint),
        *("--source", f"file:{sound}", f"--dashboard=127.0.0.1:{port}", *flags),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with Results(endpoint, timeout=30.0) as results:
            next(iter(results))
        yield f"http://127.0.0.1:{port}/", server_of(process.pid)
    finally:
        process.terminate()
        process.wait()


def server_of(supervisor: int) -> psutil.Process:
    for child in psutil.Process(supervisor).children():
        if "dashboard" in " ".join(child.cmdline()):
            return child
    raise RuntimeError("the pipeline has no page process")


def long_clip(folder: Path) -> Path:
    """The demo clip repeated, longer than a measurement."""
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(DEMO, dtype="float32")
    path = folder / "living-room.wav"
    soundfile.write(path, np.tile(samples, SHOT_REPEATS), rate)
    return path


def loads(chromium: Any, url: str) -> None:
    """First paint, first word and size of the page in fresh profiles."""
    paints, words, weights = [], [], []
    for _ in range(LOADS):
        space = chromium.new_context()
        page = space.new_page()
        began = time.monotonic()
        page.goto(url)
        page.locator("#pill[data-state=fresh]").wait_for()
        words.append(time.monotonic() - began)
        timing = page.evaluate(PAINT)
        paints.append(timing["paint"])
        weights.append(timing["bytes"])
        space.close()
    show("first paint, median of 10 fresh loads", f"{statistics.median(paints):.0f} ms")
    show("  longest", f"{max(paints):.0f} ms")
    show("from the click to `Live`, median", f"{statistics.median(words) * 1000:.0f} ms")
    show("size of page and last five minutes, at most", f"{max(weights) / 1000:.0f} kB")


def latency(chromium: Any) -> None:
    """Latency from a message on the socket to the frame that shows it."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/results"
        context: zmq.Context[Any] = zmq.Context()
        socket = context.socket(zmq.PUB)
        socket.bind(endpoint)
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "dashboard", "--results", endpoint),
                *("--listen", f"127.0.0.1:{port}"),
            ],
            cwd=ROOT,
        )
        try:
            page = chromium.new_context().new_page()
            goto(page, f"http://127.0.0.1:{port}/")
            send = publisher(socket)
            while page.evaluate("document.getElementById('level-number').textContent") == "–":
                send(-79)
                time.sleep(0.1)
            page.evaluate(WATCH)
            sent = []
            for number in range(MESSAGES):
                level = -10 - number % 60
                sent.append((level, time.time()))
                send(level)
                time.sleep(PACE_S * random.uniform(0.7, 1.3))
            time.sleep(1.0)
            seen = page.evaluate("seen")
        finally:
            server.terminate()
            server.wait()
            context.destroy(linger=0)
    delays = []
    for level, at in sent:
        # Levels repeat after 60 messages. A message without a frame of its own does not count.
        later = [t - at for shown, t in seen if shown == level and at <= t < at + 5.0]
        if later:
            delays.append(1000.0 * min(later))
    delays.sort()
    show("messages shown", f"{len(delays)} of {MESSAGES}")
    show("socket to pixels, median", f"{statistics.median(delays):.0f} ms")
    show("  p99", f"{delays[math.ceil(0.99 * len(delays)) - 1]:.0f} ms")
    show("  longest", f"{delays[-1]:.0f} ms")


def publisher(socket: zmq.Socket[bytes]) -> Callable[[float], None]:
    """Returns a function that publishes the next window with a given level."""
    seq = 0

    def send(level: float) -> None:
        nonlocal seq
        seq += 1
        quiet = public.Result(
            stream="main",
            run="a",
            seq=seq,
            start=8000 * seq,
            end=8000 * seq + 16000,
            rate=16000,
            time=time.time(),
            state="silence",
            emotion=None,
            confidence=None,
            probabilities=None,
            smoothed=None,
            reason=None,
            rms_db=level,
            lost=0,
            skipped=0,
            timing_ms=None,
            bundle="none@00000000",
        )
        socket.send_multipart(public.encode_public(quiet))

    return send


def cost(chromium: Any, url: str, server: psutil.Process) -> None:
    """CPU and memory of the page's server without a viewer and with one."""

    def percent() -> float:
        before, began = sum(server.cpu_times()[:2]), time.monotonic()
        time.sleep(CPU_S)
        used = sum(server.cpu_times()[:2]) - before
        return 100.0 * used / (time.monotonic() - began)

    show("CPU of the server without a viewer", f"{percent():.1f} % of a core")
    page = chromium.new_context().new_page()
    page.goto(url)
    show("  with one viewer", f"{percent():.1f} % of a core")
    show("memory of the server, resident", f"{server.memory_info().rss / 2**20:.0f} MiB")
    heap = page.context.new_cdp_session(page).send("Runtime.getHeapUsage")["usedSize"]
    show("JavaScript heap of the page", f"{heap / 2**20:.1f} MiB")


def shots(chromium: Any, folder: Path) -> None:
    """Screenshots of a page with five minutes of results."""
    with tempfile.TemporaryDirectory() as scratch:
        sound = long_clip(Path(scratch))
        history = f"--history={scratch}/history.sqlite"
        with pipeline(sound, history) as (url, _):
            time.sleep(SHOT_S)
            for name, look in SHOTS.items():
                page = chromium.new_context(**look).new_page()
                page.goto(url)
                page.locator("#utterances li").first.wait_for()
                page.locator("#emotion[data-kind=quiet]").wait_for()
                page.locator("#emotion[data-kind=speech]").wait_for()
                time.sleep(0.6)  # an utterance has begun, the bars have moved
                phone = look.get("is_mobile", False)
                page.screenshot(path=folder / f"page-{name}.png", full_page=not phone)
                print(folder / f"page-{name}.png")


def review_shot(chromium: Any, folder: Path) -> None:
    """Screenshot of the review with a few utterances, of which some were judged."""
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch, "box.toml")
        config.write_text(f"[review]\nfile = '{scratch}/review.sqlite'\nqueue = 6\n")
        with pipeline(long_clip(Path(scratch)), "--config", str(config)) as (url, _):
            page = chromium.new_context(**SHOTS["light"]).new_page()
            page.goto(f"{url}review.html")
            for _ in range(REVIEW_LABELS):
                row = page.locator("#kept li").first
                row.locator("button").first.click()
                row.wait_for()
            page.locator("#kept li").nth(1).wait_for()
            page.locator("#recent li").first.wait_for()
            page.screenshot(path=folder / "page-review.png", full_page=True)
            print(folder / "page-review.png")


def goto(page: Any, url: str) -> None:
    """Open a page, also while its server is still starting."""
    deadline = time.monotonic() + 30.0
    while True:
        try:
            page.goto(url)
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def show(measure: str, figure: str) -> None:
    print(f"{measure:<48} {figure}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("--shots", type=Path, metavar="DIR", help="write screenshots instead")
    options = parser.parse_args()
    with browser() as chromium:
        if options.shots is not None:
            shots(chromium, options.shots)
            review_shot(chromium, options.shots)
            return
        with tempfile.TemporaryDirectory() as scratch:
            sound = long_clip(Path(scratch))
            with pipeline(sound) as (url, server):
                loads(chromium, url)
                cost(chromium, url, server)
        latency(chromium)


if __name__ == "__main__":
    main()
