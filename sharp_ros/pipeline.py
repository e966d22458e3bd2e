"""One frame from image to map and views: the steps in their order, here and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import SharpConfig
from sharp_ros.engine import choose_device
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.frame_result import (
    BegunFrame,
    CLEARING,
    FrameResult,
    GAUSSIANS,
    MAP_POINTS,
    OCCUPANCY,
    POINTS,
    SCAN,
    SeenFrame,
)
from sharp_ros.gaussians import Gaussians
from sharp_ros.loading import load_engine
from sharp_ros.localization.localized import Localized
from sharp_ros.localization.scanner import PlacedScan, scan_of_frame
from sharp_ros.pipeline_state import PipelineState
from sharp_ros.point_cloud import certain_depth, clean_depth, organised_cloud
from sharp_ros.se3 import checked_pose
from sharp_ros.stereo import PredictedDepth
from sharp_ros.stopwatch import Stopwatch
from sharp_ros.views import Seen, VIEW
from sharp_ros.warm_up import warm_up_frame


class Pipeline(PipelineState):
    """Takes frames through all steps; only one thread may touch it."""

    @classmethod
    def from_config(cls, config: SharpConfig) -> Pipeline:
        """Build every part, loading the weights; `load_any_pipeline` does for any model.

        Raises:
            ConfigError: if the model or the device does not exist, or has no metres.
            CheckpointError: if the weights cannot be loaded.
        """
        device = choose_device(config.model.device)
        return cls(*load_engine(config.model, device), config, device)

    def warm_up(self, intrinsics: Intrinsics) -> None:
        """Run every step once on a pattern, so that the first real frame is not the slow one.

        Kernels are compiled here, the first time on a machine; later they come from a cache on
        disk.
        """
        views = (VIEW + name for name in self.config.views)
        self.begin_snapshot()
        frame = warm_up_frame(intrinsics)
        with self._bodiless():
            self.process(frame, {POINTS, GAUSSIANS, OCCUPANCY, MAP_POINTS, CLEARING, SCAN, *views})
        with suppress(InputError):  # a network may see nothing in it
            self.take_snapshot().cloud()
        self._refinement.warm_up(intrinsics)
        self.reset()

    def process(self, frame: Frame, wanted: Collection[str]) -> FrameResult:
        """Run all steps of one frame: `begin`, then `finish`, which is `see` and `place`.

        Raises:
            InputError: if the frame cannot be used.
            EngineError: if the network cannot be run.
        """
        return self.finish(self.begin(frame, wanted))

    def begin(self, frame: Frame, wanted: Collection[str]) -> BegunFrame:
        """Hand a frame to the device; frames are finished in the order they were begun.

        Args:
            frame: with pose if it shall be integrated into the map.
            wanted: outputs with subscribers: `points`, `gaussians`, `occupancy_grid`,
                `map_points`, `clearing_points`, `scan`, `view/<name>`, `view/<name>/depth`. The
                depth of the image is always there, since the rest is made from it.

        Raises:
            InputError: `bad_pose` if the pose is not finite or not rigid; `bad_mask` if the mask
                of the robot is none of this image; one of `ContentCheck` if the image shows
                nothing, or nothing new.
            EngineError: if the network cannot be run.
        """
        clock = Stopwatch()
        if frame.T_world_camera is not None:
            checked_pose(frame.T_world_camera)  # nothing shall be learnt from such a frame
        # What of the image is the robot itself is not looked at.
        self._newest = frame  # also if the mask is of another camera, to be set right
        frame = self._body.hidden(frame)
        # Does the image show anything, and does its pose agree with gravity?
        objection = self._objection(frame)
        clock.lap('content')
        # Do recent images say as much of this one as the network would?
        carried = None if objection else self._refinement.carried(frame)
        clock.lap('carry')
        if carried is not None:
            beside = self.engine.runs_beside
            return BegunFrame(frame, frozenset(wanted), carried, clock, runs_beside=beside)
        # What is known of gravity and height makes the scale of the network better.
        floor = self._localizer.floor(frame)
        pending = self.engine.submit(frame.image, frame.intrinsics, frame.depth, floor)
        return BegunFrame(frame, frozenset(wanted), pending, clock, objection)

    def _objection(self, frame: Frame) -> InputError | None:
        """Why nothing may be learnt from a frame; see `ContentCheck` and `contradiction`."""
        try:
            objection = None if self._check is None else self._check(frame)
        except InputError as error:
            self._mapper.pass_over(frame.stamp_ns, error.reason)
            raise
        objection = objection or self._body.objection(frame)
        return objection or self._localizer.gravity_objection(frame)

    def finish(self, begun: BegunFrame) -> FrameResult:
        """Run all steps that follow the network.

        Raises:
            InputError: if the frame cannot be used.
            EngineError: if the network cannot be run.
        """
        return self.place(self.see(begun))

    def see(self, begun: BegunFrame) -> SeenFrame:
        """Run the steps from the network to depth in metres, which can be published already.

        Raises:
            InputError: if the frame cannot be used.
            EngineError: if the network cannot be run.
        """
        frame, wanted, clock = begun.frame, begun.wanted, begun.clock
        # What is known is of no use after a jump in time, or for another camera.
        self._start_over_if_needed(frame)
        # What the network, or the depth sensor, says. Few need the covariances of the network.
        due = self._views.take_due(frame.stamp_ns, wanted) if begun.asks_network else ()
        covariances = bool(due) or self._needs_covariances(frame, wanted)
        gaussians, predicted = begun.predicted(covariances, measured=self.info.needs_depth)
        frame, gaussians, predicted = self._without_body(frame, gaussians, predicted)
        # Where is the camera? An image that shows nothing does not say.
        tracked = self._localizer.track(frame, predicted.depth, clock, begun.objection)
        # What recent images say about the depth of this one.
        refined = self._refinement.refine(tracked, predicted, self._localizer.factor, clock)
        # What is metric scale, and where is the floor?
        seen = (refined.scale, refined.poses_hold)
        localized = self._localizer.observe(
            tracked, refined.depth, clock, *seen, network_std=predicted.scale_std
        )
        self._refinement.remember(localized, refined, predicted)
        frame = localized.frame
        gaussians, depth = localized.to_metres(refined.corrected(gaussians), refined.depth)
        # What of the depth can be believed.
        depth = clean_depth(depth, self.config.point_cloud)
        clock.lap('depth')
        log_std = localized.log_std(refined.log_std)
        cloud = self._cloud(frame, depth, log_std) if POINTS in wanted else None
        clock.lap('points')
        # What a laser scanner would see of it.
        scan, unscanned = self._scan(begun, localized, depth, log_std)
        clock.lap('scan')
        result = FrameResult(
            frame=frame,
            gaussians=gaussians,
            depth=depth,
            log_std=log_std,
            cloud=cloud,
            scan=scan,
            unscanned=unscanned,
            scale=localized.scale,
            refinement=refined.motion,
            motion=localized.motion,
        )
        return SeenFrame(result, begun, localized, due, refined.log_std)

    def place(self, seen: SeenFrame) -> FrameResult:
        """Run the steps that follow: map and views. Frames are placed before the next is seen.

        Raises:
            InputError: if the frame cannot be used.
        """
        result, localized, wanted = seen.result, seen.localized, seen.begun.wanted
        assert localized is not None
        frame, depth, gaussians, clock = (
            result.frame,
            result.depth,
            result.gaussians,
            seen.begun.clock,
        )
        clock.lap('between')  # what the caller did with the depth, and for the next frame
        # A map that was loaded takes its place if it fits what is seen.
        self._check_loaded(localized, depth)
        clock.lap('check')
        # The map, where the pose is known, and the snapshot, while one is under way.
        unmapped = self._mapper.integrate(localized, depth, gaussians, clock, seen.shape_std)
        if seen.begun.objection is None:
            self._snapshots.add(frame, depth)
        # What virtual cameras see.
        mapped = frame.T_world_camera is not None and unmapped is None
        views, unplaced = {}, {}
        if gaussians is not None:
            scene = Seen(frame, gaussians, mapped)
            views, unplaced = self._views.render(seen.due, scene, self._mapper.world, wanted)
        clock.lap('views')
        # What the map looks like now.
        map_outputs = self._mapper.outputs(localized, depth, wanted, mapped=mapped)
        clock.lap('grid')
        return replace(
            result,
            views=views,
            unplaced=unplaced,
            mapped=mapped,
            unmapped=unmapped,
            timings_ms=self._timings(seen.begun),
            **map_outputs,
        )

    def survey(self, frames: Iterable[Frame]) -> None:
        """Look at a whole recording for its level and floor, so that all of it can be mapped.

        Then the pipeline is as new, but knows the level of the world of visual odometry, if the
        same frames come again.

        Args:
            frames: with poses where these come from elsewhere; then there is nothing to be found.

        Raises:
            PoseUnavailableError: `floor_not_found`, with what would help.
        """
        self.reset()
        self._localizer.level.surveys = True
        try:
            for frame in frames:
                with suppress(InputError):  # which is reported when it is to be mapped
                    self.process(frame, ())
            level = self._localizer.level.surveyed()
        finally:
            self._localizer.level.surveys = False
            self.reset()
        self._localizer.level.start_at(level)

    def _needs_covariances(self, frame: Frame, wanted: Collection[str]) -> bool:
        """Whether anybody but the views that are due needs the shape of the Gaussians."""
        asked = GAUSSIANS in wanted or bool(self._views.on_request(wanted))
        return asked or self._mapper.world.may_fuse(frame)

    def _without_body(
        self, frame: Frame, gaussians: Gaussians | None, predicted: PredictedDepth
    ) -> tuple[Frame, Gaussians | None, PredictedDepth]:
        """A frame and its depth without what stands in the box around the robot."""
        factor = np.float32(1.0 if self.info.needs_depth else self._localizer.factor)
        inside = self._body.in_box(frame, predicted.depth * factor)
        if inside is None:
            return frame, gaussians, predicted
        unseen = inside if frame.unseen is None else inside | frame.unseen
        if gaussians is not None:
            gaussians = gaussians.hidden(inside)
        return replace(frame, unseen=unseen), gaussians, predicted.hidden(inside)

    def _cloud(
        self, frame: Frame, depth: np.ndarray, log_std: np.ndarray | None
    ) -> np.ndarray:  # [H, W], [m, n] -> [H, W, 4]
        """Points of a frame, but for those that are too uncertain."""
        depth = certain_depth(depth, log_std, self.config.point_cloud.max_std)
        return organised_cloud(depth, frame.image, frame.intrinsics)

    def _scan(
        self,
        begun: BegunFrame,
        localized: Localized,
        depth: np.ndarray,
        log_std: np.ndarray | None,
    ) -> tuple[PlacedScan | None, PoseUnavailableError | InputError | None]:
        """The scan of a frame, or why there is none; neither if nobody asked for it."""
        if SCAN not in begun.wanted:
            return None, None
        floor = self._localizer.floor(localized.frame)
        try:
            scan = scan_of_frame(localized, depth, log_std, floor, self.config, begun.objection)
        except (PoseUnavailableError, InputError) as error:
            return None, error
        return scan, None

    def _check_loaded(self, localized: Localized, depth: np.ndarray) -> None:
        """See `Mapper.check_loaded`; of a map that is taken all views are due."""
        before = self._mapper.world
        self._mapper.check_loaded(localized, depth)
        if self._mapper.world is not before:
            self._views.reset()

    def _timings(self, begun: BegunFrame) -> dict[str, float]:
        stages = self.engine.timings_ms if begun.asks_network else {}
        return {**begun.clock.laps, **{f'network.{name}': ms for name, ms in stages.items()}}
