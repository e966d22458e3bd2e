"""All virtual cameras: which are due, what they see, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
import math

import numpy as np

from sharp_ros.camera import Frame, Intrinsics, unproject
from sharp_ros.config import ViewConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.gaussians import GaussianBlocks, Gaussians
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.rasterizer import rasterize
from sharp_ros.rate_limiter import RateLimiter
from sharp_ros.se3 import apply, inverse
from sharp_ros.viewpoints import locate, viewpoints

VIEW, VIEW_DEPTH = 'view/', '/depth'  # outputs are `view/<name>` and `view/<name>/depth`

_SAMPLES = 16  # along either side of the image, of surface points whose angle is judged
_BORDER_PX = 4
_RED = (220, 30, 30)


@dataclass(frozen=True)
class Placement:
    """Where a virtual camera stands: in its parent frame, and among the Gaussians.

    Attributes:
        parent_frame: name of the frame it is placed in.
        T_parent_view: [4, 4] its pose there.
        fixed: whether it never moves there.
        T_scene_view: [4, 4] its pose in the frame of the Gaussians, called `scene`.
    """

    parent_frame: str
    T_parent_view: np.ndarray
    fixed: bool
    T_scene_view: np.ndarray


@dataclass(frozen=True)
class View:
    """An image of a virtual camera.

    Attributes:
        image: [H, W, 3] uint8 sRGB, with a red border if there is a doubt.
        depth: [H, W] float32 z-depth in metres (median of the ray, so that edges keep to one of
            their two surfaces), NaN where less than half of the pixel is covered; None unless
            asked for.
        intrinsics: of both.
        placement: of the camera.
        coverage: share of the image that is backed by Gaussians, 0..1.
        angle: median over the visible surface between the direction it is seen from and the
            nearest direction it was observed from, radians; NaN where nothing is seen.
        distance: from the nearest place it was observed from, metres.
        skipped: Gaussians that could not be drawn, see `Rendering`.
        doubt: why it lies beyond the bounds of its configuration; empty if it does not.
        withheld: whether it must not be shown for that.
    """

    image: np.ndarray
    depth: np.ndarray | None
    intrinsics: Intrinsics
    placement: Placement
    coverage: float
    angle: float
    distance: float
    skipped: int
    doubt: str
    withheld: bool


@dataclass(frozen=True)
class Seen:
    """A frame as virtual cameras may look at it.

    Attributes:
        frame: with its pose and transforms as far as known.
        gaussians: of it, in its optical frame.
        mapped: whether it was integrated into the map.
    """

    frame: Frame
    gaussians: Gaussians
    mapped: bool


class VirtualCameras:
    """The virtual cameras of a configuration.

    Args:
        configs: by name.

    Raises:
        ConfigError: if one of them cannot stand as configured.
    """

    def __init__(self, configs: Mapping[str, ViewConfig]) -> None:
        self._limits: dict[str, RateLimiter] = {}
        self._latest: Seen | None = None  # while somebody may ask for a view of it
        self.reconfigure(configs)

    def reconfigure(self, configs: Mapping[str, ViewConfig]) -> None:
        """Go on with other settings.

        Raises:
            ConfigError: if one of them cannot stand as configured; then nothing has changed.
        """
        self._viewpoints, self._configs = viewpoints(configs), configs
        for name, config in configs.items():
            self._limits.setdefault(name, RateLimiter(config.rate_hz)).rate_hz = config.rate_hz

    def reset(self) -> None:
        """Let all be due, and forget what was seen."""
        for limit in self._limits.values():
            limit.reset()
        self._latest = None

    @property
    def frames(self) -> dict[str, str]:
        """The frame each is placed in, as configured; those of requests come with them."""
        return {
            name: self._viewpoints[name].frame
            for name, config in self._configs.items()
            if config.placement != 'request'
        }

    def take_due(self, stamp_ns: int, wanted: Collection[str]) -> list[str]:
        """Names of those that are to be rendered for a frame; their turns are used up.

        Args:
            stamp_ns: of the frame.
            wanted: outputs with subscribers, of which `view/<name>` count.
        """
        wished = [name for name in self.frames if VIEW + name in wanted]
        return [name for name in wished if self._limits[name].take(stamp_ns)]

    def on_request(self, wanted: Collection[str]) -> list[str]:
        """Names of those with subscribers that are rendered when somebody says where from."""
        configs = self._configs.items()
        names = [name for name, config in configs if config.placement == 'request']
        return [name for name in names if VIEW + name in wanted]

    def render(
        self, due: Iterable[str], seen: Seen, world: WorldMap, wanted: Collection[str]
    ) -> tuple[dict[str, View], dict[str, PoseUnavailableError]]:
        """Render those that are due, and keep what they see for views on request.

        Args:
            due: names, from `take_due`.
            seen: the newest frame.
            world: the map, whose Gaussians are the scene of some.
            wanted: outputs with subscribers, of which `view/<name>/depth` count.

        Returns:
            Views by name, and why others cannot be placed.

        Raises:
            InputError: if the Gaussians cannot be rendered.
        """
        self._latest = seen if self.on_request(wanted) else None
        return self._render(due, seen, world, wanted)

    @property
    def latest(self) -> Frame:
        """The frame that a requested view would show.

        Raises:
            InputError: `no_frame_yet`.
        """
        if self._latest is None:
            raise InputError(
                'no image received since the requested view was subscribed to', 'no_frame_yet'
            )
        return self._latest.frame

    def render_request(
        self,
        parent: str,
        T_parent_view: np.ndarray,
        frame: Frame,
        world: WorldMap,
        wanted: Collection[str],
    ) -> tuple[dict[str, View], dict[str, PoseUnavailableError]]:
        """Render those of placement `request` from the newest Gaussians.

        Args:
            parent: frame the pose is given in.
            T_parent_view: [4, 4] pose of the optical frame.
            frame: `latest`, with the transform of the parent if that is a frame of tf.
            world: as for `render`.
            wanted: as for `render`.

        Returns:
            As `render`.

        Raises:
            InputError: if the Gaussians cannot be rendered.
        """
        assert self._latest is not None
        seen, pose = replace(self._latest, frame=frame), (parent, T_parent_view)
        return self._render(self.on_request(wanted), seen, world, wanted, pose)

    def _render(
        self,
        names: Iterable[str],
        seen: Seen,
        world: WorldMap,
        wanted: Collection[str],
        request: tuple[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, View], dict[str, PoseUnavailableError]]:
        """Render some of them, from the pose [4, 4] in a frame where that is requested."""
        frame = seen.frame
        views: dict[str, View] = {}
        unplaced: dict[str, PoseUnavailableError] = {}
        for name in names:
            config, viewpoint = self._configs[name], self._viewpoints[name]
            parent, pose = request or (viewpoint.frame, viewpoint.pose(frame.stamp_ns))
            try:
                T_camera_parent, parent = locate(frame, parent)
                gaussians, T_scene_camera, observers = _scene(config.source, seen, world)
            except PoseUnavailableError as error:
                unplaced[name] = error
                continue
            T_scene_view = T_scene_camera @ T_camera_parent @ pose
            views[name] = render_view(
                gaussians,
                viewpoint.intrinsics,
                Placement(parent, pose, viewpoint.fixed, T_scene_view),
                observers,
                config,
                with_depth=VIEW + name + VIEW_DEPTH in wanted,
            )
        return views, unplaced


def _scene(
    source: str, seen: Seen, world: WorldMap
) -> tuple[Gaussians | GaussianBlocks, np.ndarray, np.ndarray]:
    """Gaussians to look at, `T_scene_camera`, and [K, 3] where they were observed from."""
    if source == 'frame':
        return seen.gaussians, np.eye(4), np.zeros((1, 3))
    if seen.frame.T_world_camera is None or not seen.mapped:
        raise PoseUnavailableError('the pose of the camera in the map is not known', 'no_pose')
    blocks, observers = world.fused_blocks()
    return blocks, world.local(seen.frame), observers


def render_view(
    gaussians: Gaussians | GaussianBlocks,
    intrinsics: Intrinsics,
    placement: Placement,
    observers: np.ndarray,
    config: ViewConfig,
    *,
    with_depth: bool,
) -> View:
    """Render a virtual camera and judge what it shows.

    Args:
        gaussians: in the frame `scene`.
        intrinsics: of the image.
        placement: of the camera.
        observers: [K, 3] where real cameras were that saw the Gaussians, in the same frame.
        config: bounds of trust.
        with_depth: whether somebody wants depth.

    Raises:
        InputError: if the Gaussians are points only, or the pose is not finite.
    """
    T_scene_view = placement.T_scene_view
    rendering = rasterize(gaussians, intrinsics, inverse(T_scene_view), median_depth=with_depth)
    image, arrays = rendering.image(), rendering.arrays
    alpha = arrays.alpha
    depth = None
    if arrays.median_depth is not None:
        depth = arrays.median_depth
        depth = np.where(depth > 0, depth, np.float32(np.nan))
    coverage, skipped = float(alpha.mean()), int(arrays.skipped)
    surface = np.where(alpha >= 0.5, arrays.depth, np.float32(0))
    angle = _parallax(surface, intrinsics, T_scene_view, observers)
    distance = float(np.linalg.norm(observers - T_scene_view[:3, 3], axis=1).min())
    doubt = _doubt(coverage, angle, distance, config)
    if doubt:
        _mark(image)
    return View(
        image,
        depth,
        intrinsics,
        placement,
        coverage,
        angle,
        distance,
        skipped,
        doubt,
        bool(doubt) and config.withhold,
    )


def _parallax(
    depth: np.ndarray, intrinsics: Intrinsics, T_scene_view: np.ndarray, observers: np.ndarray
) -> float:
    """Median angle at the surface between the view and the observer nearest to it, radians."""
    height, width = depth.shape
    rows, columns = (np.linspace(0, n - 1, _SAMPLES).astype(int) for n in (height, width))
    picked = np.zeros_like(depth)
    picked[np.ix_(rows, columns)] = depth[np.ix_(rows, columns)]
    points = unproject(picked, intrinsics)[picked > 0].astype(np.float64)
    if not len(points):
        return math.nan
    points = apply(T_scene_view, points)

    def directions(eyes: np.ndarray) -> np.ndarray:  # [K, 3] -> [K, N, 3]
        rays = eyes[:, None] - points
        return rays / np.maximum(np.linalg.norm(rays, axis=-1, keepdims=True), 1e-9)

    cosine = (directions(observers) * directions(T_scene_view[None, :3, 3])).sum(-1).max(0)
    return float(np.median(np.arccos(np.clip(cosine, -1, 1))))


def _doubt(coverage: float, angle: float, distance: float, config: ViewConfig) -> str:
    if math.isnan(angle):
        return 'it sees no Gaussians; does it look away from what the camera saw?'
    if coverage < config.min_coverage:
        return f'only {coverage:.0%} of it is backed by Gaussians, less than min_coverage'
    if angle > config.max_angle:
        return f'it is turned {angle:.2f} rad from what was observed, more than max_angle'
    if distance > config.max_distance:
        return f'it is {distance:.2f} m from where the camera was, more than max_distance'
    return ''


def _mark(image: np.ndarray) -> None:
    for edge in (np.s_[:_BORDER_PX], np.s_[-_BORDER_PX:]):
        image[edge] = _RED
        image[:, edge] = _RED
