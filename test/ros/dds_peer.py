"""A participant of another vendor (Cyclone DDS), without ROS: hears topics, may play a camera.

`python dds_peer.py FILE [--camera] TOPIC...` ends when every topic was heard and leaves in FILE a
pickle of {topic: message as nested dicts}, the newest of each. Discovery is by unicast on the
loopback interface, so that it works where there is no multicast.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
import os
from pathlib import Path
import pickle
import sys
import time

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import make_idl_struct
from cyclonedds.idl.types import array, float32, float64, int8, int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration
import numpy as np

PATIENCE = 30.0  # seconds
# 1.15 is the vendor id of Fast DDS: Cyclone DDS 11 takes its descriptions of types for invalid
# and would not match; types are compared by name then, as ROS does.
CONFIG = """
<CycloneDDS><Domain>
  <General>
    <Interfaces><NetworkInterface name="lo"/></Interfaces>
    <AllowMulticast>false</AllowMulticast>
  </General>
  <Discovery>
    <ParticipantIndex>auto</ParticipantIndex>
    <MaxAutoParticipantIndex>31</MaxAutoParticipantIndex>
    <Peers><Peer address="127.0.0.1"/></Peers>
  </Discovery>
  <Compatibility><IgnoreTypeInformation>1.15</IgnoreTypeInformation></Compatibility>
</Domain></CycloneDDS>
"""


def message(package, name, /, **members):
    """The type of a message, named as ROS names it on the wire."""
    return make_idl_struct(f'{name}_', f'{package}::msg::dds_::{name}_', members)


# Member by member from the published .msg files.
Time = message('builtin_interfaces', 'Time', sec=int32, nanosec=uint32)
Header = message('std_msgs', 'Header', stamp=Time, frame_id=str)
Image = message(
    'sensor_msgs', 'Image',
    header=Header, height=uint32, width=uint32, encoding=str, is_bigendian=uint8, step=uint32,
    data=sequence[uint8],
)  # fmt: skip
Roi = message(
    'sensor_msgs', 'RegionOfInterest',
    x_offset=uint32, y_offset=uint32, height=uint32, width=uint32, do_rectify=bool,
)  # fmt: skip
CameraInfo = message(
    'sensor_msgs', 'CameraInfo',
    header=Header, height=uint32, width=uint32, distortion_model=str, d=sequence[float64],
    k=array[float64, 9], r=array[float64, 9], p=array[float64, 12], binning_x=uint32,
    binning_y=uint32, roi=Roi,
)  # fmt: skip
PointField = message(
    'sensor_msgs', 'PointField', name=str, offset=uint32, datatype=uint8, count=uint32
)
PointCloud2 = message(
    'sensor_msgs', 'PointCloud2',
    header=Header, height=uint32, width=uint32, fields=sequence[PointField], is_bigendian=bool,
    point_step=uint32, row_step=uint32, data=sequence[uint8], is_dense=bool,
)  # fmt: skip
Point = message('geometry_msgs', 'Point', x=float64, y=float64, z=float64)
Vector3 = message('geometry_msgs', 'Vector3', x=float64, y=float64, z=float64)
Quaternion = message('geometry_msgs', 'Quaternion', x=float64, y=float64, z=float64, w=float64)
Pose = message('geometry_msgs', 'Pose', position=Point, orientation=Quaternion)
Twist = message('geometry_msgs', 'Twist', linear=Vector3, angular=Vector3)
PoseWithCovariance = message(
    'geometry_msgs', 'PoseWithCovariance', pose=Pose, covariance=array[float64, 36]
)
TwistWithCovariance = message(
    'geometry_msgs', 'TwistWithCovariance', twist=Twist, covariance=array[float64, 36]
)
Odometry = message(
    'nav_msgs', 'Odometry',
    header=Header, child_frame_id=str, pose=PoseWithCovariance, twist=TwistWithCovariance,
)  # fmt: skip
MapMetaData = message(
    'nav_msgs', 'MapMetaData',
    map_load_time=Time, resolution=float32, width=uint32, height=uint32, origin=Pose,
)  # fmt: skip
OccupancyGrid = message(
    'nav_msgs', 'OccupancyGrid', header=Header, info=MapMetaData, data=sequence[int8]
)

KEPT = '/sharp/occupancy_grid'
TOPICS = {
    '/sharp/points': PointCloud2,
    '/sharp/depth/image': Image,
    '/sharp/depth/camera_info': CameraInfo,
    '/sharp/odometry': Odometry,
    KEPT: OccupancyGrid,
}
FOCAL_LENGTH, SIZE = 100.0, (96, 72)  # of the camera played
PICTURE = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
PICTURE = PICTURE.repeat(12, 0).repeat(12, 1)  # squares of one colour


def qos(topic):
    """What a ROS node would ask for."""
    reliable = Policy.Reliability.Reliable(duration(seconds=1))
    kept = Policy.Durability.TransientLocal if topic == KEPT else Policy.Durability.Volatile
    return Qos(reliable, kept, Policy.History.KeepLast(1))


def camera(participant):
    """Two writers; the function returned publishes `PICTURE`."""
    best_effort = Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(1))
    images = DataWriter(participant, Topic(participant, 'rt/image', Image), best_effort)
    infos = DataWriter(participant, Topic(participant, 'rt/camera_info', CameraInfo), best_effort)
    width, height = SIZE
    f, cx, cy = FOCAL_LENGTH, (width - 1) / 2, (height - 1) / 2
    k, r = [f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0], np.eye(3).ravel().tolist()
    p = [f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    pixels = PICTURE.ravel().tolist()

    def publish():
        header = Header(Time(*divmod(time.time_ns(), 10**9)), 'cyclone_optical_frame')
        roi = Roi(0, 0, 0, 0, False)
        infos.write(CameraInfo(header, height, width, 'plumb_bob', [0.0] * 5, k, r, p, 0, 0, roi))
        images.write(Image(header, height, width, 'rgb8', 0, 3 * width, pixels))

    return publish


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('file', type=Path)
    parser.add_argument('topics', nargs='+', choices=list(TOPICS))
    parser.add_argument('--camera', action='store_true')
    args = parser.parse_args()
    os.environ['CYCLONEDDS_URI'] = CONFIG
    participant = DomainParticipant(int(os.environ['ROS_DOMAIN_ID']))
    readers = {
        topic: DataReader(participant, Topic(participant, f'rt{topic}', TOPICS[topic]), qos(topic))
        for topic in args.topics
    }
    publish = camera(participant) if args.camera else lambda: None
    heard, end = {}, time.monotonic() + PATIENCE
    while len(heard) < len(readers):
        publish()
        time.sleep(0.1)
        for topic, reader in readers.items():
            for sample in reader.take(1):
                heard[topic] = asdict(sample)
        if time.monotonic() > end:
            sys.exit(f'never heard {sorted(readers.keys() - heard.keys())}')
    args.file.write_bytes(pickle.dumps(heard))


if __name__ == '__main__':
    main()
