#!/bin/sh
# Importing openvino makes an identifier of the user in the home folder, before anything was asked.
#
# openvino 2026.4.1 with openvino-telemetry 2025.2.0, CPython 3.11, x86-64.
#
# A good guess: an import reads files and defines names; a package that counts its users has them
# agree first, and does so in its tools, not in the library that a robot loads. In truth the line
# `import openvino` itself asks the telemetry package to send an event, and that writes a random
# identifier and a file of its state below ~/intel, also where no model is ever loaded. With the
# telemetry package out of sight the library works the same and writes nothing.
# Seen, in an empty home folder: two files below ~/intel; none if `openvino_telemetry` cannot be
# imported, and a network compiles all the same.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq openvino==2026.4.1 openvino-telemetry==2025.2.0
python="$folder/venv/bin/python"
mkdir "$folder/plain" "$folder/hidden"

HOME="$folder/plain" "$python" -c 'import openvino'
HOME="$folder/hidden" "$python" - <<'PYTHON'
import sys

sys.modules['openvino_telemetry'] = None
import numpy as np
import openvino as ov
from openvino import opset13 as ops

x = ops.parameter([2], ov.Type.f32)
network = ov.compile_model(ov.Model([ops.add(x, x)], [x]), 'CPU')
assert list(network([np.array([1, 2], np.float32)])[0]) == [2, 4]
PYTHON

plain=$(find "$folder/plain" -type f | wc -l)
hidden=$(find "$folder/hidden" -type f | wc -l)
find "$folder/plain" -type f | sed "s|$folder/plain|~|"
echo "files after the import: $plain; with the telemetry package hidden: $hidden"
[ "$plain" -ge 1 ] && [ "$hidden" -eq 0 ]
