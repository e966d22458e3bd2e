"""Publishers of the node, who subscribes to them, and what is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any

from geometry_msgs.msg import Vector3Stamped
from nav_msgs.msg import OccupancyGrid, Odometry
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, LaserScan, PointCloud2

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig
from sharp_ros.frame_result import (
    CLEARING,
    FrameResult,
    GAUSSIANS,
    MAP_POINTS,
    OCCUPANCY,
    POINTS,
    SCAN,
)
from sharp_ros.localization.odometry import Motion
from sharp_ros.localization.scanner import PlacedScan
from sharp_ros.mapping.local_origin import LocalOrigin
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    cloud_to_msg,
    compressed_depth_to_msg,
    depth_to_msg,
    gaussians_to_msg,
    grid_to_msg,
    image_to_msg,
    jpeg_to_msg,
    odometry_to_msg,
    points_to_msg,
    scale_to_msg,
    scan_to_msg,
    snapshot_to_msg,
)
from sharp_ros.ros.diagnostics import Health
from sharp_ros.ros.transforms import Transforms
from sharp_ros.se3 import moved_pose, transform
from sharp_ros.snapshot import SnapshotCloud
from sharp_ros.views import VIEW, View, VIEW_DEPTH

IMAGE, SCALE, ODOMETRY, SNAPSHOT = 'image_rect', 'scale', 'odometry', 'snapshot/points'
DEPTH, RELATIVE = 'depth', 'relative_depth'  # each with an image and its camera_info
DEPTH_STD = 'depth/log_std'
# below the topic of an image, as image_transport names them
JPEG, COMPRESSED_DEPTH = '/compressed', '/compressedDepth'
_SCAN_FRAME = 'scan_frame'
_LONGEST_SCAN_TIME = 10.0  # seconds; a longer gap is none between two scans
_KEPT = (OCCUPANCY, MAP_POINTS)  # for late subscribers, so sent without any subscriber, too
_STREAM = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_MAP = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


class Outputs:
    """Creates the publishers and sends results, of which it builds only what is subscribed to.

    Args:
        node: that owns the publishers.
        config: names of the views, and the base frame.
        transforms: broadcasts the frames of virtual cameras and of visual odometry.
        health: is given the conflicts of these broadcasts.
        metric: whether depth is in metres; else only images of relative depth are offered.
        map_frame: of the newest map that an earlier run published; '' if there was none.

    Attributes:
        publishers: by topic below the name of the node.
        map_frame: world frame of the newest map published.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: SharpConfig,
        transforms: Transforms,
        health: Health,
        *,
        metric: bool,
        map_frame: str = '',
    ) -> None:
        self._node = node
        self._base_frame = config.pose.base_frame
        self._transforms, self._health = transforms, health
        self.map_frame = map_frame
        # several nodes, each in its namespace, share one tf
        self._prefix = '_'.join([*node.get_namespace().strip('/').split('/'), '']).lstrip('_')
        self._scan_ns: int | None = None  # stamp of the newest scan
        self.publishers: dict[str, Any] = {}
        try:
            for topic, (kind, qos) in _topics(config, metric=metric).items():
                self.publishers[topic] = node.create_lifecycle_publisher(
                    kind,
                    f'~/{topic}',
                    copy(qos),  # overrides are written into it
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                )
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self.publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self.publishers.clear()

    def wanted(self) -> set[str]:
        """Outputs of a frame with a subscriber now, named as in `frame_result`."""
        topics = {t for t, p in self.publishers.items() if p.get_subscription_count()}
        topics = {t.removesuffix(JPEG).removesuffix(COMPRESSED_DEPTH) for t in topics}
        views = {topic.rpartition('/')[0] for topic in topics if topic.startswith(VIEW)}
        return (topics | views) - {SNAPSHOT}

    def publish_seen(self, result: FrameResult, *, broadcast: bool) -> None:
        """Publish what one frame shows, with the stamp of its image.

        Args:
            result: of the pipeline.
            broadcast: whether the pose of visual odometry is broadcast to tf, too.
        """
        frame = result.frame
        stamp_ns, frame_id = frame.stamp_ns, frame.frame_id
        self._send_image(IMAGE, frame.image, stamp_ns, frame_id)
        relative = result.relative_depth
        topic, depth = (DEPTH, result.depth) if relative is None else (RELATIVE, relative)
        self._send_depth(f'{topic}/image', depth, stamp_ns, frame_id)
        self.send(
            f'{topic}/camera_info',
            partial(camera_info_to_msg, frame.intrinsics, stamp_ns, frame_id),
        )
        if relative is not None:
            return
        if result.log_std is not None:
            self.send(DEPTH_STD, lambda: _std_to_msg(result))
        if result.cloud is not None:
            self.send(POINTS, partial(cloud_to_msg, result.cloud, stamp_ns, frame_id))
        gaussians = result.gaussians
        # a subscriber may have come after they were made
        if gaussians is not None and gaussians.has_shapes:
            self.send(GAUSSIANS, partial(gaussians_to_msg, gaussians, stamp_ns, frame_id))
        if result.scan is not None:
            self._publish_scan(result.scan, stamp_ns, frame_id)
        scale = result.scale
        if scale is not None:
            self.send(
                SCALE, partial(scale_to_msg, scale.value, scale.log_variance, stamp_ns, frame_id)
            )
        if result.motion is not None:
            self._publish_motion(frame, result.motion, broadcast=broadcast)

    def publish_placed(self, result: FrameResult) -> None:
        """Publish the map with one frame in it, and the views, with the stamp of its image."""
        frame = result.frame
        stamp_ns, frame_id = frame.stamp_ns, frame.frame_id
        placed = (result.origin, stamp_ns, frame.world_frame)
        self.publish_map(result.grid, result.map_points, *placed)
        if result.clearing_points is not None:
            self.send(CLEARING, partial(points_to_msg, result.clearing_points, stamp_ns, frame_id))
        self.publish_views(result.views, stamp_ns)

    def _publish_motion(self, frame: Frame, motion: Motion, *, broadcast: bool) -> None:
        """Odometry, and if asked for the transform, of the base frame where there is one."""
        if motion.T_odom_camera is None:
            return
        child = self._base_frame or frame.frame_id
        T_camera_child = np.eye(4) if child == frame.frame_id else frame.transforms.get(child)
        if T_camera_child is None:  # why was reported when it was looked up
            return
        assert motion.covariance is not None
        pose, covariance = moved_pose(motion.T_odom_camera, motion.covariance, T_camera_child)
        header = (frame.stamp_ns, frame.world_frame, child)
        self.send(ODOMETRY, partial(odometry_to_msg, pose, *header, covariance))
        owner = self._transforms.broadcast_unless_owned(pose, *header) if broadcast else None
        if owner is not None:
            self._health.report(
                'Mapping',
                'tf_owned_by_another',
                f'{child} is not broadcast: another node does so, in {owner}; turn off one '
                'of the two (pose.publish_tf)',
            )

    def _publish_scan(self, placed: PlacedScan, stamp_ns: int, camera_frame: str) -> None:
        """A scan, and where its frame is if that is one of ours."""
        frame_id = placed.base_frame
        if placed.T_camera_scan is not None:
            frame_id = self._prefix + _SCAN_FRAME
            self._transforms.broadcast(
                placed.T_camera_scan, stamp_ns, camera_frame, frame_id, fixed=False
            )
        since = 0.0 if self._scan_ns is None else (stamp_ns - self._scan_ns) / 1e9
        self._scan_ns = stamp_ns
        scan_time = since if 0 < since <= _LONGEST_SCAN_TIME else 0.0
        self.send(SCAN, partial(scan_to_msg, placed.scan, stamp_ns, frame_id, scan_time))

    def publish_map(
        self,
        grid: OccupancyGrid2D | None,
        map_points: np.ndarray | None,
        origin: LocalOrigin,
        stamp_ns: int,
        world_frame: str,
    ) -> None:
        """Publish the parts of the map that are given.

        A stamp of 0 means the latest to tf, and that there is no map to those who ask for its age:
        where no image gives one, the map is of now.

        Args:
            grid: in the world frame.
            map_points: [N, 3] from `origin`.
            origin: of the map; where it is not that of the world, it is broadcast to tf as the
                frame that the points are in, whose coordinates are float32.
            stamp_ns: of the newest image in it.
            world_frame: of the map.
        """
        if grid is None and map_points is None:
            return
        stamp_ns = stamp_ns or self._node.get_clock().now().nanoseconds or 1  # of simulated time
        frame_id = world_frame
        if not origin.is_world:
            frame_id = f'{self._prefix}{origin.frame(world_frame)}'
            T_world_local = transform(np.eye(3), origin.position)
            self._transforms.broadcast(T_world_local, stamp_ns, world_frame, frame_id, fixed=True)
        if grid is not None:
            self.map_frame = world_frame
            header = (stamp_ns, world_frame)
            self.send(
                OCCUPANCY, partial(grid_to_msg, grid.cells, grid.resolution, grid.origin, *header)
            )
        if map_points is not None:
            self.send(MAP_POINTS, partial(points_to_msg, map_points, stamp_ns, frame_id))

    def publish_views(self, views: Mapping[str, View], stamp_ns: int) -> None:
        """Publish images of virtual cameras, by name, and broadcast where each of them stands."""
        for name, view in views.items():
            if view.withheld:
                continue
            placement, frame_id = view.placement, f'{self._prefix}{name}_optical_frame'
            if np.array_equal(placement.T_parent_view, np.eye(4)):
                frame_id = placement.parent_frame  # a frame of another node, so none of ours
            else:
                self._transforms.broadcast(
                    placement.T_parent_view,
                    stamp_ns,
                    placement.parent_frame,
                    frame_id,
                    fixed=placement.fixed,
                )
            topic, header = VIEW + name, (stamp_ns, frame_id)
            self._send_image(f'{topic}/image', view.image, *header)
            self.send(
                f'{topic}/camera_info', partial(camera_info_to_msg, view.intrinsics, *header)
            )
            if view.depth is not None:
                self._send_depth(topic + VIEW_DEPTH, view.depth, *header)

    def publish_snapshot(self, cloud: SnapshotCloud) -> None:
        """Publish a snapshot, also for late subscribers."""
        self.publishers[SNAPSHOT].publish(snapshot_to_msg(cloud))

    def _send_image(self, topic: str, image: np.ndarray, stamp_ns: int, frame_id: str) -> None:
        self.send(topic, partial(image_to_msg, image, stamp_ns, frame_id))
        self.send(topic + JPEG, partial(jpeg_to_msg, image, stamp_ns, frame_id))

    def _send_depth(self, topic: str, depth: np.ndarray, stamp_ns: int, frame_id: str) -> None:
        self.send(topic, partial(depth_to_msg, depth, stamp_ns, frame_id))
        packed = partial(compressed_depth_to_msg, depth, stamp_ns, frame_id)
        self.send(topic + COMPRESSED_DEPTH, packed)

    def send(self, topic: str, make: Callable[[], Any]) -> None:
        """Build and publish a message, if there is a subscriber or may be one later."""
        publisher = self.publishers[topic]
        if topic in _KEPT or publisher.get_subscription_count():
            publisher.publish(make())


def _std_to_msg(result: FrameResult) -> Image:
    """Standard deviation of the logarithm of the depth, at the size of the image."""
    std = result.log_std_image()
    assert std is not None
    return depth_to_msg(std, result.frame.stamp_ns, result.frame.frame_id)


def _topics(config: SharpConfig, *, metric: bool) -> dict[str, tuple[type, QoSProfile]]:
    """Message type and quality of service of every output."""
    depth = DEPTH if metric else RELATIVE
    topics: dict[str, tuple[type, QoSProfile]] = {
        f'{depth}/image': (Image, _STREAM),
        f'{depth}/camera_info': (CameraInfo, _STREAM),
        f'{depth}/image{COMPRESSED_DEPTH}': (CompressedImage, _STREAM),
        IMAGE: (Image, _STREAM),
        IMAGE + JPEG: (CompressedImage, _STREAM),
    }
    if not metric:  # all others are made of metres
        return topics
    topics |= {
        DEPTH_STD: (Image, _STREAM),
        POINTS: (PointCloud2, _STREAM),
        GAUSSIANS: (PointCloud2, _STREAM),
        OCCUPANCY: (OccupancyGrid, _MAP),
        MAP_POINTS: (PointCloud2, _MAP),
        CLEARING: (PointCloud2, _STREAM),
        SCAN: (LaserScan, _STREAM),
        ODOMETRY: (Odometry, _STREAM),
        SCALE: (Vector3Stamped, _STREAM),
        SNAPSHOT: (PointCloud2, _MAP),
    }
    for name in config.views:
        topics[f'{VIEW}{name}/image'] = (Image, _STREAM)
        topics[f'{VIEW}{name}/camera_info'] = (CameraInfo, _STREAM)
        topics[f'{VIEW}{name}/image{JPEG}'] = (CompressedImage, _STREAM)
        topics[f'{VIEW}{name}{VIEW_DEPTH}'] = (Image, _STREAM)
        topics[f'{VIEW}{name}{VIEW_DEPTH}{COMPRESSED_DEPTH}'] = (CompressedImage, _STREAM)
    return topics
