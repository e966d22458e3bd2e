#!/bin/sh
# ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST makes rmw_fastrtps ignore FASTDDS_BUILTIN_TRANSPORTS.
#
# ros-rclpy 9.1.2, ros-rmw-fastrtps-cpp 9.3.3 (Fast DDS 3.2.2), CPython 3.11, x86-64.
#
# A good guess: the two variables are about different things, who is looked for and how to send, so
# a setting that brings big images through does so on one machine above all. In truth the range
# LOCALHOST replaces all transports by its own: shared memory of 512 KB, and UDP, without a word.
# Seen, of 60 best-effort images of 0.9 MB at 30 Hz from one process to another, both variables the
# same in both processes:
#     SUBNET     DEFAULT?sockets_size=8MB   60
#     LOCALHOST  DEFAULT?sockets_size=8MB    1
#     SUBNET     LARGE_DATA                 60
#     LOCALHOST  LARGE_DATA                  1
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq ros-rclpy==9.1.2 ros-rmw-fastrtps-cpp==9.3.3 \
    ros-sensor-msgs==5.5.1
cat > "$folder/images.py" <<'PYTHON'
import array
import os
import sys
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
rclpy.init()
node = rclpy.create_node(sys.argv[1])
if sys.argv[1] == 'sends':
    publisher = node.create_publisher(Image, 'images', qos)
    image = Image(height=480, width=640, step=1920, encoding='rgb8')
    image.data = array.array('B', bytes(921600))
    end = time.monotonic() + 30
    while not publisher.get_subscription_count() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)
    for _ in range(60):
        publisher.publish(image)
        time.sleep(1 / 30)
    time.sleep(1)
else:
    arrived = []
    node.create_subscription(Image, 'images', arrived.append, qos, raw=True)
    end = time.monotonic() + 14
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.2)
    print(len(arrived), flush=True)
os._exit(0)
PYTHON
export AMENT_PREFIX_PATH="$folder/venv" ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-76}"
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp
python="$folder/venv/bin/python"
count() {
    export ROS_AUTOMATIC_DISCOVERY_RANGE="$1" FASTDDS_BUILTIN_TRANSPORTS="$2"
    "$python" "$folder/images.py" listens > "$folder/count" &
    "$python" "$folder/images.py" sends
    wait
    printf '%-10s %-26s %s of 60\n' "$1" "$2" "$(cat "$folder/count")"
}
result=0
for transports in 'DEFAULT?sockets_size=8MB' LARGE_DATA; do
    count SUBNET "$transports"
    [ "$(cat "$folder/count")" -ge 40 ] || result=1
    count LOCALHOST "$transports"
    [ "$(cat "$folder/count")" -le 20 ] || result=1
done
exit $result
