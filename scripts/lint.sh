#!/bin/sh
# ruff, pyright, vulture, the linters of ament, hadolint; .flake8 and pyproject.toml say what is asked.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

quietly() {
    output=$("$@" 2>&1) || { printf '%s\n' "$output" >&2; exit 1; }
    printf '%s: clean\n' "$1"
}

ruff check .
ruff format --check .
quietly pyright
quietly vulture
quietly ament_flake8 --config .flake8 setup.py sharp_ros launch examples bench test
# google: the summary stands on the first line; D1: who is documented is for ruff to say
quietly ament_pep257 --convention google \
    --add-ignore D100 D101 D102 D103 D104 D105 D106 D107 -- \
    setup.py sharp_ros launch examples bench
quietly hadolint docker/Dockerfile.*
