#!/bin/sh
# A service of a process with LARGE_DATA transports is never found from one with the default ones.
#
# ros-rclpy 9.1.2, ros-rmw-fastrtps-cpp 9.3.3 (Fast DDS 3.2.2), CPython 3.11, x86-64.
#
# A good guess: FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA adds TCP for what is big and keeps UDP and
# shared memory, so a terminal without the variable still talks to a node that a launch file
# started with it. In truth only the discovery of participants goes by UDP; that of their topics and
# services goes by TCP alone. No error is told on either side; `ros2 service call` waits for ever.
# Seen, three clients each, seconds until the service was ready:
#     server LARGE_DATA                client DEFAULT    never, within 8 s
#     server DEFAULT?sockets_size=8MB  client DEFAULT    0.0 to 2.5
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq ros-rclpy==9.1.2 ros-rmw-fastrtps-cpp==9.3.3 ros-std-srvs==5.5.1
cat > "$folder/server.py" <<'PYTHON'
import rclpy
from std_srvs.srv import Trigger

rclpy.init()
node = rclpy.create_node('server')
node.create_service(Trigger, 'ask', lambda request, response: response)
rclpy.spin(node)
PYTHON
cat > "$folder/client.py" <<'PYTHON'
import os
import time

import rclpy
from std_srvs.srv import Trigger

rclpy.init()
node = rclpy.create_node('client')
client = node.create_client(Trigger, 'ask')
begun = time.monotonic()
found = client.wait_for_service(8.0)
print(f'{time.monotonic() - begun:.1f}' if found else 'never', flush=True)
node.destroy_node()
rclpy.try_shutdown()
os._exit(0)
PYTHON
export AMENT_PREFIX_PATH="$folder/venv" ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-76}"
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET
python="$folder/venv/bin/python"
never() {
    FASTDDS_BUILTIN_TRANSPORTS="$1" "$python" "$folder/server.py" &
    server=$!
    sleep 3
    for _ in 1 2 3; do
        FASTDDS_BUILTIN_TRANSPORTS=DEFAULT "$python" "$folder/client.py"
    done > "$folder/seen"
    kill -9 "$server"
    wait "$server" 2> /dev/null || true
    server=
    echo "server $1, client DEFAULT: $(tr '\n' ' ' < "$folder/seen")"
    [ "$(grep -c never "$folder/seen")" -eq "$2" ]
}
never LARGE_DATA 3
never 'DEFAULT?sockets_size=8MB' 0
