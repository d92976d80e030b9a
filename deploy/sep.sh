#!/bin/sh
# sep COMMAND ...: run speech-emotion COMMAND as the service's user.
set -eu
[ $# -gt 0 ] || set -- --help
if [ "$1" = doctor ]; then
    set -- "$@" --config /etc/sep/sep.toml
fi
cd /opt/sep
set -- env XDG_RUNTIME_DIR=/run/sep HOME=/run/sep PYTHONDONTWRITEBYTECODE=1 \
    STATE_DIRECTORY=/var/lib/sep .venv/bin/python -m speech_emotion "$@"
case $(id -un) in
    sep) exec "$@" ;;
    root) exec setpriv --reuid sep --regid sep --init-groups "$@" ;;
    *) exec sudo -u sep "$@" ;;
esac
