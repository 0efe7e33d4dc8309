#!/usr/bin/env bash
# Put the client programs of the tests under .test-tools/, without touching the machine:
# PyPI's in virtual environments of their own, Debian's unpacked. What cannot be had is
# told; its tests are skipped with that reason.
set -u
cd "$(dirname "$0")/../.."
tools=$PWD/.test-tools
mkdir -p "$tools/bin" "$tools/debian"
python=$(command -v "${PYTHON:-python3}")

pypi() { # name, requirement ..., then "--", program (or "-")
    local name=$1; shift
    local requirements=()
    while [ "$1" != "--" ]; do requirements+=("$1"); shift; done
    local program=$2
    [ -e "$tools/$name/.done" ] && return
    "$python" -m venv "$tools/$name" &&
        "$tools/$name/bin/python" -m pip install --quiet --disable-pip-version-check \
            "${requirements[@]}" &&
        touch "$tools/$name/.done" || { echo "clients: $name could not be installed"; return; }
    [ "$program" = - ] || ln -sf "../$name/bin/$program" "$tools/bin/$program"
}

debian() { # package, program
    [ -x "$tools/bin/$2" ] && return
    command -v "$2" >/dev/null && { ln -sf "$(command -v "$2")" "$tools/bin/$2"; return; }
    command -v apt-get >/dev/null || { echo "clients: no apt-get for $1"; return; }
    (
        cd "$tools/debian" || exit 1
        apt-get download -qq "$1" 2>/dev/null || {
            [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq "$1"
        }
        dpkg-deb -x "$1"_*.deb "$tools/debian/root"
    ) && ln -sf "../debian/root/usr/bin/$2" "$tools/bin/$2" ||
        echo "clients: $1 could not be installed"
}

pypi awscli 'awscli==1.46.3' -- aws
pypi boto3-1.35 'boto3==1.35.99' -- -
pypi s3cmd 's3cmd==2.4.0' setuptools -- s3cmd
pypi minio 'minio==7.2.20' -- -
debian rclone rclone
debian restic restic
exit 0
