#!/bin/bash
# Build and test the package the way a ROS workspace does, in a workspace of its own.
set -e  # not -u: the set-up scripts that colcon writes read unset variables
cd "$(dirname "$0")/.."
. scripts/env.sh
workspace=${WORKSPACE:-build/colcon_ws}
mkdir -p "$workspace"
cd "$workspace"
colcon --log-base log build --base-paths "$root" --packages-select sharp_ros
. install/local_setup.bash
test -f install/sharp_ros/share/sharp_ros/launch/sharp.launch.py
timeout --preserve-status -s INT 20 install/sharp_ros/lib/sharp_ros/sharp_node  # ends cleanly
python -c '
from sharp_ros.models import WEIGHTS_FOLDER
assert "install" in WEIGHTS_FOLDER.parts, f"not the installed package: {WEIGHTS_FOLDER}"
assert (WEIGHTS_FOLDER / "nano.safetensors").is_file(), "weights were not installed"'
colcon --log-base log test --base-paths "$root" --packages-select sharp_ros \
    --pytest-args test/test_architecture.py test/test_config.py test/ros/test_node.py \
    test/ros/test_launch_real.py
# it, too, fails if a test did, and it alone names the test and says why
result=$(colcon test-result --verbose) || { echo "$result"; exit 1; }
echo "$result"
[[ $result != *' 0 tests'* ]]  # a runner that finds no test must not pass for success
