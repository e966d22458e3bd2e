#!/bin/sh
# Make .venv with everything the demo and the tests need; a second run returns at once.
# usage: scripts/setup.sh [--test]
set -eu
cd "$(dirname "$0")/.."

fail() { printf 'setup: %s\n' "$1" >&2; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python not found: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' ||
    fail "$("$python" --version) is not supported: set PYTHON to a Python 3.10, 3.11 or 3.12"

stamp=.venv/.installed
want=$(cat requirements/*.txt setup.py scripts/setup.sh | cksum; "$python" --version)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && have_packages=1 || have_packages=0

# Shared libraries that wheels expect from the system: "library package".
missing=
while read -r library package; do
    "$python" -c "import ctypes; ctypes.CDLL('$library')" 2>/dev/null || missing="$missing $package"
done <<LIST
libusb-1.0.so.0 libusb-1.0-0
libGL.so.1 libgl1
libEGL.so.1 libegl1
libX11.so.6 libx11-6
libgomp.so.1 libgomp1
LIST
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        fail "system packages are missing; run: sudo apt-get install$missing"
    echo "setup: installing system packages:$missing"
    # shellcheck disable=SC2086
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends $missing; } >/dev/null || fail "apt-get install$missing failed"
fi
# Wanted by the tests alone: the real cv_bridge as a witness for our decoder, a browser for pages.
for package in python3-cv-bridge chromium; do
    if [ "${1:-}" = --test ] && [ "$(id -u)" = 0 ] && [ ! -d "/usr/share/doc/$package" ] &&
        command -v apt-get >/dev/null; then
        echo "setup: installing $package for the tests"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            --no-install-recommends "$package"; } >/dev/null ||
            echo "setup: $package is not available; its tests will be reported skipped" >&2
    fi
done

[ "$have_packages" = 1 ] && exit 0
echo 'setup: making .venv (some minutes on the first run)'
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install -qq --disable-pip-version-check \
    -r requirements/core.txt -r requirements/ros.txt -r requirements/dev.txt \
    -r requirements/train.txt || fail 'pip install failed; see above'
.venv/bin/python -m pip install -qq --disable-pip-version-check \
    --no-deps --no-build-isolation --editable . || fail 'installing sharp_ros failed; see above'
printf '%s\n' "$want" > "$stamp"
