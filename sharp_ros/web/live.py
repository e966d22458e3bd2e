"""A live view: keeps the newest of everything that is offered, and shows it as far as it can."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
import logging
import math
import threading
import time

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig, WebConfig
from sharp_ros.errors import ConfigError, SharpError
from sharp_ros.frame_result import FrameResult, GAUSSIANS, MAP_POINTS
from sharp_ros.gaussians import Gaussians
from sharp_ros.mapping.local_origin import LocalOrigin, OF_WORLD
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.pictures.depth import colour_depth, depth_range
from sharp_ros.point_cloud import organised_cloud
from sharp_ros.se3 import transform
from sharp_ros.snapshot import SnapshotCloud
from sharp_ros.views import VIEW, View
from sharp_ros.web.gate import Gate
from sharp_ros.web.page import CAMERA, CLOUD, GRID, Page, PATH, SNAPSHOT, SPLATS, VIEWS, VOXELS
from sharp_ros.web.splats import splats

_PERIOD = 0.1  # seconds between two drawings
_SHARE = 0.2  # of the time that may be spent drawing, where a busy machine makes that slow
_LONGEST_REST = 1.0  # seconds after that; the first drawing loads compiled loops
_WORDS_PERIOD, _LOOK_PERIOD = 1.0, 0.5
_MOST_POINTS, _MOST_SPLATS = 40_000, 100_000
_STEP, _MOST_STEPS = 0.05, 4000  # metres between two points of the path, and their number
_MOST_POSES = 300  # of recent frames, 10 s of a camera at 30 Hz
_SPLAT_SHARE = 0.5  # of the rate, so that clouds and images come meanwhile
_BURST = 0.2  # seconds of the rate that may be saved up
_VOXEL_COLOUR = np.array([200, 60, 40], np.uint8)
# Where a camera is shown whose pose is not known: level, at the origin.
_NOWHERE = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Controls:
    """What the page can ask for; each is called from a thread of its own.

    Attributes:
        buttons: by label; each returns what is said about it, or raises.
        look: renders the views of placement `request` from a pose [4, 4] in the world.
        words: lines of Markdown about the state, asked for once a second while somebody watches.
    """

    buttons: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    look: Callable[[np.ndarray], None] | None = None
    words: Callable[[], Sequence[str]] = tuple


@dataclass
class _Newest:
    """The newest of each kind; poses are in the world."""

    result: FrameResult | None = None
    path: list[np.ndarray] = field(default_factory=list)
    grid: OccupancyGrid2D | None = None
    splats: tuple[np.ndarray, Gaussians] | None = None
    points: tuple[LocalOrigin, np.ndarray] | None = None
    views: dict[str, tuple[np.ndarray, View]] = field(default_factory=dict)
    snapshot: tuple[np.ndarray, SnapshotCloud] | None = None


class LiveView:
    """Serves a page that shows what is offered; nothing is computed while nobody watches.

    Args:
        config: its `web`, and the views.
        controls: what the page can ask for.

    Attributes:
        url: to be opened in a browser.

    Raises:
        ConfigError: if viser is not installed, or the address or port cannot be had.
    """

    def __init__(self, config: SharpConfig, controls: Controls) -> None:
        self._config, self._controls = config, controls
        self._page = Page(
            '+z', controls.buttons, may_look=controls.look is not None, off=(VOXELS,)
        )
        self._wake, self._closing, self._lock = threading.Event(), False, threading.Lock()
        self._gate = open_gate(config.web, self._page, self._wake.set)
        self.url = self._gate.url
        self._rate = config.web.rate_mb_s * 1e6
        self._newest = _Newest()
        self._started_over = False  # since the last result
        # (stamp, pose): joining a snapshot takes a while, in which the camera may go on
        self._poses: deque[tuple[int, np.ndarray | None]] = deque(maxlen=_MOST_POSES)
        self._drawn: dict[str, object] = {}  # what each node of the page shows
        self._origin = OF_WORLD
        self._splats_due = self._words_due = self._look_due = 0.0
        self._free_at, self._counted = time.monotonic(), 0
        self._thread = threading.Thread(target=self._run, name='sharp_live_view', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the page and its threads."""
        self._closing = True
        self._wake.set()
        self._thread.join(5)
        self._gate.close()
        self._page.close()

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return self._gate.watchers > 0

    def wanted(self) -> set[str]:
        """Outputs that the next frame should give, named as in `frame_result`."""
        if not self.watched:
            return set()
        page = self._page
        wanted = {CAMERA}  # which no frame gives; but it is wanted
        if page.shows(SPLATS) and time.monotonic() >= self._splats_due:
            wanted.add(GAUSSIANS)
        if page.shows(VOXELS):
            wanted.add(MAP_POINTS)
        if page.shows(VIEWS):
            views = self._config.views.items()
            placed = page.placed is not None
            wanted |= {VIEW + n for n, v in views if placed or v.placement != 'request'}
        return wanted

    def offer(self, result: FrameResult) -> None:
        """Take the result of a frame, in place of what has not been shown of those before."""
        frame, newest = result.frame, self._newest
        pose = frame.T_world_camera
        with self._lock:
            if result.restarted and not self._started_over:
                self._forget()
            self._started_over = False
            newest.result = result
            self._poses.append((frame.stamp_ns, pose))
            if pose is not None:
                self._note(pose[:3, 3])
            if result.grid is not None:
                newest.grid = result.grid
            if result.map_points is not None:
                newest.points = result.origin, result.map_points
            gaussians = result.gaussians
            if gaussians is not None and gaussians.has_shapes:
                newest.splats = _NOWHERE if pose is None else pose, gaussians
            self._take_views(result.views, frame, result.origin)
        if self.watched:  # to wake a thread for nothing would cost the frame its turn
            self._wake.set()

    def offer_views(self, views: Mapping[str, View], frame: Frame, origin: LocalOrigin) -> None:
        """Take views that were rendered for themselves.

        Args:
            views: by name.
            frame: that they show.
            origin: of the map.
        """
        with self._lock:
            self._take_views(views, frame, origin)
        self._wake.set()

    def offer_snapshot(self, cloud: SnapshotCloud) -> None:
        """Take a snapshot; it is shown where the camera was then, as far as that is known."""
        with self._lock:
            pose = dict(self._poses).get(cloud.stamp_ns)
            self._newest.snapshot = _NOWHERE if pose is None else pose, cloud
        self._wake.set()

    def start_over(self, grid: OccupancyGrid2D | None) -> None:
        """Forget all that was offered; the grid, if there is one, is that of the new map."""
        with self._lock:
            self._forget()
            self._newest.grid, self._started_over = grid, True
        self._wake.set()

    def _forget(self) -> None:
        self._newest.path.clear()
        self._poses.clear()
        self._newest.views.clear()
        self._newest.grid = self._newest.splats = self._newest.points = None
        self._newest.snapshot = None

    def _note(self, position: np.ndarray) -> None:
        path = self._newest.path
        if not path or float(np.abs(position - path[-1]).max()) > _STEP:
            path.append(position)
        if len(path) > _MOST_STEPS:
            del path[1:-1:2]

    def _take_views(self, views: Mapping[str, View], frame: Frame, origin: LocalOrigin) -> None:
        pose = _NOWHERE if frame.T_world_camera is None else frame.T_world_camera
        for name, view in views.items():
            T_world_view = pose @ view.placement.T_scene_view
            if self._config.views[name].source == 'map':
                T_world_view = view.placement.T_scene_view.copy()
                T_world_view[:3, 3] += origin.position
            if not view.withheld:
                self._newest.views[name] = T_world_view, view

    # drawing, on a thread of its own -----------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_WORDS_PERIOD)
            self._wake.clear()
            if not self.watched or self._closing:
                continue
            begun = time.monotonic()
            try:
                with self._lock:
                    newest = replace(
                        self._newest,
                        path=list(self._newest.path),
                        views=dict(self._newest.views),
                    )
                self._draw(newest)
                self._draw_words(newest.result)
                self._look()
            except Exception as error:  # what cannot be shown must not end the view
                _log.warning('the live view is incomplete: %s: %s', type(error).__name__, error)
            ended = time.monotonic()
            rested = ended + min((ended - begun) * (1 / _SHARE - 1), _LONGEST_REST)
            self._sleep_until(max(begun + _PERIOD, rested, self._when_free()))

    def _sleep_until(self, when: float) -> None:
        while not self._closing and (left := when - time.monotonic()) > 0:
            time.sleep(min(left, _PERIOD))

    def _when_free(self) -> float:
        """When the mean rate allows to send more, by what was sent."""
        sent = self._gate.sent
        earliest = max(self._free_at, time.monotonic() - _BURST)
        self._free_at = earliest + (sent - self._counted) / self._rate
        self._counted = sent
        return self._free_at

    def _draw(self, newest: _Newest) -> None:
        page, result = self._page, newest.result
        if result is not None and self._is_new('frame', result):
            pose = result.frame.T_world_camera
            if pose is not None and LocalOrigin.near(pose[:3, 3]) != self._origin:
                self._move_origin(pose[:3, 3], newest)
            pose = _NOWHERE if pose is None else self._origin.local(pose)
            with page.atomic():
                self._draw_frame(result, pose)
            page.follow(pose)
        path = newest.path
        if self._is_new('path', path[-1] if len(path) > 1 else None, PATH):
            page.show_path(np.array(path) - self._origin.position)
        if self._is_new('grid', newest.grid, GRID):
            assert newest.grid is not None
            page.show_grid(newest.grid, self._origin.position)
        if self._is_new('voxels', newest.points, VOXELS):
            assert newest.points is not None
            origin, points = newest.points
            shift = transform(np.eye(3), origin.position - self._origin.position)
            size = self._config.occupancy.voxel_size
            colours = np.broadcast_to(_VOXEL_COLOUR, points.shape)
            page.show_points('voxels', VOXELS, points, colours, shift, size=size, exact=True)
        if self._is_new('splats', newest.splats, SPLATS):
            assert newest.splats is not None
            self._draw_splats(*newest.splats)
        if self._is_new('snapshot', newest.snapshot, SNAPSHOT):
            assert newest.snapshot is not None
            pose, cloud = newest.snapshot
            step = math.ceil(len(cloud.points) / _MOST_POINTS)
            parts = cloud.points[::step], cloud.colors[::step]
            page.show_points('snapshot', SNAPSHOT, *parts, self._origin.local(pose), exact=True)
        for name in self._config.views:
            pose, view = newest.views.get(name, (None, None))
            if self._is_new(f'view_{name}', view, VIEWS):
                assert view is not None
                assert pose is not None
                pose = self._origin.local(pose)
                page.show_camera(f'view_{name}', VIEWS, pose, view.intrinsics, view.image)
                page.show_image(f'view {name}', view.image)

    def _is_new(self, node: str, content: object, layer: str | None = None) -> bool:
        """Whether a node is to be drawn; one without content is taken away."""
        if content is None:
            if self._drawn.pop(node, None) is not None:
                self._page.forget(node)
            return False
        if content is self._drawn.get(node) or (layer and not self._page.shows(layer)):
            return False
        self._drawn[node] = content
        return True

    def _move_origin(self, position: np.ndarray, newest: _Newest) -> None:
        """Begin the scene where the path does, since browsers count in 32-bit floats."""
        start = newest.path[0] if newest.path else position
        if LocalOrigin.near(start) != self._origin:
            self._origin = LocalOrigin.near(start)
            self._page.forget_all()
            self._drawn.clear()

    def _draw_frame(self, result: FrameResult, pose: np.ndarray) -> None:
        page, frame = self._page, result.frame
        page.show_camera('camera', CAMERA, pose, frame.intrinsics, frame.image)
        depth = result.depth if result.relative_depth is None else result.relative_depth
        step = math.ceil(max(depth.shape) / 320)
        small = depth[::step, ::step]
        colours = colour_depth(small, *depth_range(small[::3, ::3]))
        both = np.concatenate([frame.image[::step, ::step], colours], axis=1)
        page.show_image('camera, and depth from red (near) to blue', both)
        if page.shows(CLOUD) and result.relative_depth is None:
            step = math.ceil(math.sqrt(depth.size / _MOST_POINTS))
            image, part = frame.image[::step, ::step], result.depth[::step, ::step]
            cloud = organised_cloud(part, image, frame.intrinsics.subsampled(step))
            near = part < page.range  # neither NaN nor infinite, but for -inf: too near
            near &= part > 0
            page.show_points('cloud', CLOUD, cloud[near][:, :3], image[near], pose)

    def _draw_splats(self, pose: np.ndarray, gaussians: Gaussians) -> None:
        buffer = splats(gaussians, _MOST_SPLATS)
        if len(buffer):
            self._page.show_splats(buffer, self._origin.local(pose))
        sent = buffer.nbytes * max(1, self._gate.watchers)
        self._splats_due = time.monotonic() + sent / (_SPLAT_SHARE * self._rate)

    def _draw_words(self, result: FrameResult | None) -> None:
        if time.monotonic() < self._words_due:
            return
        self._words_due = time.monotonic() + _WORDS_PERIOD
        lines = list(self._controls.words())
        if result is not None and result.scale is not None:
            std = math.expm1(math.sqrt(result.scale.log_variance))
            lines.insert(0, f'**scale** {result.scale.value:.3f} ± {std:.0%}')
        if lines:
            self._page.say(lines)

    def _look(self) -> None:
        placed, look = self._page.placed, self._controls.look
        if placed is None:  # the first look waits for a frame that is kept for it
            self._look_due = time.monotonic() + _LOOK_PERIOD
        if placed is None or look is None or time.monotonic() < self._look_due:
            return
        self._look_due = time.monotonic() + _LOOK_PERIOD
        T_world_view = placed.copy()
        T_world_view[:3, 3] += self._origin.position
        with suppress(SharpError):  # while nothing runs there is nothing to see
            look(T_world_view)


def open_gate(web: WebConfig, page: Page, came: Callable[[], None] = lambda: None) -> Gate:
    """The door to a page, which is closed if that cannot be had.

    Raises:
        ConfigError: if the address or port cannot be had.
    """
    try:
        return Gate(web.address, web.port, page.server, came)
    except ConfigError:
        page.close()
        raise
