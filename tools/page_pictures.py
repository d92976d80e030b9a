"""Pictures of the live page on the demo recording, and 20 s of it as a GIF, into docs/:

python -m tools.page_pictures
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from tools.browser import browser
from tools.ports import free_port

DOCS = Path(__file__).parent.parent / "docs"
DEMO = "examples/demo.flac"
DESKTOP = {"viewport": {"width": 1280, "height": 1268}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
HEARD_S = 26.0
"""Time before the pictures: some utterances are on the page."""
FILM_S, FRAMES_PER_S, WIDTH, COLOURS = 20.0, 3, 800, 48


def main() -> None:
    """Write page-light.png, page-dark.png, page-phone.png and page.gif."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sep-pictures-") as folder:
        command = [sys.executable, "-m", "speech_emotion", "run", f"--source=file:{DEMO}"]
        command += [f"--results=ipc://{folder}/results", f"--history={folder}/history.sqlite"]
        with subprocess.Popen(
            [*command, f"--dashboard=127.0.0.1:{port}"], stderr=subprocess.DEVNULL
        ) as pipeline:
            try:
                time.sleep(6.0)
                with browser() as one:
                    film(opened(one, port, **DESKTOP, color_scheme="light"))
                    pages = {
                        "page-light": opened(one, port, **DESKTOP, color_scheme="light"),
                        "page-dark": opened(one, port, **DESKTOP, color_scheme="dark"),
                        "page-phone": opened(one, port, **PHONE, color_scheme="light"),
                    }
                    time.sleep(HEARD_S - FILM_S)
                    for name, page in pages.items():
                        page.locator("#emotion[data-kind=speech]").wait_for()
                        page.screenshot(path=DOCS / f"{name}.png")
            finally:
                pipeline.terminate()


def opened(one: Any, port: int, **look: Any) -> Any:
    """The page without the tour of the first visit."""
    page = one.new_context(**look).new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.get_by_role("button", name="Skip").click()
    return page


def film(page: Any) -> None:
    """Write page.gif."""
    frames = []
    began = time.monotonic()
    for number in range(round(FILM_S * FRAMES_PER_S)):
        time.sleep(max(0.0, began + number / FRAMES_PER_S - time.monotonic()))
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        size = WIDTH, round(image.height * WIDTH / image.width)
        frames.append(image.resize(size, Image.Resampling.LANCZOS).quantize(COLOURS))
    first, *others = frames
    first.save(
        DOCS / "page.gif",
        save_all=True,
        append_images=others,
        duration=round(1000 / FRAMES_PER_S),
        loop=0,
        optimize=True,
    )


if __name__ == "__main__":
    main()
