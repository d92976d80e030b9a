"""Every command in the documentation is run, or stands below with the reason why it is not.

A block of README.md or docs/ that is fenced as `sh` holds commands for the repository's root; so
does a line that is set in by four spaces and begins with one of `PROGRAMS`.
They are run in a folder that looks like it, with a virtual microphone where PulseAudio is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.broker import MOSQUITTO
from tests.support.pages import answers
from tests.support.pipelines import DEMO, ROOT, wait_until
from tests.support.pulse import VirtualMicrophone, installed
from tools.documents import documents
from tools.tree import ROOMS, missing

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = r"(\.venv\S*/bin/)?(python|speech-emotion)|make|pytest|box|supervisor\.py"
RUN_S = 100.0
SERVE_S = 5.0

RUNS_ITSELF = {
    r"^make (demo|run|test|lint|docs)\b": ".ci/run runs them; this test is a part of test-all",
    r"^(podman|pipx|make deb)|^speech-emotion demo": "see test_packages.py, and `make packages`",
    r"^sudo |^git clone|^cd ": "changes the machine, or the folder of the shell",
    r"mic:USB PnP": "needs that very USB microphone; mic:NAME has its own tests",
    r"^arecord ": "needs a sound card; stdin has its own tests",
    r"pytorch_model": "needs PyTorch; see tests/system/test_any_model.py",
    r"models/mine": "needs a model that a command before has trained",
    r"-m train\b|\.venv-train": "needs corpora that are not ours to ship; see tests/test_train*.py",
    r"speech-emotion train personal": "needs labels; see tests/unit/train/test_personal.py",
    r"^pytest\b|-m tests\.|-m bench\.|^make (bench|chaos|soak)": "takes minutes; a measurement",
    r"^prometheus ": "needs Prometheus",
    r"^sep |systemctl|journalctl|deploy/": "see tests/system/test_deploy.py",
    r"^curl .*/api/v1|follow_http|api-key|^openssl ": "see test_http_api.py, test_api_access.py",
    r"(supervisor\.py|speech-emotion) (alerts|swap|doctor|health|keygen|fleet)": "see their tests",
    r"--secret|--boxes": "needs keys and other machines: test_keys.py, test_infer_host.py",
}
"""Commands that are not run here, by pattern, with the reason."""
RUN = r"(supervisor\.py|speech-emotion run)"
SERVES = (rf"{RUN}(?!.*(--print-config|--speed max))", r"speech-emotion (dashboard|watch$|history)")
"""Commands that run until Ctrl-C."""
LISTENS = (
    r"speech-emotion (watch|subscribe|dashboard|history|mqtt)",
    r"examples/(subscribe|alerts|lsl_outlet|osc_send)\.py",
)
"""Commands that need a running pipeline."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command and where it stands."""

    text: str
    page: Path
    line: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


def commands(page: Path) -> list[Command]:
    """The commands of a page; a backslash continues a line, ` #` begins a remark."""
    found, inside, fenced, begun = [], False, False, ""
    for number, raw in enumerate(page.read_text().splitlines(), 1):
        if raw.startswith("```"):
            fenced = not fenced
            inside = raw == "```sh"
        elif inside or begun or (not fenced and re.match(f"    ({PROGRAMS}) ", raw)):
            line = begun + re.sub(r"(^|\s+)#.*$", "", raw).rstrip()
            begun = line.removesuffix("\\") if line.endswith("\\") else ""
            if line and not begun:
                text = re.sub(r"^python ", ".venv/bin/python ", line.strip())
                found.append(Command(text, page, number))
    return found


ALL = [command for page in PAGES for command in commands(page)]


def excused(command: Command) -> str | None:
    """Why a command is not run."""
    for pattern, reason in RUNS_ITSELF.items():
        if re.search(pattern, command.text):
            return reason
    return None


def any_of(patterns: tuple[str, ...], text: str) -> bool:
    return any(re.search(pattern, text) for pattern in patterns)


def test_there_are_commands_and_few_are_excused() -> None:
    assert len(ALL) > 25
    run = [command for command in ALL if excused(command) is None]
    assert len(run) > 20
    for pattern in RUNS_ITSELF:
        re.compile(pattern)


@pytest.mark.parametrize("command", [c for c in ALL if excused(c)], ids=str)
def test_what_is_not_run_has_at_least_flags_that_exist(command: Command) -> None:
    ours = re.search(r"-m (capture|features|infer|train|dashboard)|speech-emotion", command.text)
    if not ours or re.match(r"podman|sudo", command.text):
        return
    for flag in re.findall(r" (--[a-z-]+)", command.text):
        assert f'"{flag}"' in SOURCES, flag


FOLDERS = (
    "alerts",
    "capture",
    "common",
    "dashboard",
    "features",
    "fleet",
    "infer",
    "speech_emotion",
    "supervision",
    "train",
)
SOURCES = (ROOT / "supervisor.py").read_text() + "".join(
    path.read_text() for name in FOLDERS for path in (ROOT / name).glob("**/*.py")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"", text)
    for target in (a or b for a, b in found):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Environment of the commands, with a virtual microphone if this machine can have one."""
    with contextlib.ExitStack() as stack:
        # The environment may have been installed from another checkout than this one.
        found = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
        if installed():
            microphone = stack.enter_context(VirtualMicrophone())
            found |= microphone.env
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the root of the repository, with the files that the commands name."""
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("the documentation's commands use .venv")
    place = tmp_path_factory.mktemp("root")
    for path in ROOT.iterdir():
        if path.name not in (".git", "docs"):
            (place / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", place / "docs")
    samples, rate = soundfile.read(DEMO, dtype="float32")
    soundfile.write(place / "talk.flac", samples[: 12 * rate], rate)
    soundfile.write(place / "room.wav", samples[: 12 * rate], rate)
    soundfile.write(place / "long.wav", np.tile(samples, 8), rate)
    return place


@contextlib.contextmanager
def pipeline(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """A running pipeline with page and history."""
    command = [".venv/bin/python", "supervisor.py", "--source", "file:long.wav", "--dashboard"]
    process = subprocess.Popen(
        [*command, "--history", "history.sqlite"],
        cwd=folder,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(8765), "the pipeline's page")
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def broker(text: str) -> Iterator[None]:
    """A broker on MQTT's own port, where a command forwards to one."""
    if "mqtt" not in text:
        yield
        return
    if MOSQUITTO is None:
        pytest.skip("needs mosquitto: deploy/setup.sh dev installs it")
    process = subprocess.Popen([MOSQUITTO, "-p", "1883"], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def wants_microphone(text: str) -> bool:
    own = "--source" in text and "mic" not in text
    return (bool(re.search(RUN, text)) and not own and "--print-config" not in text) or (
        "--source mic" in text or "speech-emotion devices" in text
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_does_what_its_page_says(folder: Path, environment: dict[str, str]) -> None:
    """One test for all of them: they use the default ports, so one at a time."""
    wrong = []
    for command in {one.text: one for one in ALL if excused(one) is None}.values():
        if wants_microphone(command.text) and not installed():
            continue
        with contextlib.ExitStack() as stack:
            if any_of(LISTENS, command.text) or "history.sqlite --" in command.text:
                stack.enter_context(pipeline(folder, environment))
                if "history" in command.text:
                    time.sleep(8.0)  # something to look back on
            stack.enter_context(broker(command.text))
            code, output = outcome(command.text, folder, environment)
        if code != 0 or "Traceback" in output:
            wrong.append(f"{command}\n  exit code {code}\n{output[-3000:]}")
    assert not wrong, "\n".join(wrong)


ENDLESS = (
    *SERVES,
    r"speech-emotion (subscribe|mqtt)",
    r"examples/(subscribe|alerts|lsl_outlet|osc_send)\.py",
    r"-m (features|infer)\s*$",
    r"-m capture --source mic\s*$",
)


def outcome(text: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output on a terminal; a command without end is ended by Ctrl-C."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "bash", "-c", text],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # A test run in the background of a shell ignores Ctrl-C, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    endless = any_of(ENDLESS, text)
    try:
        output = read_until(ours, process, SERVE_S if endless else RUN_S)
        if process.poll() is None and endless:
            os.write(ours, b"\x03")  # Ctrl-C, as typed
            output += read_until(ours, process, 30.0)
        if process.poll() is None:
            return -1, f"{output}\n(it has not ended)"
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    if endless and "examples/subscribe.py" in text:  # twenty lines, of which none is for Ctrl-C
        return 0, output.partition("Traceback")[0]
    return process.returncode, output


def read_until(terminal: int, process: subprocess.Popen[bytes], patience: float) -> str:
    """What a process writes until it ends, or for so many seconds."""
    output, deadline = b"", time.monotonic() + patience
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if select.select([terminal], [], [], 0.0 if ended else 0.1)[0]:
            try:
                output += os.read(terminal, 1 << 16)
            except OSError:  # the other end is closed
                process.wait(patience)
                break
        elif ended:
            break
    return output.decode("utf-8", "replace")


def test_what_a_command_makes_is_up_to_date() -> None:
    """`make docs` writes it."""
    stale = [path.name for path, text in documents().items() if path.read_text() != text]
    assert stale == []


def test_every_folder_of_code_has_its_sentence() -> None:
    assert missing() == set()
    assert [name for name in ROOMS if not (ROOT / name).exists()] == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(re.findall(r"\]\(([A-Z_]+\.md)\)", index)) == set()


def test_tests_and_files_that_pages_name_exist() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    missing_names = []
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            if f"def {name}(" not in tests:
                missing_names.append(f"{page.name}: {name}")
        for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|toml|md))`", page.read_text()):
            if not (ROOT / name).exists() and page.name != "MODEL_NOTEBOOK.md":
                missing_names.append(f"{page.name}: {name}")
    assert missing_names == []
