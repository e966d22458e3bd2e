# Source me: the virtual environment as a ROS prefix, and transports fit for images.
root=$(cd "$(dirname "${BASH_SOURCE:-$0}")/.." && pwd)
PATH="$root/.venv/bin:$PATH"
VIRTUAL_ENV="$root/.venv"
if [ -z "${ROS_DISTRO:-}" ]; then
    AMENT_PREFIX_PATH="$VIRTUAL_ENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"
    ROS_DISTRO=kilted
fi
# Fast DDS drops big best-effort messages over its default transports.
: "${FASTDDS_BUILTIN_TRANSPORTS:=LARGE_DATA}"
export PATH VIRTUAL_ENV AMENT_PREFIX_PATH ROS_DISTRO FASTDDS_BUILTIN_TRANSPORTS
