#!/bin/sh
# Installs Tidegate under /usr/local, beside its configuration in /etc/tidegate, which is kept if it is there; run again, it
# updates. `install.sh --uninstall` removes it, but neither the configuration nor what was stored.
# `--root DIR` works on the file system below DIR, of which nothing is started.
set -eu

usage() {
    echo "usage: install.sh [--root DIR] [--uninstall]" >&2
    exit 2
}
root= uninstall=
while [ $# -gt 0 ]; do
    case "$1" in
        --root)
            [ $# -ge 2 ] || usage
            root=${2%/}
            shift
            ;;
        --uninstall) uninstall=yes ;;
        *) usage ;;
    esac
    shift
done
here=$(cd "$(dirname "$0")" && pwd)
prefix=$root/usr/local
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    echo "install.sh: only root can: sudo $0" >&2
    exit 1
fi
# Whether systemd runs the machine that this is for.
if [ -z "$root" ] && [ -d /run/systemd/system ]; then live=yes; else live=; fi

tell_udev() {
    [ -z "$root" ] && [ -d /run/udev ] || return 0
    udevadm control --reload || true
    udevadm trigger --subsystem-match=gpio --subsystem-match=i2c-dev --subsystem-match=spidev --subsystem-match=tty || true
}

if [ -n "$uninstall" ]; then
    [ -z "$live" ] || systemctl disable --now tidegate.service || true
    (cd "$here/files" && find . -type f) | while read -r file; do rm -f "$prefix/$file"; done
    find "$prefix/share/doc/tidegate" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -z "$live" ] || systemctl daemon-reload
    tell_udev
    echo "left: /etc/tidegate and /var/lib/tidegate"
    exit 0
fi

# A running binary cannot be written to, but replaced.
(cd "$here/files" && find . -type f) | while read -r file; do
    mkdir -p "$(dirname "$prefix/$file")"
    cp "$here/files/$file" "$prefix/$file.new"
    mv "$prefix/$file.new" "$prefix/$file"
done
mkdir -p "$root/etc/tidegate"
new=
if [ ! -e "$root/etc/tidegate/tidegate.jsonc" ]; then
    new=yes
    cp "$here/tidegate.jsonc" "$root/etc/tidegate/tidegate.jsonc"
fi

if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers ${root:+--root="$root"} "$prefix/lib/sysusers.d/tidegate.conf"
fi
tell_udev
if [ -n "$live" ]; then
    systemctl daemon-reload
    if systemctl --quiet is-active tidegate.service; then
        if "$prefix/bin/tidegate" check /etc/tidegate/tidegate.jsonc; then
            systemctl restart tidegate.service
        else
            echo "install.sh: the configuration is wrong for this version; the old one runs on until it is restarted" >&2
        fi
    fi
fi
if [ -n "$new" ]; then
    echo "change /etc/tidegate/tidegate.jsonc, then: systemctl enable --now tidegate"
fi
