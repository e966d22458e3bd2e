"""What a map was made of, as a ROS 2 bag in MCAP: depth, clouds, odometry, tf and the grid.

Stamps are those of the images, so that it can be replayed beside the recording itself. Its camera
has a frame of its own, so that tf never gives a frame of the recording a second parent. Messages
are built by `rosbags`, since ROS need not be installed.
"""

from __future__ import annotations

from pathlib import Path
import shutil
import tempfile
from types import TracebackType
from typing import Any

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import ConfigError
from sharp_ros.frame_result import FrameResult
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.point_cloud import organised_cloud
from sharp_ros.se3 import quat_from_matrix

PREFIX = '/sharp'  # of all topics, which then are named as those of the node
_IMAGE, _CLOUD = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/PointCloud2'
_FLOAT32 = 7  # of sensor_msgs/PointField


class ResultBag:
    """Writes results as they come; the file appears when the block ends, and only if it ends well.

    Args:
        path: of the file, `*.mcap`.

    Raises:
        ConfigError: if it exists.
    """

    def __init__(self, path: Path) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import get_typestore, Stores

        if path.exists():
            raise ConfigError(f'{path} exists; choose another file')
        self._path = path
        self._folder = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.absolute().parent))
        self._store: Any = get_typestore(Stores.ROS2_HUMBLE)  # its types are made at run time
        self._writer = Writer(self._folder / 'bag', version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}
        self._newest: FrameResult | None = None

    def __enter__(self) -> ResultBag:
        self._writer.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
            if error is None:
                (written,) = (self._folder / 'bag').glob('*.mcap')
                written.replace(self._path)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, result: FrameResult, world_frame: str) -> None:
        """Depth, cloud, odometry and tf of a frame that was placed; the same one counts once."""
        if result is self._newest:
            return
        self._newest = result
        frame, camera = result.frame, camera_frame(result.frame.frame_id)
        stamp, pose = frame.stamp_ns, frame.T_world_camera
        assert pose is not None
        depth = np.where(result.depth > 0, result.depth, np.nan).astype('<f4')
        header = self._header(stamp, camera)
        self._write('depth/image', stamp, self._image(header, depth))
        self._write('depth/camera_info', stamp, self._info(header, frame.intrinsics))
        cloud = organised_cloud(depth, frame.image, frame.intrinsics)
        self._write('points', stamp, self._cloud(header, cloud))
        position, rotation = self._make('Vector3', *pose[:3, 3]), self._quaternion(pose[:3, :3])
        world = self._header(stamp, world_frame)
        self._write('odometry', stamp, self._odometry(world, camera, pose))
        link = self._make(
            'TransformStamped', world, camera, self._make('Transform', position, rotation)
        )
        self._write('/tf', stamp, self._store.types['tf2_msgs/msg/TFMessage']([link]))

    def add_grid(self, grid: OccupancyGrid2D, stamp_ns: int, world_frame: str) -> None:
        """The occupancy grid, at the stamp of the newest image in it."""
        types = self._store.types
        rows, columns = grid.cells.shape
        x, y = map(float, grid.origin)
        origin = self._make('Pose', self._make('Point', x, y, 0.0), self._quaternion(np.eye(3)))
        header = self._header(stamp_ns, world_frame)
        info = types['nav_msgs/msg/MapMetaData'](
            header.stamp, float(grid.resolution), columns, rows, origin
        )
        cells = np.ascontiguousarray(grid.cells, np.int8).reshape(-1)
        message = types['nav_msgs/msg/OccupancyGrid'](header, info, cells)
        self._write('occupancy_grid', stamp_ns, message)

    def _write(self, name: str, stamp_ns: int, message: Any) -> None:
        topic = name if name.startswith('/') else f'{PREFIX}/{name}'
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._store
            )
        data = self._store.serialize_cdr(message, kind)
        self._writer.write(self._connections[topic], stamp_ns, data)

    def _make(self, kind: str, *values: Any) -> Any:
        plain = (float(v) if isinstance(v, np.floating) else v for v in values)
        return self._store.types[f'geometry_msgs/msg/{kind}'](*plain)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        time = self._store.types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 10**9))
        return self._store.types['std_msgs/msg/Header'](time, frame_id)

    def _quaternion(self, rotation: np.ndarray) -> Any:
        w, x, y, z = map(float, quat_from_matrix(rotation))
        return self._make('Quaternion', x, y, z, w)

    def _image(self, header: Any, depth: np.ndarray) -> Any:
        rows, columns = depth.shape
        data = np.ascontiguousarray(depth).view(np.uint8).reshape(-1)
        return self._store.types[_IMAGE](header, rows, columns, '32FC1', 0, 4 * columns, data)

    def _info(self, header: Any, k: Intrinsics) -> Any:
        types = self._store.types
        projection = np.column_stack([k.matrix, np.zeros(3)])
        return types['sensor_msgs/msg/CameraInfo'](
            header,
            k.height,
            k.width,
            'plumb_bob',
            np.zeros(5),
            k.matrix.ravel(),
            np.eye(3).ravel(),
            projection.ravel(),
            0,
            0,
            types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
        )

    def _cloud(self, header: Any, cloud: np.ndarray) -> Any:
        types = self._store.types
        rows, columns = cloud.shape[:2]
        fields = [
            types['sensor_msgs/msg/PointField'](name, 4 * i, _FLOAT32, 1)
            for i, name in enumerate(('x', 'y', 'z', 'rgb'))
        ]
        data = np.ascontiguousarray(cloud, '<f4').view(np.uint8).reshape(-1)
        return types[_CLOUD](header, rows, columns, fields, False, 16, 16 * columns, data, False)

    def _odometry(self, header: Any, child: str, pose: np.ndarray) -> Any:
        zero = self._make('Vector3', 0.0, 0.0, 0.0)
        place = self._make(
            'Pose', self._make('Point', *pose[:3, 3]), self._quaternion(pose[:3, :3])
        )
        return self._store.types['nav_msgs/msg/Odometry'](
            header,
            child,
            self._make('PoseWithCovariance', place, np.zeros(36)),
            self._make('TwistWithCovariance', self._make('Twist', zero, zero), np.zeros(36)),
        )


def camera_frame(frame_id: str) -> str:
    """Frame of the results of a camera."""
    return f'sharp_{frame_id.lstrip("/") or "camera"}'
