#!/bin/sh
# Install system packages and the virtual environment on Debian, Ubuntu and Raspberry Pi OS.
# Usage: deploy/setup.sh [run|dev|newest|tflite-runtime|train|agents|homeassistant]
#   run             .venv with what the box needs
#   dev             the same with what the tests need
#   newest          .venv-newest with the newest Python found, for the unit tests
#   tflite-runtime  .venv-tflite-runtime with the other TFLite runtime; Python 3.11 only
#   train           .venv-train with TensorFlow
#   agents          .venv-agents with Pipecat and LiveKit, for the tests of their examples
#   homeassistant   .venv-homeassistant with Home Assistant, for the test of discovery; Python 3.13
# PYTHON=/path/to/python3.12 chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-run}
case $kind in
    run) disk="650 MB" ;;
    dev) disk="1.5 GB" ;;
    newest) disk="800 MB" ;;
    tflite-runtime) disk="600 MB" ;;
    train) disk="2.2 GB" ;;
    agents) disk="800 MB" ;;
    homeassistant) disk="650 MB" ;;
    *)
        echo "setup: $kind is not known; allowed: run dev newest tflite-runtime train agents" \
            "homeassistant" >&2
        exit 2
        ;;
esac
say() { echo "setup: $*"; }

# The interpreter ---------------------------------------------------------------------------

candidates="python3 python3.11 python3.12 python3.13 python3.14"
low=11
high=99
case $kind in
    tflite-runtime) high=11 ;;
    newest | homeassistant)
        low=12
        minors="15 14 13 12"
        [ "$kind" = newest ] || { low=13 high=13 minors=13; }
        candidates=""
        for minor in $minors; do
            candidates="$candidates python3.$minor"
            for path in "$HOME"/.pyenv/versions/3.$minor.*/bin/python3; do
                [ ! -x "$path" ] || candidates="$candidates $path"
            done
        done
        ;;
esac
python=""
for candidate in ${PYTHON:-$candidates}; do
    if "$candidate" -c "import sys; sys.exit(not (3, $low) <= sys.version_info[:2] <= (3, $high))" \
        2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    if [ "$kind" = newest ]; then
        say "no Python newer than 3.11 found; its tests are skipped"
        exit 0
    fi
    if [ "$kind" = homeassistant ]; then
        echo "setup: needs Python 3.13; set PYTHON=/path/to/python3.13" >&2
        exit 2
    fi
    echo "setup: needs Python 3.11$([ $high = 11 ] || echo ' or newer');" \
        "set PYTHON=/path/to/python3.11" >&2
    exit 2
fi

# System packages ---------------------------------------------------------------------------

# Without libportaudio2 there is no microphone; files, standard input and the page work.
wanted="libportaudio2"
"$python" -c "import ensurepip" 2>/dev/null || wanted="$wanted python3-venv"
# A virtual microphone, a compiler for the stepped clock, two browsers, a broker, a terminal, proxies,
# servers of sound, Praat. Not every system packages them (Ubuntu has no chromium): tests that need them are skipped there.
case $kind in run | newest | agents | homeassistant) ;; *) wanted="$wanted pulseaudio pulseaudio-utils libasound2-plugins gcc libc6-dev" ;; esac
[ "$kind" != dev ] || wanted="$wanted chromium firefox-esr fonts-dejavu-core mosquitto tmux nginx-light caddy praat"
[ "$kind" != dev ] || wanted="$wanted ffmpeg icecast2 python3-gi gir1.2-gst-rtsp-server-1.0"
[ "$kind" != dev ] || wanted="$wanted gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
[ "$kind" != dev ] || wanted="$wanted g++ libopus0 iproute2 pipewire pipewire-bin wireplumber dbus"

absent() {
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" ||
            printf '%s ' "$package"
    done
}
installed() { dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii  *//p' | sort; }

# Command that runs another one as root; empty for root itself, `no` where there is no right to.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        echo env
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; then
        echo sudo
    else
        echo no
    fi
}

# Disable a unit of the system or, with --user, of all users.
disable() {
    if command -v systemctl >/dev/null; then
        $root systemctl ${1:+--global} --quiet disable "$2" </dev/null >/dev/null 2>&1 || true
    else
        $root deb-systemd-helper ${1:+--user} disable "$2" </dev/null >/dev/null 2>&1 || true
    fi
}

# Install packages one at a time and leave no service of theirs enabled or running: a broker and a
# sound server are needed by the tests only, which start their own.
install_packages() {
    before=$(installed)
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | $root tee $policy >/dev/null
        $root chmod 755 $policy
    else
        policy=""
    fi
    # On a machine that has just started, the daily update may hold the locks for minutes.
    for pause in 10 20 40 0; do
        $root apt-get update -qq -o Acquire::Retries=3 2>/dev/null && break
        if [ $pause = 0 ]; then
            say "the package lists could not be updated"
        else
            say "the package lists cannot be updated yet; again in $pause s"
            sleep $pause
        fi
    done
    for package in "$@"; do
        say "installing system package $package"
        # --no-remove: never in exchange for another package, such as PipeWire.
        $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-remove \
            -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
            --no-install-recommends "$package" >/dev/null 2>&1 ||
            say "system package $package could not be installed"
    done
    [ -z "$policy" ] || $root rm -f $policy
    installed | while read -r package; do
        case "
$before
" in *"
$package
"*) continue ;; esac
        for unit in $(dpkg -L "$package" 2>/dev/null |
            sed -n 's#.*/systemd/\(system/[^/]*\.\(service\|socket\|timer\)\)$#\1#p
                    s#.*/systemd/\(user/[^/]*\.\(service\|socket\|timer\)\)$#\1#p'); do
            case $unit in
                *@.*) ;;
                system/*) disable "" "${unit#system/}" ;;
                user/*) disable --user "${unit#user/}" ;;
            esac
        done
    done
}

# shellcheck disable=SC2086
missing=$(command -v dpkg-query >/dev/null && absent $wanted || echo "$wanted")
missing=${missing% }
if [ -n "$missing" ]; then
    root=no
    ! command -v apt-get >/dev/null || root=$(as_root)
    if [ "$root" = no ]; then
        say "no right to install system packages; as administrator: apt-get install $missing"
    else
        # shellcheck disable=SC2086
        install_packages $missing
    fi
fi
if ! "$python" -c "import ensurepip" 2>/dev/null; then
    echo "setup: $python cannot make a virtual environment; as administrator:" \
        "apt-get install python3-venv" >&2
    exit 2
fi

# Python packages ---------------------------------------------------------------------------

venv=.venv
[ "$kind" = run ] || [ "$kind" = dev ] || venv=.venv-$kind
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

# One line per package; pip's exit code.
progress() {
    count=0
    while read -r first second rest; do
        case $first in
            Collecting)
                count=$((count + 1))
                if [ -t 1 ]; then
                    printf '\rsetup: package %d: %.50s\033[K' "$count" "$second"
                fi
                ;;
            Installing)
                [ ! -t 1 ] || printf '\r\033[K'
                # shellcheck disable=SC2086
                set -- $rest
                [ "$second" != collected ] || say "unpacking $(($# - 1)) packages"
                ;;
            pip-failed)
                [ ! -t 1 ] || printf '\n'
                return 1
                ;;
        esac
    done
}

# Twice: pip does not repeat a download that broke in its middle; it keeps those that are complete.
pip_install() {
    for attempt in first last; do
        { "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --retries 2 \
            --progress-bar off "$@" || echo pip-failed; } | progress && return 0
        [ $attempt = last ] || say "pip has failed; once more in 5 s"
        [ $attempt = last ] || sleep 5
    done
    echo "setup: the Python packages could not be installed (pip says why above). Without network:" \
        "on a like machine with network run 'pip download -d wheels -c deploy/constraints.txt" \
        "setuptools .[dashboard,listen,mqtt]', copy the folder wheels here, and run again with" \
        "PIP_NO_INDEX=1 PIP_FIND_LINKS=\"\$PWD/wheels\" in the environment" >&2
    exit 2
}

say "installing Python packages into $venv: about $disk on disk, 1 to 5 minutes the first time"
case $kind in
    run) pip_install -c deploy/constraints.txt -e ".[dashboard,listen,mqtt]" ;;
    dev) pip_install -c deploy/constraints.txt -e ".[dev]" ;;
    newest) pip_install -c deploy/constraints.txt -e ".[dashboard,examples,listen,test]" ;;
    agents | homeassistant) pip_install -r "deploy/constraints-$kind.txt" ;;
    *)
        pip_install -r "deploy/constraints-$kind.txt"
        pip_install --no-deps -e .
        ;;
esac

case $kind in run | agents | homeassistant) ;; *)
    # The tests compare the feature core with librosa. librosa compiles at its first use, into a
    # cache that several processes at once can damage: fill it with one process.
    say "compiling librosa's functions (half a minute, once)"
    "$venv/bin/python" - <<'END'
import numpy as np
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.reference import reference_features

reference_features(np.random.default_rng(0).normal(0.0, 0.1, 16000).astype(np.float32), FeatureSpec())
END
    ;;
esac
say "done: $venv, $(du -sh "$venv" | cut -f1)"
