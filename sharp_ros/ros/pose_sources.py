"""Where the pose of the camera at the stamp of an image comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import threading
from typing import Protocol

import numpy as np

from sharp_ros.config import PoseConfig
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.ros.conversions import pose_from_odometry
from sharp_ros.ros.transforms import tf_is_installed, Transforms, TWO_PARENTS
from sharp_ros.se3 import inverse, matrix_from_quat, PoseBuffer, transform

_PATIENCE = 3.0  # seconds of images without any pose until visual odometry takes over
_STEP = 0.5  # seconds of them that one image may stand for: time may jump, and cameras pause
_HISTORY = 10.0  # seconds of poses kept; an image older than that is of no use


class PoseSource(Protocol):
    """Gives the pose of a camera frame in a world frame at a stamp."""

    @property
    def odometry(self) -> OdometrySource | None:
        """Takes in the messages of the odometry topic; None if they are of no use."""
        ...

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray | None, str]:
        """`T_world_camera` [4, 4] at the stamp, and the name of the world frame.

        None in place of the pose asks for visual odometry to find it.

        Raises:
            PoseUnavailableError: with the reason under which it is counted.
        """
        ...


class NoPose:
    """`pose.source: none`: the camera is never placed, so nothing is mapped."""

    odometry = None

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray | None, str]:
        """Always raises; see `PoseSource`."""
        raise PoseUnavailableError('pose.source is "none"', 'pose_source_none')


class VisualSource:
    """`pose.source: visual`: the pipeline finds the pose in the images themselves."""

    odometry = None

    def __init__(self, config: PoseConfig) -> None:
        self._world_frame = config.world_frame

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray | None, str]:
        """See `PoseSource`."""
        return None, self._world_frame


class TfSource:
    """Poses of tf, at the stamp of the image.

    Args:
        config: the world frame, how long to wait, and what is near enough after that.
        transforms: to look them up.
    """

    odometry = None

    def __init__(self, config: PoseConfig, transforms: Transforms) -> None:
        self._config = config
        self._transforms = transforms
        transforms.listen()

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray | None, str]:
        """See `PoseSource`; waits up to `pose.wait` for transforms that have not arrived."""
        config = self._config
        world, wait, tolerance = config.world_frame, config.wait, config.tolerance
        return self._transforms.lookup(world, camera_frame, stamp_ns, wait, tolerance), world


class OdometrySource:
    """Poses of an odometry topic, interpolated at the stamp of the image.

    Messages come in on one thread while another waits in `lookup` for the pose that follows the
    image.

    Args:
        config: tolerance, gap, waiting time, and where the camera sits on the child frame.
    """

    def __init__(self, config: PoseConfig) -> None:
        self._config = config
        self._buffer = PoseBuffer(_HISTORY, config.max_gap, config.tolerance)
        self._frames = ('', '')
        self.odometry = self
        self._news = threading.Condition()
        self._T_base_camera: np.ndarray | None = None
        offset = np.array(config.base_to_camera)
        if np.any(offset[3:]):
            rotation = matrix_from_quat(offset[[6, 3, 4, 5]])
            self._T_base_camera = transform(rotation, offset[:3])

    @property
    def mounting(self) -> tuple[str, np.ndarray] | None:
        """The frame that odometry places, and `T_camera_frame` [4, 4], if parameters say it."""
        child = self._frames[1]
        if self._T_base_camera is None or not child:
            return None
        return child, inverse(self._T_base_camera)

    def add(self, msg: object) -> bool:
        """Take in one `nav_msgs/Odometry`; False when time went back and history was dropped.

        Raises:
            InputError: if the pose is not finite or its quaternion is zero.
        """
        stamp_ns, world, child, T_world_child = pose_from_odometry(msg)
        with self._news:
            if (world, child) != self._frames:
                self._buffer.clear()
                self._frames = (world, child)
            forward = self._buffer.add(stamp_ns, T_world_child)
            self._news.notify_all()
        return forward

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray, str]:
        """See `PoseSource`; waits up to `pose.wait` for a pose as new as the image.

        There is no waiting for a stream that never began or that broke off.
        """
        with self._news:
            self._news.wait_for(lambda: not self._is_due(stamp_ns), self._config.wait)
            world, child = self._frames
            T_world_child = self._buffer.lookup(stamp_ns)
        if not world:
            raise PoseUnavailableError(
                'odometry has an empty header.frame_id; set it in its publisher',
                'no_world_frame',
            )
        if self._T_base_camera is not None:
            return T_world_child @ self._T_base_camera, world
        if child != camera_frame or not child:
            raise PoseUnavailableError(
                f'odometry child_frame_id is {child!r}, the image frame is {camera_frame!r}; set '
                'pose.base_to_camera to the pose of the optical frame in the odometry child frame'
                + ('' if child else ', or child_frame_id and header.frame_id'),
                'unknown_mounting',
            )
        return T_world_child, world

    def _is_due(self, stamp_ns: int) -> bool:
        """Whether the pose that follows the stamp should arrive any moment."""
        newest_ns = self._buffer.newest_ns
        return newest_ns is not None and 0 < stamp_ns - newest_ns < self._config.max_gap * 1e9


class AutoSource:
    """The first of several sources that answers, and only that one from then on.

    Poses of two sources lie in two worlds, so a map must not change from one to the other.

    Args:
        sources: best first.
        fallback: taken when none of them has answered for `_PATIENCE` seconds of images.
        log: takes a line that names it.
    """

    def __init__(
        self,
        sources: Mapping[str, PoseSource],
        fallback: tuple[str, PoseSource],
        log: Callable[[str], object],
    ) -> None:
        self._sources, self._fallback, self._log = sources, fallback, log
        self.odometry = next((s.odometry for s in sources.values() if s.odometry), None)
        self._chosen: PoseSource | None = None
        self._last_ns: int | None = None
        self._waited = 0.0  # seconds of images

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray | None, str]:
        """See `PoseSource`."""
        if self._chosen is not None:
            return self._chosen.lookup(stamp_ns, camera_frame)
        failures: dict[str, PoseUnavailableError] = {}
        for name, source in self._sources.items():
            try:
                found = source.lookup(stamp_ns, camera_frame)
            except PoseUnavailableError as error:
                if error.reason == TWO_PARENTS:  # it is there, and to be mended
                    raise
                failures[name] = error
                continue
            self._choose(name, source)
            return found
        step = 0.0 if self._last_ns is None else (stamp_ns - self._last_ns) / 1e9
        self._waited, self._last_ns = self._waited + min(max(step, 0.0), _STEP), stamp_ns
        if self._waited >= _PATIENCE:
            self._choose(*self._fallback)
            return self._fallback[1].lookup(stamp_ns, camera_frame)
        reasons = '; '.join(f'{name}: {error}' for name, error in failures.items())
        reason = list(failures.values())[-1].reason
        raise PoseUnavailableError(f'no pose source available yet ({reasons})', reason)

    def _choose(self, name: str, source: PoseSource) -> None:
        self._chosen = source
        self._log(f'pose source: {name}; set pose.source: {name} to skip the detection')


def make_pose_source(
    config: PoseConfig, transforms: Transforms, log: Callable[[str], object]
) -> PoseSource:
    """The source that `pose.source` names.

    Args:
        config: settings.
        transforms: of the node.
        log: takes a line that names the source `auto` has chosen.
    """

    def automatic() -> PoseSource:
        sources: dict[str, PoseSource] = {'odometry': OdometrySource(config)}
        if tf_is_installed():
            sources = {'tf': TfSource(config, transforms), **sources}
        return AutoSource(sources, ('visual', VisualSource(config)), log)

    makers: dict[str, Callable[[], PoseSource]] = {
        'auto': automatic,
        'tf': lambda: TfSource(config, transforms),
        'odometry': lambda: OdometrySource(config),
        'visual': lambda: VisualSource(config),
        'none': NoPose,
    }
    return makers[config.source]()
