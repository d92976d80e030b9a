#!/bin/sh
# System packages and the virtual environment, on Debian, Ubuntu and Raspberry Pi OS.
# Usage: deploy/setup.sh [run|dev|tflite-runtime|train]: `dev` adds what the tests need;
# `tflite-runtime` makes .venv-tflite-runtime with the other runtime, for Python 3.11 only;
# `train` makes .venv-train with TensorFlow.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-run}

packages="libportaudio2 python3-venv"
if [ "$kind" != run ]; then
    packages="$packages pulseaudio pulseaudio-utils libasound2-plugins gcc libc6-dev"
fi
# A browser to look at the page with, a broker to forward to. Not every system packages them
# (Ubuntu has no chromium); the tests that need them are skipped there.
extras=""
[ "$kind" != dev ] || extras="chromium fonts-dejavu-core mosquitto tmux"
absent() {
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" ||
            printf ' %s' "$package"
    done
}
# shellcheck disable=SC2086
missing=$(absent $packages)
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: install$missing with this system's package manager, then run again" >&2
        exit 2
    fi
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "setup: installing$missing"
    # Never at the price of something else that is installed, such as PipeWire.
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-remove \
        --no-install-recommends $missing >/dev/null
fi
# shellcheck disable=SC2086
for package in $(absent $extras); do
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "setup: installing $package"
    $sudo apt-get update -qq 2>/dev/null || true
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-remove \
        --no-install-recommends "$package" >/dev/null ||
        echo "setup: without $package; some tests are skipped"
done

python=""
newest=99
[ "$kind" = tflite-runtime ] && newest=11
for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14}; do
    if "$candidate" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $newest))" \
        2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: needs Python 3.11$([ $newest = 99 ] && echo ' or newer');" \
        "set PYTHON=/path/to/python3.11" >&2
    exit 2
fi

venv=.venv
[ "$kind" = run ] || [ "$kind" = dev ] || venv=.venv-$kind
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
install="$venv/bin/pip install --quiet --disable-pip-version-check"
case $kind in
    run) $install -c deploy/constraints.txt -e ".[dashboard]" ;;
    dev) $install -c deploy/constraints.txt -e ".[dev,dashboard,examples]" ;;
    *)
        $install -r "deploy/constraints-$kind.txt"
        $install --no-deps -e .
        ;;
esac

if [ "$kind" != run ]; then
    # The tests hold the feature core against librosa. What librosa compiles at its first use goes
    # to a cache that several processes at once can ruin: fill it by one.
    "$venv/bin/python" - <<'END'
import numpy as np
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.reference import definition

definition(np.random.default_rng(0).normal(0.0, 0.1, 16000).astype(np.float32), FeatureSpec())
END
fi
