#!/bin/sh
# rclpy 9.1.2 (Kilted): parameter_dict_from_yaml_file without target nodes refuses every file that
# names its nodes.
#
# The docstring says "Will load all parameters if target_nodes is None or empty", and in rclpy of
# December 2024 it did; tools written for that, such as `ros2 param load` of then, call it so. Here
# a file as `ros2 param dump` writes it raises RuntimeError('Param file does not contain any valid
# parameters'), with the wildcard on or off; the same file loads when its node is named. A file with
# `/**` alone loads without a name if the wildcard is on. So a good guess, that leaving out the
# filter leaves out the filtering, is wrong, and the text blames the file.
#
# Ends with 0 while this is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check \
    ros-rclpy==9.1.2 ros-rmw-fastrtps-cpp==9.3.3
cat > "$folder/load.py" <<'PYTHON'
from pathlib import Path
import sys

from rclpy.parameter import parameter_dict_from_yaml_file as load

dumped, wildcard = Path(sys.argv[1]) / 'dumped.yaml', Path(sys.argv[1]) / 'wildcard.yaml'
dumped.write_text('/talker:\n  ros__parameters:\n    rate: 5.0\n')
wildcard.write_text('/**:\n  ros__parameters:\n    rate: 5.0\n')


def outcome(file, **how):
    try:
        return sorted(load(str(file), **how))
    except RuntimeError as error:
        return str(error)


REFUSED = 'Param file does not contain any valid parameters'
expected = {
    'dumped, all nodes': (outcome(dumped), REFUSED),
    'dumped, all nodes, wildcard': (outcome(dumped, use_wildcard=True), REFUSED),
    'dumped, its node': (outcome(dumped, target_nodes=['/talker']), ['rate']),
    'wildcard, all nodes': (outcome(wildcard), REFUSED),
    'wildcard, all nodes, wildcard': (outcome(wildcard, use_wildcard=True), ['rate']),
}
for name, (seen, _) in expected.items():
    print(f'{name}: {seen}')
sys.exit(any(seen != as_noted for seen, as_noted in expected.values()))
PYTHON
AMENT_PREFIX_PATH="$folder/venv" "$folder/venv/bin/python" "$folder/load.py" "$folder"
