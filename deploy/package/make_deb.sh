#!/bin/sh
# Make the Debian package from /opt/sep; runs in the stage `deb` of the Containerfile.
# Usage: make_deb.sh FOLDER
#   FOLDER   where the package goes
set -eu
umask 022
out=$(realpath "$1")
cd "$(dirname "$0")/.."
tree=$(mktemp -d)
chmod 755 "$tree"

version=$(/opt/sep/.venv/bin/speech-emotion --version | cut -d' ' -f2)
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
python=$(python3 -c 'import sys; print(sys.version_info[1])')
architecture=$(dpkg --print-architecture)

install -d "$tree/opt" "$tree/usr/bin" "$tree/etc/sep" "$tree/usr/lib/systemd/system" \
    "$tree/usr/share/doc/speech-emotion" "$tree/DEBIAN"
cp -a /opt/sep "$tree/opt/sep"
cp -R ../docs "$tree/opt/sep/docs"
ln -s /opt/sep/.venv/bin/speech-emotion "$tree/usr/bin/speech-emotion"
install -m 755 sep.sh "$tree/usr/bin/sep"
install -m 644 sep.toml "$tree/etc/sep/sep.toml"
install -m 644 ./*.service "$tree/usr/lib/systemd/system"
{
    cat ../LICENSE
    for weights in /opt/sep/models/*/LICENSE; do
        printf '\nThe weights in %s:\n' "$(dirname "$weights")"
        cat "$weights"
    done
} >"$tree/usr/share/doc/speech-emotion/copyright"

install -m 755 package/debian/* "$tree/DEBIAN"
echo /etc/sep/sep.toml >"$tree/DEBIAN/conffiles"
# The virtual environment holds packages for one version of Python.
cat >"$tree/DEBIAN/control" <<CONTROL
Package: speech-emotion
Version: $version+$suite
Architecture: $architecture
Maintainer: The authors of speech-emotion-pipeline <speech-emotion@localhost>
Installed-Size: $(du -sk "$tree" | cut -f1)
Depends: python3 (>= 3.$python), python3 (<< 3.$((python + 1))), libportaudio2, passwd
Recommends: ffmpeg
Suggests: pulseaudio-utils, libasound2-plugins, pipewire-bin
Section: sound
Priority: optional
Description: real-time speech emotion on a small box with a microphone
 Publishes twice a second which emotion the voice in the room carries, how sure
 the model is, and when it is not sure; with a live page on this machine.
 .
 The service does not start by itself: systemctl enable --now sep
CONTROL
dpkg-deb --root-owner-group -Zzstd --build "$tree" "$out" >/dev/null
rm -rf "$tree"
