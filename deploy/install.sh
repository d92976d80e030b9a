#!/bin/sh
# Installs the pipeline as a service: code in /opt/sep, configuration in /etc/sep, user `sep`.
# Run it again to update; it does not change the configuration. Must run as root.
# Usage: deploy/install.sh [--no-start] [--no-packages]
#   --no-start     install files only, do not start the service
#   --no-packages  do not make /opt/sep/.venv
# DESTDIR=/some/root: install into a folder, for an image; make no user and start nothing.
set -eu
umask 022
cd "$(dirname "$0")/.."
root=${DESTDIR:-}
start=yes
packages=yes
for word in "$@"; do
    case $word in
        --no-start) start=no ;;
        --no-packages) packages=no ;;
        *)
            echo "install: $word is not known; allowed: --no-start --no-packages" >&2
            exit 2
            ;;
    esac
done
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    echo "install: must run as root; try: sudo deploy/install.sh" >&2
    exit 2
fi

home=$root/opt/sep
etc=$root/etc/sep
mkdir -p "$home" "$etc/keys/allowed" "$root/etc/systemd/system" "$root/usr/local/bin"

if [ "$(pwd -P)" != "$(cd "$home" && pwd -P)" ]; then
    for item in supervisor.py speech_emotion supervision alerts capture common features infer dashboard fleet \
        train models deploy docs examples pyproject.toml README.md LICENSE; do
        rm -rf "${home:?}/$item"
        # Not `cp -R`: it fails where a program that runs from here writes into __pycache__ meanwhile.
        [ ! -e "$item" ] || find "$item" -name __pycache__ -prune -o ! -type d \
            -exec cp -P --parents -t "$home" {} +
    done
fi

for unit in deploy/*.service; do
    install -m 644 "$unit" "$root/etc/systemd/system/"
done
install -m 755 deploy/sep.sh "$root/usr/local/bin/sep"
[ -e "$etc/sep.toml" ] || install -m 644 deploy/sep.toml "$etc/sep.toml"

if [ -z "$root" ]; then
    getent group audio >/dev/null || groupadd --system audio
    id sep >/dev/null 2>&1 || useradd --system --user-group --groups audio \
        --no-create-home --home-dir /run/sep --shell /usr/sbin/nologin sep
    # Only the service may read its secrets.
    chown -R sep:sep "$etc/keys"
fi
chmod 700 "$etc/keys"

[ "$packages" = no ] || (cd "$home" && deploy/setup.sh run)

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if [ "$start" = yes ]; then
        systemctl enable --quiet sep
        systemctl restart sep
    fi
fi
echo "install: code in $home, configuration in $etc/sep.toml"
echo "install: next: sep doctor; systemctl status sep; journalctl -u sep"
