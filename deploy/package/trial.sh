#!/bin/sh
# Build the container, the Debian package and the wheel; install each on a bare system, run the demo,
# remove it again; print the table of docs/DEPLOYMENT.md.
# Usage: deploy/package/trial.sh [SUITE]
#   SUITE    trixie (Debian 13, default) or noble (Ubuntu 24.04)
# Must run as root, on a machine with podman, debootstrap and network. Packages go to dist/; roots
# to ${ROOTS:-/var/tmp/bare-roots}: SUITE-minimal stays and is used again, all else is removed.
# STORAGE_DRIVER, BUILDAH_ISOLATION and CONTAINERS_CONF set up podman for unusual machines.
set -eu
umask 022
cd "$(dirname "$0")/../.."
suite=${1:-trixie}
for program in podman debootstrap; do
    if [ "$(id -u)" != 0 ] || ! command -v $program >/dev/null; then
        echo "trial: must run as root, with podman and debootstrap;" \
            "try: sudo apt-get install podman debootstrap" >&2
        exit 2
    fi
done
roots=${ROOTS:-/var/tmp/bare-roots}
base=$roots/$suite-minimal
mkdir -p "$roots"
work=$(mktemp -d "$roots/trial.XXXXXX")
image=localhost/speech-emotion:trial
bare=localhost/bare:$suite
container=speech-emotion-trial-$$

clean() {
    podman rm --force --ignore "$container" >/dev/null
    podman rmi --force "$image" "$bare" >/dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'exit 1' INT TERM

say() { echo "trial: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

# Run a command; seconds of its wall time are in $took, its output in $work/log.
timed() {
    begin=$(date +%s)
    "$@" >"$work/log" 2>&1 || {
        tail -20 "$work/log" >&2
        fail "failed: $*"
    }
    took=$(($(date +%s) - begin))
}

# Root folders: a layer over the bare one for each trial ------------------------------------

# in_root NAME COMMAND: as root in the layer NAME; its mounts and processes end with it.
in_root() {
    mkdir -p "$work/$1/upper" "$work/$1/work" "$work/$1/root"
    unshare --mount --pid --fork sh -euc '
        mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
        mount -t proc proc "$2/root/proc"
        mount --rbind /dev "$2/root/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$2/root/dev/shm"
        exec chroot "$2/root" sh -euc "$3"' sh "$base" "$work/$1" "$2"
}

# as_visitor NAME COMMAND: as a user without rights.
as_visitor() {
    in_root "$1" "su - visitor -c '. ~/environment; export CI=1; $2'"
}

make_visitor() {
    in_root "$1" 'useradd -m -s /bin/sh visitor'
    env | grep '^PIP_' | sed "s/'/'\\\\''/g; s/^\([A-Z_]*\)=\(.*\)/export \1='\2'/" \
        >"$work/$1/upper/home/visitor/environment" || true
}

# Megabytes that a layer adds to the bare system, without the downloads of apt.
added() {
    du -sm --exclude=var/lib/apt --exclude=var/cache --exclude=home/visitor/.cache \
        "$work/$1/upper" | cut -f1
}

# Every file of the system but logs, caches, what apt and useradd keep of each change, and /etc/hosts,
# which netbase, a package that Python needs, makes and leaves.
files_of() {
    in_root "$1" 'find / -xdev \( -path /proc -o -path /dev -o -path /var/lib/apt -o \
        -path /var/lib/dpkg -o -path /var/cache -o -path /var/log -o -path /tmp -o \
        -path /home \) -prune -o -print; cat /etc/passwd /etc/group' |
        grep -v -e '^/etc/.*-$' -e '^/etc/\.pwd\.lock$' -e '^/etc/hosts$' | sort
}

# row NAME: a row of the table, from $installed, $size and the demo that just ran ($took, its log).
row() {
    utterances=$(grep -c ' utterance: ' "$work/log") || fail "$1: the demo found no utterance"
    rows="${rows}| $1 | $installed | $size | exit code 0, $utterances utterances, $took s |
"
    say "$1: installed in $installed s, $size MB"
}
rows=""

# The bare system and the packages -----------------------------------------------------------

deploy/make_root.sh "$suite" "$base"
tar -C "$base" --exclude=./made -c . | podman import --quiet - "$bare" >/dev/null
build() {
    podman build --quiet --format docker --build-arg "BASE=$bare" \
        --file deploy/container/Containerfile "$@" .
}
say "building container, Debian package and wheel: some minutes"
timed build --tag "$image"
built=$took
mkdir -p dist
timed build --target files --output type=local,dest=dist
say "built in $built s, the packages in $took s more:" dist/*
deb=$(ls -t dist/speech-emotion_*"+$suite"_*.deb | head -1)
wheel=$(ls -t dist/*.whl | head -1)

# The container ------------------------------------------------------------------------------

# Without a network, a writable disk, rights, or root.
hardened="--read-only --read-only-tmpfs=false --tmpfs /tmp --shm-size 64m --network none
    --cap-drop all --security-opt no-new-privileges"
bytes() { podman image inspect --format '{{.Size}}' "$1"; }
size=$((($(bytes "$image") - $(bytes "$bare")) / 1000000))
podman save --quiet --format docker-archive --output "$work/image.tar" "$image"
podman rmi --force "$image" >/dev/null
timed podman load --quiet --input "$work/image.tar"
installed=$took
rm "$work/image.tar"
# shellcheck disable=SC2086
{
    timed podman run --rm $hardened "$image" demo --speed max
    row container
    timed podman run --detach --name "$container" $hardened "$image" demo
}
timed podman exec "$container" speech-emotion health --wait 30
timed podman healthcheck run "$container"
[ "$(podman exec "$container" id -u)" = 10001 ] || fail "the container runs as another user"
! podman exec "$container" touch /opt/sep/x 2>/dev/null || fail "the container's disk is writable"
timed podman stop --time 40 "$container"
[ "$(podman wait "$container")" = 0 ] || fail "the container did not stop with exit code 0"
say "container: healthy, as user 10001, disk read-only, stopped in $took s"

# The Debian package -------------------------------------------------------------------------

make_visitor deb
files_of deb >"$work/before"
cp "$deb" "$work/deb/upper/speech-emotion.deb"
apt="DEBIAN_FRONTEND=noninteractive apt-get -y -qq --no-install-recommends"
timed in_root deb "apt-get update -qq && $apt install /speech-emotion.deb"
installed=$took
rm "$work/deb/upper/speech-emotion.deb"
size=$(added deb)
timed in_root deb "sep --version"
timed as_visitor deb "speech-emotion demo --speed max"
row .deb
timed in_root deb "$apt remove speech-emotion && test -e /etc/sep/sep.toml && test ! -e /opt/sep"
timed in_root deb "$apt purge speech-emotion && $apt autoremove --purge"
files_of deb >"$work/after"
diff "$work/before" "$work/after" >&2 || fail "the removed package left what stands above"
say ".deb: removed and purged, nothing left"

# pipx ---------------------------------------------------------------------------------------

make_visitor pipx
cp "$wheel" deploy/constraints.txt "$work/pipx/upper/home/visitor/"
timed in_root pipx "apt-get update -qq && $apt install pipx libportaudio2"
installed=$took
timed as_visitor pipx "pipx install --quiet --pip-args=\"-c constraints.txt\" \
    \"\$(echo ./*.whl)[dashboard,listen,mqtt]\""
installed=$((installed + took))
size=$(added pipx)
timed as_visitor pipx "~/.local/bin/speech-emotion demo --speed max"
row "pipx"
timed as_visitor pipx "pipx uninstall speech-emotion-pipeline"
! as_visitor pipx "ls ~/.local/bin/speech-emotion" >/dev/null 2>&1 ||
    fail "pipx uninstall left the command"

cat <<END_OF_TABLE
| $suite | installed in s | size in MB, with Python and its packages | demo |
|---|---|---|---|
$rows
END_OF_TABLE
