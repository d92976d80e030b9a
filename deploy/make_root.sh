#!/bin/sh
# Make a root folder with a bare Debian or Ubuntu and some packages; one that is complete stays.
# Usage: deploy/make_root.sh SUITE FOLDER [PACKAGE...]
#   SUITE    bookworm (Debian 12), trixie (Debian 13), forky (Debian 14) or noble (Ubuntu 24.04)
# Must run as root, on a machine with debootstrap and network. MIRROR names another mirror.
# The name servers and certificates of this machine are copied into it, each time.
set -eu
suite=${1:-}
case $suite in
    bookworm | trixie | forky)
        mirror=${MIRROR:-http://deb.debian.org/debian}
        components=main
        similar=sid
        ;;
    noble) # needs ubuntu-keyring
        mirror=${MIRROR:-http://archive.ubuntu.com/ubuntu}
        components=main,universe
        similar=jammy
        ;;
    *)
        echo "make_root: usage: deploy/make_root.sh bookworm|trixie|forky|noble FOLDER [PACKAGE...]" >&2
        exit 2
        ;;
esac
if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
    echo "make_root: must run as root, with debootstrap; try: sudo apt-get install debootstrap" >&2
    exit 2
fi
root=${2:?make_root: FOLDER is missing}
shift 2
if [ ! -e "$root/made" ]; then
    echo "make_root: making $root from $mirror"
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    # An older debootstrap does not know a newer release: all of a distribution have the same script.
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/$similar
    debootstrap --variant=minbase --components="$components" "$suite" "$root" "$mirror" \
        "$script" >/dev/null
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    # A mirror of a release in the making may be some weeks old.
    echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/90mirror"
    chroot "$root" sh -c "apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends ca-certificates $*" >/dev/null
    touch "$root/made"
fi
cp /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] ||
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
