#!/bin/sh
# Fetch models of furniture for training scenes: Debian's package sweethome3d-furniture, 120 MB.
#
#     scripts/fetch_furniture.sh [FOLDER]
#
# FOLDER (out/furniture) then holds the .sh3f libraries and who made them under which licences.
# apt checks the package against Debian's signatures; nothing is installed, so root is needed only
# where the lists of packages have never been fetched. A second run returns at once.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-out/furniture}
package=sweethome3d-furniture

fail() { printf 'fetch_furniture: %s\n' "$1" >&2; exit 1; }

[ -f "$folder/copyright" ] && exit 0
for tool in apt-get apt-cache dpkg-deb; do
    command -v "$tool" >/dev/null || fail "$tool not found, this needs Debian or Ubuntu; \
elsewhere unpack the package $package of Debian into $folder (the .sh3f files and copyright)"
done
if ! apt-cache show "$package" >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || fail "apt does not know $package; run: sudo apt-get update"
    apt-get update -qq || fail 'apt-get update failed; is there a network?'
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$scratch" && apt-get download -qq "$package") ||
    fail "apt-get download $package failed; is there a network, and Debian's main or universe?"
dpkg-deb -x "$scratch/$package"_*.deb "$scratch/unpacked"
mv "$scratch/unpacked/usr/share/sweethome3d/furniture/"*.sh3f "$folder"
mv "$scratch/unpacked/usr/share/doc/$package/copyright" "$folder"  # last: it says all is there
