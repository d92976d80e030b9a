#!/bin/sh
# Run `make demo` in a fresh Debian or Ubuntu, as a user without rights, in a path with a space.
# Usage: deploy/bare_root.sh SUITE [COMMAND]
#   SUITE    bookworm (Debian 12), trixie (Debian 13), forky (Debian 14) or noble (Ubuntu 24.04)
#   COMMAND  what the user runs in the checkout; default: make demo
# Must run as root, on a machine with debootstrap and network. The root folder stays in
# ${ROOTS:-/var/tmp/bare-roots}/SUITE and is used again; the user and the checkout are new each time.
# PIP_* variables and the certificates of this machine are passed on.
set -eu
cd "$(dirname "$0")/.."
suite=${1:?bare_root: usage: deploy/bare_root.sh bookworm|trixie|forky|noble [COMMAND]}
command=${2:-make demo}
root=${ROOTS:-/var/tmp/bare-roots}/$suite

# What README names for an administrator, and nothing else.
packages="git make python3-venv libportaudio2"
# shellcheck disable=SC2086
deploy/make_root.sh "$suite" "$root" $packages

chroot "$root" sh -c 'userdel -rf visitor 2>/dev/null; useradd -m -s /bin/sh visitor'
home="$root/home/visitor"
mkdir -p "$home/a folder"
git bundle create -q "$home/checkout.bundle" HEAD
env | grep '^PIP_' | sed "s/'/'\\\\''/g; s/^\([A-Z_]*\)=\(.*\)/export \1='\2'/" >"$home/environment" || true
cat >"$home/visit.sh" <<END
set -eu
. ~/environment
export CI=1
cd ~/a\ folder
git -c init.defaultBranch=main -c advice.detachedHead=false clone -q ~/checkout.bundle \\
    speech-emotion-pipeline
cd speech-emotion-pipeline
python3 --version
begin=\$(date +%s)
$command
echo "bare_root: $suite: $command: \$((\$(date +%s) - begin)) s"
END
chroot "$root" chown -R visitor /home/visitor
# Mounts and processes of this namespace end with it.
exec unshare --mount --pid --fork sh -eu -c '
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
    exec chroot "$1" su - visitor -c "sh visit.sh"' sh "$root"
