# Source me: the virtual environment as a ROS prefix, and transports fit for images.
root=$(cd "$(dirname "${BASH_SOURCE:-$0}")/.." && pwd)
PATH="$root/.venv/bin:$PATH"
VIRTUAL_ENV="$root/.venv"
if [ -z "${ROS_DISTRO:-}" ]; then
    AMENT_PREFIX_PATH="$VIRTUAL_ENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"
    ROS_DISTRO=kilted
fi
# Fast DDS drops big best-effort messages in the shared memory it sets aside by itself, 512 KB.
: "${FASTDDS_BUILTIN_TRANSPORTS:=DEFAULT?sockets_size=8MB}"
export PATH VIRTUAL_ENV AMENT_PREFIX_PATH ROS_DISTRO FASTDDS_BUILTIN_TRANSPORTS
