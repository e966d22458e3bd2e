"""The lifecycle node: topics, QoS, services and diagnostics around one pipeline. Wiring only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Vector3Stamped
from nav_msgs.msg import OccupancyGrid, Odometry
import numpy as np
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import differences, frozen_changes, SharpConfig
from sharp_ros.engine import release_memory
from sharp_ros.errors import ConfigError, InputError, PoseUnavailableError, SharpError
from sharp_ros.frame_result import FrameResult
from sharp_ros.localization.odometry import Motion
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.pipeline import (
    CLEARING,
    GAUSSIANS,
    MAP_POINTS,
    OCCUPANCY,
    Pipeline,
    POINTS,
)
from sharp_ros.ros.answers import answer_patiently
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    cloud_to_msg,
    depth_to_msg,
    diagnostics_to_msg,
    gaussians_to_msg,
    grid_to_msg,
    image_to_msg,
    odometry_to_msg,
    points_to_msg,
    pose_from_msg,
    scale_to_msg,
    snapshot_to_msg,
    stamp_ns_from_msg,
)
from sharp_ros.ros.decoding import FrameDecoder, RawFrame, StampPairs
from sharp_ros.ros.diagnostics import Health, NORMAL_DROPS
from sharp_ros.ros.ending import Ending
from sharp_ros.ros.graph import SubscriptionEventCallbacks, why_silent
from sharp_ros.ros.parameters import (
    declare_parameters,
    is_ours,
    parameter_changes,
    read_config,
)
from sharp_ros.ros.pose_sources import make_pose_source, PoseSource
from sharp_ros.ros.services import LAST_PATIENCE, Services
from sharp_ros.ros.transforms import Transforms, TWO_PARENTS
from sharp_ros.se3 import moved_pose
from sharp_ros.snapshot import SnapshotCloud
from sharp_ros.stopwatch import Stopwatch
from sharp_ros.viewpoints import CAMERA, viewpoints, WORLD
from sharp_ros.views import VIEW, View, VIEW_DEPTH
from sharp_ros.worker import Wait, Worker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_OUTPUT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_MAP = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
# Odometry is small and needed without gaps, but its publishers may be of either reliability.
_ODOMETRY = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
IMAGE, SNAPSHOT = 'image_rect', 'snapshot/points'
DEPTH, RELATIVE = 'depth', 'relative_depth'  # each with an image and its camera_info
_KEPT = (OCCUPANCY, MAP_POINTS)  # for late subscribers, so sent even if nobody listens
_WARM_UP_SIZE = (640, 480)
_from_config = partial(Pipeline.from_config, relative=True)
_THROTTLE, _KINDS = 5.0, 50  # seconds between two warnings of a kind; kinds within them


class SharpNode(LifecycleNode):
    """One camera in; depth, clouds, Gaussians, occupancy grid and virtual views out.

    Args:
        make_pipeline: builds the pipeline at configure; replaced in tests.
        kwargs: passed to rclpy, for example `parameter_overrides`.
    """

    def __init__(
        self,
        make_pipeline: Callable[[SharpConfig], Pipeline] = _from_config,
        **kwargs: Any,
    ) -> None:
        # Ctrl-C has rclpy destroy the node even if it is made by half
        self._requests: Services | None = None
        self._worker: Worker[RawFrame] | None = None
        self._subscribers: list[Any] = []
        super().__init__('sharp', **kwargs)
        self._make_pipeline = make_pipeline
        self._pipeline: Pipeline | None = None
        self._health = Health()
        self._label = 'unconfigured'
        self._outputs: dict[str, Any] = {}
        self._heard: set[str] = set()  # outputs with a subscriber, when last asked
        self._info: CameraInfo | None = None
        self._last_stamp_ns = 0
        self._request: PoseStamped | None = None
        self._enabled = True
        self._told: dict[tuple[str, str], float] = {}  # when a warning of some kind was logged
        self._prefix = '_'.join([*self.get_namespace().strip('/').split('/'), '']).lstrip('_')
        self._map_frame = ''  # of the newest map that was published
        self._transforms = Transforms(self)
        declare_parameters(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(1.0, self.publish_diagnostics)
        self._requests = Services(self, self)
        answer_patiently(self)

    # lifecycle ---------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Validate the parameters, load and warm up the network, create the publishers."""
        try:
            if self._configure():
                self._label = 'inactive'
                return SUCCESS
        except Exception as error:  # a transition must answer, whatever torch raises
            self.get_logger().error(f'cannot configure: {_text(error)}')
        self._release()
        return FAILURE

    def _configure(self) -> bool:
        """False if the node was told to end meanwhile."""
        config = read_config(self)
        pipeline = self._make_pipeline(config)
        begun = time.monotonic()
        pipeline.warm_up(Intrinsics.from_hfov(1.0, *_WARM_UP_SIZE))
        health = Health(warm_up=time.monotonic() - begun)
        self._rasterizer = pipeline.rasterizer if config.views else 'not used'
        if not self.context.ok():
            return False
        self._pipeline, self._config, self._health = pipeline, config, health
        self._decoder = FrameDecoder(config.camera)
        self._poses: PoseSource = make_pose_source(
            config.pose, self._transforms, self.get_logger().info
        )
        self._pairs = StampPairs(config.camera.depth_tolerance)
        frames = {*pipeline.view_frames.values(), config.pose.base_frame, config.scale.floor_frame}
        if frames - {CAMERA, WORLD, ''} or config.pose.publish_tf:
            self._transforms.listen()
        self._create_outputs(config, metric=pipeline.info.metric)
        info = pipeline.info
        kind = 'metric' if info.metric else 'relative'
        self.get_logger().info(
            f'model {info.name} ({kind}): {info.description}; licence {info.licence}; '
            f'{pipeline.engine.precision} on {pipeline.device}, {pipeline.engine.execution}'
        )
        changed = ', '.join(f'{key}: {value}' for key, value in differences(config).items())
        self.get_logger().info(f'settings that differ from the defaults: {changed or "none"}')
        return True

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker, then listen."""
        assert self._pipeline is not None
        try:
            self._pipeline.engine.prepare()  # it may have been released
        except Exception as error:  # the device may be full by now
            self.get_logger().error(f'cannot activate: {_text(error)}')
            return FAILURE
        result = super().on_activate(state)  # enables the publishers
        self._worker = Worker(self._process, self._on_error, name='sharp_worker')
        self._last_stamp_ns, self._request = 0, None
        try:
            self._create_subscribers(self._config)
        except Exception as error:  # the middleware refuses, for example another type
            self.get_logger().error(f'cannot listen: {_text(error)}')
            self._stop()
            super().on_deactivate(state)
            return FAILURE
        self._label, self._enabled = 'active', True
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening, finish the frame at work; keep the map and, unless told, the device."""
        stopped = self._stop(self._health.patience())
        assert self._pipeline is not None
        self._label = 'inactive'
        if stopped:
            self._reconfigure(read_config(self))  # what the worker did not come to
            if self._config.model.release_when_inactive:
                self._pipeline.engine.release()
        self.publish_diagnostics()
        result = super().on_deactivate(state)
        # a frame that hangs would touch the map beside the next worker: start over instead
        return result if stopped else TransitionCallbackReturn.ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network, the map and the publishers."""
        self._release()
        self._label = 'unconfigured'
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from whatever state."""
        self._release()
        self._label = 'finalized'
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a failed transition: back to unconfigured with nothing held."""
        self._release()
        self._label = 'unconfigured'
        return SUCCESS

    def destroy_node(self) -> None:
        """Stop the threads before the handles go."""
        if self._requests is not None:
            self._requests.stop()
        if not self._stop(step=LAST_PATIENCE, ending=True):
            self.get_logger().info('the frame at work is given up, since the node ends')
        super().destroy_node()
        # rclpy leaves this to the garbage collector, which cannot break the cycle: services of the
        # transitions would go on, and the participant would stay with its shared memory
        machine = getattr(self, '_state_machine', None)
        if machine is not None:
            machine.destroy_when_not_in_use()

    def _stop(self, patience: float = 0.0, step: float = 5.0, *, ending: bool = False) -> bool:
        """Stop listening and working; False if the frame at work did not end in time.

        Args:
            patience: seconds that it has, while the context lives.
            step: seconds that it has in any case.
            ending: whether all ends, so that it is no error that the frame does not.
        """
        for subscriber in self._subscribers:
            self.destroy_subscription(subscriber)
        self._subscribers.clear()
        end = time.monotonic() + patience
        while self._worker is not None and not self._worker.stop(step):
            if time.monotonic() > end or not self.context.ok():
                self._worker = None  # see `_process`
                if not ending:
                    self.get_logger().error('the frame at work did not end; it is left to itself')
                return False
        return True

    def _release(self) -> None:
        self._stop()
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs.clear()
        self._pipeline = self._worker = self._info = None
        release_memory()

    def _create_outputs(self, config: SharpConfig, *, metric: bool) -> None:
        depth = DEPTH if metric else RELATIVE
        topics: dict[str, tuple[type, QoSProfile]] = {
            f'{depth}/image': (Image, _OUTPUT),
            f'{depth}/camera_info': (CameraInfo, _OUTPUT),
            IMAGE: (Image, _OUTPUT),
        }
        made_of_metres: dict[str, tuple[type, QoSProfile]] = {
            POINTS: (PointCloud2, _OUTPUT),
            GAUSSIANS: (PointCloud2, _OUTPUT),
            OCCUPANCY: (OccupancyGrid, _MAP),
            MAP_POINTS: (PointCloud2, _MAP),
            CLEARING: (PointCloud2, _OUTPUT),
            'odometry': (Odometry, _OUTPUT),
            'scale': (Vector3Stamped, _OUTPUT),
            SNAPSHOT: (PointCloud2, _MAP),
        }
        for name in config.views:
            made_of_metres[f'{VIEW}{name}/image'] = (Image, _OUTPUT)
            made_of_metres[f'{VIEW}{name}/camera_info'] = (CameraInfo, _OUTPUT)
            made_of_metres[f'{VIEW}{name}{VIEW_DEPTH}'] = (Image, _OUTPUT)
        topics |= made_of_metres if metric else {}
        for topic, (kind, qos) in topics.items():
            self._outputs[topic] = self.create_lifecycle_publisher(
                kind,
                f'~/{topic}',
                copy(qos),  # overrides are written into it
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )

    def _create_subscribers(self, config: SharpConfig) -> None:
        assert self._pipeline is not None
        image_type = {'raw': Image, 'compressed': CompressedImage}[config.camera.transport]
        topics: list[tuple[type, str, Callable[[Any], None], QoSProfile]] = [
            (image_type, 'image', self._on_image, _SENSOR),
            (CameraInfo, 'camera_info', self._on_info, _SENSOR),
        ]
        if self._pipeline.info.needs_depth:
            topics.append((Image, 'depth', self._on_depth, _SENSOR))
        if self._poses.odometry is not None:
            topics.append((Odometry, 'odometry', self._on_odometry, _ODOMETRY))
        if any(view.placement == 'request' for view in config.views.values()):
            topics.append((PoseStamped, '~/view_request', self._on_view_request, _OUTPUT))
        for kind, topic, callback, qos in topics:
            incompatible = partial(self._on_incompatible_qos, topic)
            self._subscribers.append(
                self.create_subscription(
                    kind,
                    topic,
                    callback,
                    copy(qos),
                    event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                )
            )

    # input: executor thread --------------------------------------------------------------------

    def _on_image(self, msg: Any) -> None:
        assert self._worker is not None
        assert self._pipeline is not None
        stamp_ns = stamp_ns_from_msg(msg.header)
        silence = self._health.image_arrived(stamp_ns, self.get_clock().now().nanoseconds)
        if silence:
            self.get_logger().info(f'images are back after {silence:.1f} s')
        if not self._enabled:
            self._worker.reject('disabled')
            return
        if stamp_ns < self._last_stamp_ns:
            self._transforms.time_went_back(self._last_stamp_ns - stamp_ns)
            self._health.event('stamp_went_back')
            self._warn(
                'Input',
                'stamp_went_back',
                'image stamps went back; a bag that loops? Beyond 1 s the maps start over',
            )
        self._last_stamp_ns = stamp_ns
        if self._pipeline.info.needs_depth:
            self._submit_pair(*self._pairs.add_image(msg))
        else:
            self._worker.submit(RawFrame(msg, self._info))

    def _on_depth(self, msg: Any) -> None:
        self._submit_pair(*self._pairs.add_depth(msg))

    def _submit_pair(self, pair: tuple[Any, Any] | None, lost: int) -> None:
        assert self._worker is not None
        for _ in range(lost):
            self._worker.reject('no_depth')
            self._warn(
                'Input',
                'no_depth',
                'images come without depth of the same stamp; check topic "depth"',
            )
        if pair is not None:
            self._worker.submit(RawFrame(pair[0], self._info, pair[1]))

    def _on_info(self, msg: Any) -> None:
        self._info = msg

    def _on_odometry(self, msg: Any) -> None:
        assert self._poses.odometry is not None
        try:
            if not self._poses.odometry.add(msg):
                self._health.event('odometry_went_back')
                self._warn(
                    'Mapping',
                    'odometry_went_back',
                    'odometry stamps went back; earlier poses were dropped',
                )
        except InputError as error:
            self._health.event(error.reason)
            self._warn('Mapping', error.reason, str(error))

    def _on_view_request(self, msg: PoseStamped) -> None:
        assert self._worker is not None
        waiting, self._request = self._request is not None, msg
        if not waiting:
            self._worker.post(self._serve_request)

    def _on_incompatible_qos(self, topic: str, event: Any) -> None:
        """Somebody publishes what cannot reach us: say who, and what to do."""
        names = {self.resolve_topic_name(topic), topic}
        found = (self._why_silent(s) for s in self._subscribers if s.topic_name in names)
        self._health.event('incompatible_qos')
        text = next(found, '') or f'a publisher on {topic} cannot reach us'
        self._warn('Input', f'incompatible_qos.{topic}', text)

    def _why_silent(self, subscriber: Any) -> str:
        kind = subscriber.msg_type
        name = f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'
        return why_silent(self, subscriber.topic_name, name, subscriber.qos_profile)

    # one frame: worker thread ------------------------------------------------------------------

    def _process(self, raw: RawFrame) -> Iterator[Wait]:
        pipeline, worker = self._pipeline, self._worker
        assert pipeline is not None
        wanted = self._wanted()
        metric = pipeline.info.metric
        maps = metric and self._config.pose.source != 'none'
        if maps:  # kept for late subscribers, so it is made whoever listens
            wanted.add(OCCUPANCY)
        elif not wanted and pipeline.snapshot_is_complete:
            raise InputError('nobody listens to any output', 'nobody_listens')
        clock = Stopwatch()
        frame = self._decoder.decode(raw)
        clock.lap('decode')
        if not frame.frame_id:
            self._health.event('no_frame_id')
            self._warn(
                'Input',
                'no_frame_id',
                'images name no frame, so none of tf can be placed in it; set the frame_id of '
                'the camera driver',
            )
        if metric:  # else there is nothing to place
            frame = self._placed(frame, wanted, maps=maps)
        clock.lap('pose')
        begun = pipeline.begin(frame, wanted)
        if begun.pending.wait is not None:
            yield begun.pending.wait
        result = pipeline.finish(begun)
        clock.lap('process')
        if self._worker is not worker:  # it hung, and the node has gone on without it
            return
        self._publish(result)
        clock.lap('publish')
        age_ms = (self.get_clock().now().nanoseconds - frame.stamp_ns) / 1e6
        self._health.frame_done(age_ms, {**clock.laps, **result.timings_ms}, result.mapped)

    def _placed(self, frame: Frame, wanted: set[str], *, maps: bool) -> Frame:
        """The frame with its pose and the transforms it needs, as far as they are known."""
        end = time.monotonic() + self._config.pose.wait  # for all of them together
        try:
            T_world_camera, world_frame = self._poses.lookup(frame.stamp_ns, frame.frame_id)
            frame = frame.placed(T_world_camera, world_frame)
        except PoseUnavailableError as error:
            self._not_mapped(error.reason, str(error), tell=maps)
        return self._with_transforms(frame, wanted, end)

    def _wanted(self) -> set[str]:
        """Outputs with a subscriber, named as in `pipeline`."""
        outputs = self._outputs.items()
        self._heard = {topic for topic, p in outputs if p.get_subscription_count()}
        wanted = self._heard - {SNAPSHOT}
        for topic in self._heard:
            if topic.startswith(VIEW):
                wanted.add(topic.rpartition('/')[0])
        return wanted

    def _with_transforms(self, frame: Frame, wanted: set[str], end: float) -> Frame:
        """The frame with the transforms that views stand in; missing ones are told later."""
        assert self._pipeline is not None
        needed = {f for name, f in self._pipeline.view_frames.items() if VIEW + name in wanted}
        own = {self._config.pose.base_frame, self._config.scale.floor_frame}
        frame = self._looked_up(frame, own, 'Mapping', end)
        return self._looked_up(frame, needed - own, 'Views', end)

    def _looked_up(self, frame: Frame, names: set[str], component: str, end: float) -> Frame:
        found = dict(frame.transforms)
        for name in names - {'', CAMERA, WORLD, frame.frame_id, frame.world_frame}:
            try:
                wait, tolerance = max(0.0, end - time.monotonic()), self._config.pose.tolerance
                found[name] = self._transforms.lookup(
                    frame.frame_id, name, frame.stamp_ns, wait, tolerance
                )
            except PoseUnavailableError as error:  # the views that need it are counted later
                if error.reason == TWO_PARENTS and component == 'Mapping' and frame.world_frame:
                    frame = frame.placed(None, '')  # where it stands on the robot is in doubt
                    self._not_mapped(error.reason, str(error))
                else:
                    self._warn(component, f'{error.reason}.{name}', str(error))
        return replace(frame, transforms=found) if found else frame

    def _serve_request(self) -> None:
        """Render the views of placement `request` as the newest request says."""
        assert self._pipeline is not None
        msg, self._request = self._request, None
        try:
            wanted = self._wanted()
            parent, T_parent_view = pose_from_msg(msg)
            end = time.monotonic() + self._config.pose.wait
            frame = self._looked_up(self._pipeline.latest, {parent}, 'Views', end)
            views, unplaced = self._pipeline.render_request(parent, T_parent_view, frame, wanted)
            self._publish_views(views, unplaced, frame.stamp_ns)
        except InputError as error:
            self._health.event(error.reason)
            self._warn('Views', error.reason, f'view request not served: {error}')
        except Exception as error:  # a request must not end the worker thread
            self._on_error(error, 'internal_error')

    def _publish(self, result: FrameResult) -> None:
        frame = result.frame
        stamp_ns, frame_id = frame.stamp_ns, frame.frame_id
        if result.restarted:
            self.publish_map()  # the old one must not stand, and not all of it may be in `result`
        self._send(IMAGE, partial(image_to_msg, frame.image, stamp_ns, frame_id))
        relative = result.relative_depth
        topic, depth = (DEPTH, result.depth) if relative is None else (RELATIVE, relative)
        self._send(f'{topic}/image', lambda: depth_to_msg(depth, stamp_ns, frame_id))
        self._send(
            f'{topic}/camera_info',
            lambda: camera_info_to_msg(frame.intrinsics, stamp_ns, frame_id),
        )
        if relative is not None:
            return
        if result.cloud is not None:
            cloud = result.cloud
            self._send(POINTS, lambda: cloud_to_msg(cloud, stamp_ns, frame_id))
        if result.gaussians.quats is not None:  # a subscriber may have come after they were made
            self._send(GAUSSIANS, lambda: gaussians_to_msg(result.gaussians, stamp_ns, frame_id))
        scale, motion = result.scale, result.motion
        if scale is not None:
            self._health.scale(scale.value, scale.log_variance)
            self._send(
                'scale', partial(scale_to_msg, scale.value, scale.log_variance, stamp_ns, frame_id)
            )
        if motion is not None:
            self._health.odometry(motion)
            self._publish_motion(frame, motion)
        if result.unmapped is not None:
            self._not_mapped(result.unmapped.reason, str(result.unmapped))
        self._publish_map(result.grid, result.map_points, stamp_ns, frame.world_frame)
        if result.clearing_points is not None:
            self._send(
                CLEARING, partial(points_to_msg, result.clearing_points, stamp_ns, frame_id)
            )
        self._publish_views(result.views, result.unplaced, stamp_ns)
        assert self._pipeline is not None
        assert self._requests is not None
        if self._pipeline.snapshot_is_complete:
            self._requests.snapshot_is_complete()

    def _publish_motion(self, frame: Frame, motion: Motion) -> None:
        """Odometry, and by parameter the transform, of the base frame where there is one."""
        if motion.T_odom_camera is None:
            self._not_mapped(f'odometry_{motion.state}', f'visual odometry is {motion.state}')
            return
        child = self._config.pose.base_frame or frame.frame_id
        T_camera_child = np.eye(4) if child == frame.frame_id else frame.transforms.get(child)
        if T_camera_child is None:  # the reason is told where it was looked up
            return
        assert motion.covariance is not None
        pose, covariance = moved_pose(motion.T_odom_camera, motion.covariance, T_camera_child)
        place = (pose, frame.stamp_ns, frame.world_frame, child)
        self._send('odometry', partial(odometry_to_msg, *place, covariance))
        if self._config.pose.publish_tf:
            owner = self._transforms.owner(child, frame.world_frame)
            if owner is None:
                self._transforms.broadcast(pose, *place[1:], fixed=False)
            elif owner:
                self._health.event('tf_owned_by_another')
                self._warn(
                    'Mapping',
                    'tf_owned_by_another',
                    f'{child} is not broadcast: somebody else does so, in {owner}; turn off one '
                    'of the two (pose.publish_tf)',
                )

    def _publish_map(
        self,
        grid: OccupancyGrid2D | None,
        map_points: np.ndarray | None,
        stamp_ns: int,
        world: str,
    ) -> None:
        if grid is not None:
            self._map_frame = world
            place = (grid.cells, grid.resolution, grid.origin, stamp_ns, world)
            self._send(OCCUPANCY, partial(grid_to_msg, *place))
        if map_points is not None:
            self._send(MAP_POINTS, partial(points_to_msg, map_points, stamp_ns, world))

    def publish_map(self) -> None:
        """Publish the map as it is now, empty or not, in place of the one that stands."""
        assert self._pipeline is not None
        world = self._pipeline.world_frame or self._map_frame
        if world:  # else there never was a map
            pipeline = self._pipeline
            self._publish_map(pipeline.grid(), pipeline.map_points(), self._last_stamp_ns, world)

    def publish_snapshot(self, cloud: SnapshotCloud) -> None:
        """Publish a snapshot, also for late subscribers."""
        self._outputs[SNAPSHOT].publish(snapshot_to_msg(cloud))

    def timings(self) -> str:
        """How long the steps of recent frames took."""
        return self._health.timings()

    def patience(self) -> float:
        """Seconds after which the frame at work is taken to hang."""
        return self._health.patience()

    def enabled(self) -> bool:
        """Whether images are processed."""
        return self._enabled

    def set_enabled(self, enabled: bool) -> None:
        """Process images, or ignore them; the map and the weights are kept."""
        self._enabled = enabled
        if self._label in ('active', 'disabled'):
            self._label = 'active' if enabled else 'disabled'

    def running(self) -> tuple[Pipeline, Worker[RawFrame], SharpConfig]:
        """The parts at work.

        Raises:
            SharpError: while the node is not active.
        """
        if self._pipeline is None or self._worker is None:
            raise SharpError('the node is not active; configure and activate it first')
        return self._pipeline, self._worker, self._config

    def _publish_views(
        self,
        views: Mapping[str, View],
        unplaced: Mapping[str, PoseUnavailableError],
        stamp_ns: int,
    ) -> None:
        for name, error in unplaced.items():
            self._health.view_unplaced(name, error.reason)
            reason = f'{name}.{error.reason}'
            self._warn('Views', reason, f'view {name} not rendered: {error}')
        for name, view in views.items():
            self._health.view_done(name, view)
            if view.withheld:
                continue
            # several nodes, each in its namespace, share one tf
            place, frame_id = view.placement, f'{self._prefix}{name}_optical_frame'
            if np.array_equal(place.T_parent_view, np.eye(4)):
                frame_id = place.parent_frame  # where somebody else's frame is, none of ours
            else:
                self._transforms.broadcast(
                    place.T_parent_view, stamp_ns, place.parent_frame, frame_id, fixed=place.fixed
                )
            header = (stamp_ns, frame_id)
            topic = VIEW + name
            self._send(f'{topic}/image', partial(image_to_msg, view.image, *header))
            self._send(
                f'{topic}/camera_info', partial(camera_info_to_msg, view.intrinsics, *header)
            )
            if view.depth is not None:
                self._send(topic + VIEW_DEPTH, partial(depth_to_msg, view.depth, *header))

    def _send(self, topic: str, make: Callable[[], Any]) -> None:
        """Build and publish a message if somebody listens or may do so later."""
        if topic in _KEPT or topic in self._heard:
            self._outputs[topic].publish(make())

    def _on_error(self, error: Exception, reason: str) -> None:
        if reason in NORMAL_DROPS or not self.context.ok():  # at the end nothing can be sent
            return
        if isinstance(error, SharpError):
            self._warn('Input', reason, f'frame dropped ({reason}): {error}')
        else:
            text = _text(error)
            self._health.problem('Inference', text)
            self.get_logger().error(
                f'frame dropped by an internal error, please report it: {text}',
                throttle_duration_sec=_THROTTLE,
            )

    # the rest ----------------------------------------------------------------------------------

    def publish_diagnostics(self) -> None:
        """Publish the state of every component (REP-107)."""
        facts: dict[str, Any] = {}
        if self._pipeline is not None:
            info = self._pipeline.info
            facts = {
                'model': info.name,
                'description': info.description,
                'licence': info.licence,
                'depth': 'metric' if info.metric else 'relative',
                'device': self._pipeline.device,
                'precision': self._pipeline.engine.precision,
                'execution': self._pipeline.engine.execution,
                'rasterizer': self._rasterizer,
                **self._pipeline.engine.memory_mb(),
            }
            if self._pipeline.engine.check_error is not None:
                facts['self_check'] = f'{self._pipeline.engine.check_error:.3g}'
        counts = self._worker.counts() if self._worker is not None else None
        silence, reason = self._health.silence(), ''
        if self._subscribers and (silence is None or silence > 1.0):
            reason = self._why_silent(self._subscribers[0])  # that of the images
        name = self.get_fully_qualified_name()
        statuses = self._health.statuses(self._label, facts, counts, name.lstrip('/'), reason)
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(diagnostics_to_msg(statuses, now_ns, name))

    def _not_mapped(self, reason: str, why: str, *, tell: bool = True) -> None:
        """Count a frame that is published but not integrated."""
        self._health.unmapped(reason)
        if tell:
            self._warn('Mapping', reason, f'not mapped: {why}')

    def _warn(self, component: str, reason: str, message: str) -> None:
        self._health.problem(component, message)
        # rclpy throttles by line of code: here one warning would silence all the others
        key, now = (component, reason), time.monotonic()
        recent = {k: when for k, when in self._told.items() if now - when < _THROTTLE}
        if key not in recent and len(recent) < _KINDS:
            self._told = {**recent, key: now}  # replaced as a whole: several threads warn
            self.get_logger().warning(message)

    def set_parameters_atomically(
        self, parameter_list: list[Parameter[Any]]
    ) -> SetParametersResult:
        """Set parameters, or refuse them with a text; what stays as it is may be said, too.

        A dump of all parameters can be loaded back that way, although some are read-only.
        """
        changes, unknown = parameter_changes(self, parameter_list)
        if unknown:
            return SetParametersResult(successful=False, reason=unknown)
        if not changes:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changes)

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Refuse what is invalid; apply between two frames what may change, refuse the rest."""
        try:
            if any(is_ours(parameter.name) for parameter in changes):
                config = read_config(self, changes)
                if self._pipeline is not None:
                    self._reconfigure(config)
        except Exception as error:  # it would end the node
            return SetParametersResult(successful=False, reason=_text(error))
        return SetParametersResult(successful=True)

    def _reconfigure(self, config: SharpConfig) -> None:
        pipeline = self._pipeline
        assert pipeline is not None
        frozen = frozen_changes(self._config, config)
        if frozen:
            raise ConfigError(
                f'{", ".join(frozen)}: read at configure; deactivate and clean up the node first'
            )
        viewpoints(config.views)  # raises before anybody is told that all is well

        def apply() -> None:
            pipeline.reconfigure(config)
            self._config = config

        if self._label in ('active', 'disabled') and self._worker is not None:
            self._worker.post(apply)
        else:
            apply()


def main(ending: Ending, args: list[str] | None = None) -> int:
    """Run the node until it is asked to end; it waits to be configured and activated.

    Args:
        ending: tells when.
        args: command line in place of that of the process.
    """
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    ending.wake(executor.wake)
    node: SharpNode | None = None
    code = 0
    try:
        node = SharpNode()
        executor.add_node(node)
        while not ending.asked.is_set() and rclpy.ok():
            executor.spin_once()
    except ExternalShutdownException:
        pass
    except Exception as error:
        if rclpy.ok():  # else what fails does so because the end has come
            get_logger('sharp').fatal(f'the node ends: {_text(error)}')
            traceback.print_exc()
            code = 1
    ending.limit(code)
    executor.shutdown(0.0)
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()
    return code


def _text(error: Exception) -> str:
    """What is told of an error; those of ours say what to do and need no name."""
    return str(error) if isinstance(error, SharpError) else f'{type(error).__name__}: {error}'
