#!/bin/sh
# Remove what deploy/install.sh has installed. Configuration and keys stay, unless --purge is given.
# Usage: deploy/uninstall.sh [--purge]; as root; DESTDIR as in install.sh.
set -eu
root=${DESTDIR:-}
purge=no
for word in "$@"; do
    case $word in
        --purge) purge=yes ;;
        *)
            echo "uninstall: $word is not known; allowed: --purge" >&2
            exit 2
            ;;
    esac
done
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    echo "uninstall: must run as root; try: sudo deploy/uninstall.sh" >&2
    exit 2
fi
cd /

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    for unit in sep.service 'sep-infer@*.service'; do
        systemctl disable --now --quiet "$unit" 2>/dev/null || true
    done
fi
rm -f "$root/etc/systemd/system/sep.service" "$root/etc/systemd/system/sep-infer@.service" \
    "$root/usr/local/bin/sep"
rm -rf "${root}/opt/sep"
if [ "$purge" = yes ]; then
    rm -rf "${root}/etc/sep" "${root}/var/lib/sep"
fi
if [ -z "$root" ]; then
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    # The user stays while its keys stay: another user must not get its number.
    if [ "$purge" = yes ] && id sep >/dev/null 2>&1; then
        userdel sep
    fi
fi
[ "$purge" = yes ] || echo "uninstall: /etc/sep and /var/lib/sep stay; --purge removes them, too"
