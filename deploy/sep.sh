#!/bin/sh
# sep COMMAND ...: run doctor, swap or keygen as the service's user.
set -eu
[ $# -gt 0 ] || set -- --help
if [ "$1" = doctor ]; then
    set -- "$@" --config /etc/sep/sep.toml
fi
cd /opt/sep
set -- env XDG_RUNTIME_DIR=/run/sep HOME=/run/sep PYTHONDONTWRITEBYTECODE=1 \
    .venv/bin/python supervisor.py "$@"
case $(id -un) in
    sep) exec "$@" ;;
    root) exec setpriv --reuid sep --regid sep --init-groups "$@" ;;
    *) exec sudo -u sep "$@" ;;
esac
