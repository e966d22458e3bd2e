"""Which images and calibrations are of the one camera that the node looks through.

Topics say nothing of that: two drivers may publish on one, and `camera_info` may be that of the
neighbour. Frame ids, sizes and stamps tell. All of it runs on the executor thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
import time
from typing import Any

from sharp_ros.errors import InputError
from sharp_ros.images import MAX_MESSAGE_PIXELS
from sharp_ros.rectification import CameraModel
from sharp_ros.ros.conversions import camera_model_from_msg, frame_id_from_msg, stamp_ns_from_msg
from sharp_ros.ros.diagnostics import Health

OTHER_CAMERA, SIZE_MISMATCH, FOREIGN_INFO = 'other_camera', 'size_mismatch', 'foreign_camera_info'
TWO_INFOS = 'camera_info_alternates'
_ALIVE, _INTERVALS = 2.0, 3.0  # seconds, and intervals of its images, till a camera is given up
_RECENT = 4  # calibrations of one frame, for the one that has the stamp of the image
_FRAMES = 8  # whose calibrations are kept
_SAID = 20  # complaints that are not logged again
_LONGEST = 60  # characters of a frame id that are shown


@dataclass(frozen=True)
class _Camera:
    """What tells images of two cameras apart.

    Attributes:
        frame: its `header.frame_id`.
        size: (width, height); None of a compressed image, and of one that cannot be right.
    """

    frame: str
    size: tuple[int, int] | None

    def differs(self, other: _Camera) -> str:
        """Why an image of this one is none of another; empty if it may be."""
        if self.frame != other.frame:
            return OTHER_CAMERA
        known = self.size is not None and other.size is not None
        return SIZE_MISMATCH if known and self.size != other.size else ''

    def __str__(self) -> str:
        size = '' if self.size is None else f', {self.size[0]}x{self.size[1]}'
        return f'{_shown(self.frame)}{size}'


class CameraWiring:
    """Takes the images of one camera, with its own calibration, and names the others.

    - Images of another frame id, or of another size, than those that are looked at are refused
      until these have not come for 2 s (or three of their intervals); unless `camera_info` fits
      the newcomer alone.
    - A calibration belongs to images of its frame id; one without a frame id, to all. So images
      of whose frame there is no calibration, while there is one of another frame, are refused.
    - Of several calibrations of that frame the newest counts, since one that is latched or sent
      once has an old stamp. Where two come in turn, the one that was first counts, but for images
      that have the very stamp of the other.

    A leading slash of a frame id makes no difference.

    Args:
        health: is told what is wrong.
        publishers: names who publishes on a topic.
        image: name of the topic.
        camera_info: likewise.
    """

    def __init__(
        self,
        health: Health,
        publishers: Callable[[str], str],
        image: str,
        camera_info: str,
    ) -> None:
        self._health, self._publishers = health, publishers
        self._image_topic, self._info_topic = image, camera_info
        self._infos: dict[str, _Calibrations] = {}  # by frame id
        self._said: dict[tuple[str, str], str] = {}
        self.forget_camera()

    def forget_camera(self) -> None:
        """Look at whatever comes first from now on; calibrations are kept."""
        self._camera: _Camera | None = None
        self._seen, self._interval = 0.0, 0.0  # when its newest image came, and how long after

    @property
    def is_calibrated(self) -> bool:
        """Whether any `camera_info` has come."""
        return bool(self._infos)

    def add_info(self, msg: Any) -> None:
        """Take in a `sensor_msgs/CameraInfo`, and report one that comes from another camera."""
        frame, now = frame_id_from_msg(msg), time.monotonic()
        known = self._infos.pop(frame, None) or _Calibrations()
        in_turn = known.add(msg, now)
        self._infos[frame] = known  # the newest last
        while len(self._infos) > _FRAMES:
            del self._infos[next(iter(self._infos))]
        camera = self._camera
        if camera is not None and frame and camera.frame and frame != camera.frame:
            self._health.event(FOREIGN_INFO)
            self._complain_of_info(camera)
        elif in_turn is not None:
            sizes = ' and '.join(f'{m.width}x{m.height}' for m in in_turn)
            self._health.event(TWO_INFOS)
            self._complain(
                TWO_INFOS,
                frame,
                f'{self._info_topic} carries two calibrations in turn, of {sizes}, both of '
                f'{_shown(frame)}{self._publishers(self._info_topic)}; the first one is used; '
                'remap the other',
            )

    def info_of(self, msg: Any) -> Any | None:
        """The calibration of an image; None if none of its camera has come."""
        frame = frame_id_from_msg(msg)
        if not frame and self._infos:  # it may be any: the newest
            return next(reversed(self._infos.values())).of(stamp_ns_from_msg(msg.header))
        found = self._infos.get(frame) or self._infos.get('')
        return None if found is None else found.of(stamp_ns_from_msg(msg.header))

    def refuses(self, msg: Any) -> str:
        """Why an image is not to be looked at: a reason that it is counted under; else empty."""
        camera, now = _Camera(frame_id_from_msg(msg), _size_of(msg)), time.monotonic()
        present, info = self._camera, self.info_of(msg)
        reason = '' if present is None else camera.differs(present)
        alive = now - self._seen < max(_ALIVE, _INTERVALS * self._interval)
        if present is not None and reason and alive and not self._fits_alone(camera, info, msg):
            self._complain(
                reason,
                str(camera),
                f'{self._image_topic} carries images of two cameras: those of {present} are '
                f'processed, those of {camera} are not{self._publishers(self._image_topic)}; '
                'remap one of them, and run a node for each camera (multi_camera.launch.py)',
            )
            return reason
        if info is None and self._infos:
            self._complain_of_info(camera)
            return FOREIGN_INFO
        if info is None or _fits(info, camera.size):  # else the decoder refuses it
            self._interval = 0.0 if reason or present is None else now - self._seen
            self._camera, self._seen = camera, now
        return ''

    def _fits_alone(self, camera: _Camera, info: Any | None, msg: Any) -> bool:
        """Whether there is a calibration of a camera, and none of the one that came first."""
        present = self._camera
        if present is None or info is None or not _fits(info, camera.size):
            return False
        stamp_ns = stamp_ns_from_msg(msg.header)
        own = self._infos.get(present.frame) or self._infos.get('')
        return own is None or not _fits(own.of(stamp_ns), present.size)

    def _complain_of_info(self, camera: _Camera) -> None:
        others = ', '.join(_shown(frame) for frame in self._infos if frame != camera.frame)
        self._complain(
            FOREIGN_INFO,
            f'{camera.frame} {others}',
            f'{self._info_topic} carries the calibration of {others}'
            f'{self._publishers(self._info_topic)}, but {self._image_topic} images of '
            f'{_shown(camera.frame)}{self._publishers(self._image_topic)}; remap camera_info to '
            'that of the image, or have the driver put the same header.frame_id into both',
        )

    def _complain(self, reason: str, about: str, text: str) -> None:
        """Keep the input at WARN; the log has each complaint once."""
        self._health.problem('Input', text)
        if (reason, about) not in self._said:
            if len(self._said) >= _SAID:
                self._said.clear()
            self._said[reason, about] = text
            self._health.log(('Input', reason), text)


@dataclass(frozen=True)
class _Info:
    """A `camera_info`, what it says, and when that was said last."""

    msg: Any
    model: CameraModel | None
    time: float

    def says_lately(self, model: CameraModel | None, now: float) -> bool:
        return model is not None and model == self.model and now - self.time < _ALIVE


class _Calibrations:
    """The newest ones of one frame id."""

    def __init__(self) -> None:
        self._recent: deque[Any] = deque(maxlen=_RECENT)
        self._held: _Info | None = None  # that counts
        self._before: _Info | None = None  # that counted till it seemed to change
        self._rival: _Info | None = None  # that comes in turn with the one that counts

    def add(self, msg: Any, now: float) -> tuple[Any, Any] | None:
        """Take in a message.

        Returns:
            Where two come in turn, the one that counts and the other.
        """
        model = None
        with suppress(InputError):  # which the decoder will report
            model = camera_model_from_msg(msg)
        self._recent.append(msg)
        held, before, rival, new = self._held, self._before, self._rival, _Info(msg, model, now)
        if held is not None and rival is not None and rival.says_lately(model, now):
            if now - held.time < _ALIVE:
                self._rival = new
                return held.msg, msg
        elif held is not None and before is not None and before.says_lately(model, now):
            self._held, self._rival, self._before = new, held, None
            return msg, held.msg
        if held is not None and model is not None and model == held.model:
            self._held = new
        else:
            self._held, self._before, self._rival = new, held, None
        return None

    def of(self, stamp_ns: int) -> Any:
        """The one with that stamp, else the one that counts."""
        assert self._held is not None
        held = self._held.msg
        if stamp_ns_from_msg(held.header) == stamp_ns:
            return held
        same = (m for m in reversed(self._recent) if stamp_ns_from_msg(m.header) == stamp_ns)
        return next(same, held)


def _size_of(msg: Any) -> tuple[int, int] | None:
    """Width and height of an image, if they can be meant; what is wrong the decoder reports."""
    width, height = getattr(msg, 'width', 0), getattr(msg, 'height', 0)
    whole = 0 < width * height <= MAX_MESSAGE_PIXELS and len(msg.data) == msg.step * height
    return (width, height) if whole else None


def _fits(info: Any, size: tuple[int, int] | None) -> bool:
    """Whether images of a size can be of a calibration: whole, or its region after binning."""
    if size is None:
        return True
    roi, columns, rows = info.roi, max(info.binning_x, 1), max(info.binning_y, 1)
    wide, high = (roi.width, roi.height) if roi.width and roi.height else (info.width, info.height)
    return size in ((info.width, info.height), (wide // columns, high // rows))


def _shown(frame: str) -> str:
    return repr(frame[:_LONGEST])
