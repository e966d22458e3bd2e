"""The map of the run: what frames are taken into it, what it looks like, how far to believe it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.frame_result import CLEARING, MAP_POINTS, OCCUPANCY
from sharp_ros.gaussians import Gaussians
from sharp_ros.localization.localized import Localized
from sharp_ros.mapping.map_files import MapState
from sharp_ros.mapping.map_fit import MapCheck, MapFit
from sharp_ros.mapping.verdict import judge, MapCourse, Verdict
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.rate_limiter import RateLimiter
from sharp_ros.stopwatch import Stopwatch


class Mapper:
    """Owns the map, and one that was loaded until it is known whether it fits what is seen.

    Args:
        config: all settings.

    Attributes:
        world: the map.
    """

    def __init__(self, config: SharpConfig) -> None:
        self._config = config
        self.world, self._course = WorldMap(config), MapCourse()
        self._loaded: tuple[WorldMap, MapCheck] | None = None  # to be used, if it fits
        # since the newest outputs, which frames that fail do not have
        self._restarted = False
        self._fit: MapFit | PoseUnavailableError | None = None
        rate_hz = config.occupancy.rate_hz
        self._limits = {name: RateLimiter(rate_hz) for name in (OCCUPANCY, MAP_POINTS)}

    def reset(self) -> None:
        """Empty the map, and forget one that was loaded but does not stand yet."""
        self._loaded = self._fit = None
        for part in (self.world, self._course, *self._limits.values()):
            part.reset()

    def start_over(self) -> None:
        """Empty the map since its world is gone: the next `outputs` say so.

        A loaded map is still of use; what it was held against is not.
        """
        loaded = self._loaded
        self.reset()
        if loaded is not None:
            self.load(loaded[0])
        self._restarted = True

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only."""
        self._config = config
        self.world.reconfigure(config)
        for limit in self._limits.values():
            limit.rate_hz = config.occupancy.rate_hz

    def replace(self, world: WorldMap) -> None:
        """Go on with another map."""
        self.reset()
        self.world = world

    def load(self, world: WorldMap) -> None:
        """Have a map take the place of the present one once `check_loaded` finds that it fits."""
        self._loaded, self._fit = (world, world.check_of_fit()), None

    @property
    def checks_loaded(self) -> bool:
        """Whether a map was loaded of which it is not known yet whether it fits."""
        return self._loaded is not None

    def check_loaded(self, localized: Localized, depth: np.ndarray) -> None:
        """Hold a map that was loaded against what is seen: `outputs` say what was found.

        If it fits it is the map from now on; until then, and if it does not, that of before goes
        on.
        """
        frame = localized.frame
        if (
            self._loaded is None
            or frame.T_world_camera is None
            or localized.unmappable is not None
        ):
            return
        world, check = self._loaded
        try:
            world.check_source(frame, visual=localized.visual)
        except PoseUnavailableError as error:
            self._loaded, self._fit = None, error
            return
        variance = 0.0 if localized.scale is None else localized.scale.log_variance
        fit = check.add(depth, frame.intrinsics, world.local(frame), variance)
        if fit is None:
            return
        if fit.refusal() is None:
            world.reconfigure(self._config)  # it may have changed meanwhile
            self.replace(world)
            self._restarted = True
        self._loaded, self._fit = None, fit

    def integrate(
        self,
        localized: Localized,
        depth: np.ndarray,
        gaussians: Gaussians | None,
        clock: Stopwatch,
        log_std: np.ndarray | None,
    ) -> PoseUnavailableError | InputError | None:
        """Take a frame into the map if its pose is known; if it is not of this map, say why.

        Args:
            localized: frame, pose and scale.
            depth: [H, W] z-depth in metres; NaN where there is none.
            gaussians: of the frame, in its optical frame; without them it is not fused.
            clock: that tells how long it took.
            log_std: [m, n] standard deviation of the logarithm of the depth, that of its scale
                left out; None: not known.
        """
        frame, error = localized.frame, localized.unmappable
        if frame.T_world_camera is not None and error is None:
            try:
                self.world.integrate(
                    frame,
                    depth,
                    visual=localized.visual,
                    scale=localized.depth_scale,
                    log_std=log_std,
                )
            except PoseUnavailableError as changed:
                error = changed
        clock.lap('map')
        if frame.T_world_camera is not None and error is None and gaussians is not None:
            self.world.fuse(frame, depth, gaussians)
        clock.lap('fuse')
        self._note_course(localized, error)
        return error

    def pass_over(self, stamp_ns: int, reason: str) -> None:
        """Note an image that was not worth processing, which leaves a hole in the map.

        Args:
            stamp_ns: of the image.
            reason: short snake_case key.
        """
        self._course.passed_over(stamp_ns, reason)

    def _note_course(
        self, localized: Localized, error: PoseUnavailableError | InputError | None
    ) -> None:
        """Note what became of a frame, for the verdict on the map."""
        frame, motion, scale = localized.frame, localized.motion, localized.scale
        stamp_ns = frame.stamp_ns
        if error is not None:
            self.pass_over(stamp_ns, error.reason)
        elif frame.T_world_camera is not None:
            variance = None if scale is None else scale.log_variance
            disputed = scale is not None and bool(scale.disputed)
            doubt = localized.level_doubt
            self._course.mapped(stamp_ns, variance, disputed=disputed, level_doubt=doubt)
        else:
            self.pass_over(stamp_ns, 'no_pose' if motion is None else f'odometry_{motion.state}')

    def outputs(
        self, localized: Localized, depth: np.ndarray, wanted: Collection[str], *, mapped: bool
    ) -> dict[str, Any]:
        """What is due, and what happened to the map as a whole, by the names in `FrameResult`."""
        outputs: dict[str, Any] = {}
        frame = localized.frame
        if mapped and OCCUPANCY in wanted and self._limits[OCCUPANCY].take(frame.stamp_ns):
            outputs['grid'] = grid = self.world.grid()
            outputs['verdict'] = judge(self._course.facts(grid))
        if mapped and MAP_POINTS in wanted and self._limits[MAP_POINTS].take(frame.stamp_ns):
            outputs['map_points'] = self.world.points()
        outputs['origin'] = self.world.origin
        if CLEARING in wanted and localized.unmappable is None:  # a guess clears nobody's map
            scale = localized.depth_scale
            outputs['clearing_points'] = self.world.clearing_points(frame, depth, scale)
        outputs |= {'restarted': self._restarted, 'loaded': self._fit}
        self._restarted, self._fit = False, None
        return outputs

    def verdict(self) -> Verdict:
        """How far the map can be believed as it is now."""
        return judge(self._course.facts(self.world.grid()))

    def state(
        self, stamp_ns: int, odometry: Mapping[str, np.ndarray], about: Mapping[str, str]
    ) -> MapState:
        """See `WorldMap.state`; with the verdict."""
        return replace(self.world.state(stamp_ns, odometry, about), verdict=self.verdict())
