"""Answers and images between processes, with the transports that our launch files set."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from node_process import ROOT
import pytest

from sharp_ros.process import TRANSPORTS, TRANSPORTS_FOR_IMAGES

pytestmark = pytest.mark.ros

BENCH = ROOT / 'bench' / 'answers.py'
OURS = TRANSPORTS_FOR_IMAGES
IMAGES = 60
_CAMERA = f"""
import array, time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node('camera')
qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
publisher = node.create_publisher(Image, 'big_image', qos)
data = array.array('B', bytes(640 * 480 * 3))
image = Image(height=480, width=640, step=1920, encoding='rgb8', data=data)
while not publisher.get_subscription_count():
    time.sleep(0.05)
time.sleep(0.5)
for _ in range({IMAGES}):
    publisher.publish(image)
    time.sleep(1 / 30)
time.sleep(0.5)
"""
_LISTENER = f"""
import time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node('listener')
arrived = []
qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
node.create_subscription(Image, 'big_image', arrived.append, qos, raw=True)
end = time.monotonic() + 30
while len(arrived) < {IMAGES} and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.5)
    if arrived:
        end = min(end, time.monotonic() + 5)
print(len(arrived))
"""


@pytest.fixture(autouse=True)
def transports(monkeypatch):
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    monkeypatch.setenv(TRANSPORTS, OURS)
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    monkeypatch.setenv('PYTHONPATH', path)


@pytest.mark.parametrize('clients', [OURS, 'DEFAULT'], ids=['alike', 'of_another_terminal'])
def test_every_service_answers_fresh_processes_while_clouds_flow(tmp_path, clients):
    file = tmp_path / 'answers.json'
    command = [sys.executable, str(BENCH), '--calls', '2', '--client-transports', clients]
    done = subprocess.run(
        [*command, '--json', str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report['total'] == {'calls': 12, 'answered': 12, 'not_found': 0}
    assert all(rate > 0 for rate in report['rates_hz'].values()), report['rates_hz']


def test_big_best_effort_images_arrive():
    with subprocess.Popen([sys.executable, '-c', _LISTENER], stdout=subprocess.PIPE) as listener:
        subprocess.run([sys.executable, '-c', _CAMERA], timeout=120, check=True)
        arrived = int(listener.communicate(timeout=60)[0])
    assert arrived >= 0.8 * IMAGES  # 1 or 2 with the transports that are the default of Fast DDS
