"""The lifecycle node: transitions, subscriptions and the steps of a frame around one pipeline.

Wiring only; it is one class of rclpy with its callbacks and so stays one module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import partial
import time
import traceback
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
import numpy as np
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, LaserScan, Range

from sharp_ros.camera import Intrinsics
from sharp_ros.config import differences, frozen_changes, SharpConfig
from sharp_ros.engine import release_memory
from sharp_ros.errors import ConfigError, InputError, SharpError
from sharp_ros.frame_result import FrameResult, OCCUPANCY
from sharp_ros.pipeline import Pipeline
from sharp_ros.relative_pipeline import load_any_pipeline
from sharp_ros.ros.answers import answer_patiently
from sharp_ros.ros.conversions import (
    diagnostics_to_msg,
    pose_from_msg,
    pose_to_msg,
    stamp_ns_from_msg,
)
from sharp_ros.ros.decoding import FrameDecoder, RawFrame, StampPairs
from sharp_ros.ros.diagnostics import Health, NORMAL_DROPS, THROTTLE, ThrottledLog
from sharp_ros.ros.ending import Ending
from sharp_ros.ros.frame_lookup import FrameLookup
from sharp_ros.ros.graph import (
    latched_by,
    publishers_of,
    SubscriptionEventCallbacks,
    why_silent,
)
from sharp_ros.ros.imu_source import ImuSource
from sharp_ros.ros.outputs import Outputs
from sharp_ros.ros.parameters import (
    declare_parameters,
    INPUT_POLICIES,
    is_ours,
    overrides_without_effect,
    parameter_changes,
    read_config,
    serve_parameters,
)
from sharp_ros.ros.polling import PolledGroup, waiting_messages
from sharp_ros.ros.pose_sources import make_pose_source
from sharp_ros.ros.range_source import RangeSource
from sharp_ros.ros.services import LAST_PATIENCE, Services
from sharp_ros.ros.session import Running, Session
from sharp_ros.ros.transforms import Transforms
from sharp_ros.ros.web_view import open_web_view
from sharp_ros.ros.wiring import CameraWiring
from sharp_ros.stopwatch import Stopwatch
from sharp_ros.worker import Wait, Worker

if TYPE_CHECKING:
    from sharp_ros.web import LiveView

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
_REQUEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# Odometry is small and needed without gaps, but its publishers may be of either reliability.
_ODOMETRY = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
_RANGE = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
# Taken before each image, of which the slowest network begins one in two seconds.
_IMU = QoSProfile(depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT)
_WARM_UP_SIZE = (640, 480)


class SharpNode(LifecycleNode):
    """One camera in; depth, clouds, Gaussians, occupancy grid and virtual views out.

    Args:
        make_pipeline: builds the pipeline at configure; replaced in tests.
        make_outputs: builds the outputs at configure; replaced in the benchmark.
        kwargs: passed to rclpy, for example `parameter_overrides`.
    """

    def __init__(
        self,
        make_pipeline: Callable[[SharpConfig], Pipeline] = load_any_pipeline,
        make_outputs: Callable[..., Outputs] = Outputs,
        **kwargs: Any,
    ) -> None:
        # Ctrl-C has rclpy destroy the node even if it is partly constructed
        self._requests: Services | None = None
        self._worker: Worker[RawFrame] | None = None
        self._subscribers: list[Subscription] = []
        super().__init__('sharp', **kwargs)
        self._make_pipeline, self._make_outputs = make_pipeline, make_outputs
        self._session: Session | None = None  # from configure to cleanup
        self._throttled = ThrottledLog(self.get_logger().warning)
        self._health = Health(log=self._throttled)
        self._label = 'unconfigured'
        self._enabled = True
        self._accepted = SharpConfig()  # settings that the next frame will have
        self._is_to_apply = False  # whether the worker has yet to go on with those
        self._map_frame = ''  # of the last session's map, which viewers may still show
        self._transforms = Transforms(self)
        declare_parameters(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(1.0, self.publish_diagnostics)
        self._requests = Services(self, self.running, self.set_enabled, self.timings)
        serve_parameters(self)
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
        """False if the node was asked to end meanwhile."""
        config = read_config(self)
        pipeline = self._make_pipeline(config)
        begun = time.monotonic()
        pipeline.warm_up(Intrinsics.from_hfov(1.0, *_WARM_UP_SIZE))
        health = Health(warm_up=time.monotonic() - begun, log=self._throttled)
        release_memory()  # which compiling and loading took
        rasterizer = pipeline.rasterizer if config.views else 'not used'
        if not self.context.ok():
            return False
        info, transforms = pipeline.info, self._transforms
        poses = make_pose_source(config.pose, transforms, self.get_logger().info)
        imu = ImuSource(config, transforms) if config.imu.enabled else None
        ranger = RangeSource(config, transforms) if config.range.enabled else None
        self._session = Session(
            pipeline=pipeline,
            decoder=FrameDecoder(config.camera),
            pairs=StampPairs(config.camera.depth_tolerance),
            poses=poses,
            imu=imu,
            ranger=ranger,
            lookup=FrameLookup(config, poses, transforms, pipeline, health, imu, ranger),
            outputs=self._make_outputs(
                self, config, transforms, health, metric=info.metric, map_frame=self._map_frame
            ),
            rasterizer=rasterizer,
            config=config,
            web=self._open_web_view(config),
            wiring=CameraWiring(
                health,
                partial(publishers_of, self),
                self.resolve_topic_name('image'),
                self.resolve_topic_name('camera_info'),
            ),
        )
        self._health = health
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
        session = self._configured()
        try:
            session.pipeline.engine.prepare()  # it may have been released
        except Exception as error:  # the device may be full by now
            self.get_logger().error(f'cannot activate: {_text(error)}')
            return FAILURE
        result = super().on_activate(state)  # enables the publishers
        self._worker = Worker(self._process, self._on_error, name='sharp_worker')
        session.last_stamp_ns = session.uncalibrated = None
        session.requests.clear()
        session.wiring.forget_camera()
        self._is_to_apply = False
        try:
            self._create_subscribers(session)
        except Exception as error:  # the middleware refuses, for example another type
            self.get_logger().error(f'cannot listen: {_text(error)}')
            self._stop()
            super().on_deactivate(state)
            return FAILURE
        self._label, self._enabled = 'active', True
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening, finish the frame in progress; keep the map and usually the device."""
        session, stopped = self._configured(), self._stop(self._health.patience())
        self._label = 'inactive'
        if stopped:
            self._reconfigure(read_config(self))  # what the worker did not come to
            if session.config.model.release_when_inactive:
                session.pipeline.engine.release()
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
            self.get_logger().info('the frame in progress is abandoned: the node is shutting down')
        if self._session is not None and self._session.web is not None:
            self._session.web.close()
        super().destroy_node()
        # rclpy leaves this to the garbage collector, which cannot break the cycle: services of the
        # transitions would go on, and the participant would stay with its shared memory
        machine = getattr(self, '_state_machine', None)
        if machine is not None:
            machine.destroy_when_not_in_use()

    def _stop(self, patience: float = 0.0, step: float = 5.0, *, ending: bool = False) -> bool:
        """Stop listening and working; False if the frame in progress did not end in time.

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
                    self.get_logger().error(
                        'the frame in progress did not end in time; its thread is abandoned'
                    )
                return False
        return True

    def _release(self) -> None:
        self._stop()
        if self._session is not None:
            if self._session.web is not None:
                self._session.web.close()
            self._session.outputs.close()
            self._map_frame = self._session.outputs.map_frame
        self._session = self._worker = None
        release_memory()

    def _configured(self) -> Session:
        """The session, where the state of the node says that there is one."""
        assert self._session is not None
        return self._session

    def _create_subscribers(self, session: Session) -> None:
        config = session.config
        image_type = {'raw': Image, 'compressed': CompressedImage}[config.camera.transport]
        topics: list[tuple[type, str, Callable[[Any], None], QoSProfile]] = [
            (image_type, 'image', self._on_image, _SENSOR),
            (CameraInfo, 'camera_info', self._on_info, _SENSOR),
        ]
        if session.pipeline.info.needs_depth:
            topics.append((Image, 'depth', self._on_depth, _SENSOR))
        if session.poses.odometry is not None:
            topics.append((Odometry, 'odometry', self._on_odometry, _ODOMETRY))
        if session.imu is not None:
            topics.append((Imu, 'imu', self._on_imu, _IMU))
        range_type = {'range': Range, 'scan': LaserScan}[config.range.message]
        if session.ranger is not None:
            topics.append((range_type, 'range', self._on_range, _RANGE))
        if any(view.placement == 'request' for view in config.views.values()):
            topics.append((PoseStamped, '~/view_request', self._on_view_request, _REQUEST))
        for kind, topic, callback, qos in topics:
            polled = callback == self._on_imu
            incompatible = partial(self._on_incompatible_qos, topic)
            try:
                subscriber = self.create_subscription(
                    kind,
                    topic,
                    callback,
                    copy(qos),
                    callback_group=PolledGroup() if polled else None,
                    raw=polled,
                    event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
                    qos_overriding_options=QoSOverridingOptions(INPUT_POLICIES),
                )
            except (RuntimeError, TypeError, ParameterException) as error:  # of rclpy
                name = self.resolve_topic_name(topic)
                raise ConfigError(f'qos_overrides.{name}.subscription: {_text(error)}') from error
            self._subscribers.append(subscriber)
        for name in overrides_without_effect(self):
            self._health.report(
                'Input',
                'qos_override_without_effect',
                f'{name} has no effect: the node has no such topic, or no such policy of it; '
                'write qos_overrides.<topic as resolved>.subscription.<policy>, of '
                + ', '.join(kind.name.lower() for kind in INPUT_POLICIES),
            )
        self._listen_to_latched_info()
        if session.imu is not None:
            (subscriber,) = (s for s in self._subscribers if s.msg_type is Imu)
            session.imu.poll = partial(self._poll_imu, subscriber)

    def _listen_to_latched_info(self) -> None:
        """Ask for calibrations that were sent before, which a subscription for all cannot.

        Only where somebody keeps them and none has come, since it would be incompatible with
        those who do not, who would warn of it.
        """
        session, latched = self._configured(), self.resolve_topic_name('camera_info')
        if session.wiring.is_calibrated or not latched_by(self, latched):
            return
        taken = [s.topic_name for s in self._subscribers]
        if taken.count(latched) > 1:
            return
        self._subscribers.append(
            self.create_subscription(
                CameraInfo,
                'camera_info',
                self._on_info,
                copy(_LATCHED),
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )
        )

    # input: executor thread --------------------------------------------------------------------

    def _on_image(self, msg: Any) -> None:
        running = self.running()
        session, worker = running.session, running.worker
        stamp_ns = stamp_ns_from_msg(msg.header)
        silence = self._health.image_arrived(stamp_ns, self.get_clock().now().nanoseconds)
        if silence:
            self.get_logger().info(f'images received again after {silence:.1f} s')
        refused = session.wiring.refuses(msg)  # also while disabled: which camera it is stays
        if refused:
            worker.reject(refused)
            return
        if not running.enabled:
            worker.reject('disabled')
            return
        if session.last_stamp_ns is not None and stamp_ns < session.last_stamp_ns:
            self._transforms.time_went_back(session.last_stamp_ns - stamp_ns)
            self._health.report(
                'Input',
                'stamp_went_back',
                f'image stamps jumped back (looping bag?{self._rivals()}); beyond 1 s the maps '
                'are reset',
            )
        session.last_stamp_ns = stamp_ns
        if session.pipeline.info.needs_depth:
            self._submit_pair(*session.pairs.add_image(msg))
        else:
            self._submit(RawFrame(msg, session.wiring.info_of(msg)))

    def _rivals(self) -> str:
        """Who publishes images, if several do."""
        topic = self.resolve_topic_name('image')
        several = self.count_publishers(topic) > 1
        return ' or two cameras' + publishers_of(self, topic) if several else ''

    def _submit(self, raw: RawFrame) -> None:
        """Hand a frame to the worker; one before any calibration waits for that to come."""
        session, worker = self._configured(), self.running().worker
        before, session.uncalibrated = session.uncalibrated, None
        if raw.info is not None or session.config.camera.fallback_hfov:
            worker.submit(raw)
            return
        if before is not None:
            worker.submit(before)  # where it will be missed
        session.uncalibrated = raw

    def _on_depth(self, msg: Any) -> None:
        self._submit_pair(*self._configured().pairs.add_depth(msg))

    def _submit_pair(self, pair: tuple[Any, Any] | None, lost: int) -> None:
        running = self.running()
        for _ in range(lost):
            running.worker.reject('no_depth')
            self._health.warn(
                'Input',
                'no_depth',
                'no depth image with the stamp of the image; check topic "depth" and '
                'camera.depth_tolerance',
            )
        if pair is not None:
            image, depth = pair
            self._submit(RawFrame(image, running.session.wiring.info_of(image), depth))

    def _on_info(self, msg: CameraInfo) -> None:
        session = self._configured()
        session.wiring.add_info(msg)
        waiting = session.uncalibrated
        if waiting is not None:
            info = session.wiring.info_of(waiting.image)
            if info is not None:
                self._submit(replace(waiting, info=info))

    def _on_odometry(self, msg: Odometry) -> None:
        odometry = self._configured().poses.odometry
        assert odometry is not None
        try:
            if not odometry.add(msg):
                self._health.report(
                    'Mapping',
                    'odometry_went_back',
                    'odometry stamps went back; earlier poses were dropped',
                )
        except InputError as error:
            self._health.report('Mapping', error.reason, str(error))

    def _poll_imu(self, subscriber: Subscription) -> None:
        """On the worker thread, which asks for the samples before an image."""
        for msg in waiting_messages(subscriber):
            self._on_imu(msg)

    def _on_imu(self, msg: Imu | bytes) -> None:
        self._take_in(self._configured().imu, msg)

    def _on_range(self, msg: Any) -> None:
        self._take_in(self._configured().ranger, msg)

    def _take_in(self, sensor: ImuSource | RangeSource | None, msg: Any) -> None:
        assert sensor is not None
        try:
            sensor.add(msg)
        except InputError as error:
            self._health.report('Input', error.reason, str(error))

    def _on_view_request(self, msg: PoseStamped) -> None:
        running = self.running()
        running.session.requests.append(msg)
        running.worker.post(self._serve_request)  # each: it may just be taking the one before

    def _open_web_view(self, config: SharpConfig) -> LiveView | None:
        assert self._requests is not None
        log = self.get_logger()
        return open_web_view(
            config, self._requests, self._look, self._statuses, log.warning, log.info
        )

    def _look(self, T_world_view: np.ndarray) -> None:
        """A view request from the live view, in the frame of the map."""
        frame = self._configured().pipeline.world_frame
        if frame:  # else nothing is mapped that could be looked at
            msg = pose_to_msg(T_world_view, 0, frame)
            self.running().call(partial(self._render_request, msg))

    def _on_incompatible_qos(self, topic: str, event: Any) -> None:
        """A publisher cannot reach us: name it, and what to do."""
        names = {self.resolve_topic_name(topic), topic}
        found = (why_silent(self, s) for s in self._subscribers if s.topic_name in names)
        self._health.event('incompatible_qos')
        text = next(found, '') or f'a publisher on {topic} cannot reach us'
        self._health.warn('Input', f'incompatible_qos.{topic}', text)

    # one frame: worker thread ------------------------------------------------------------------

    def _process(self, raw: RawFrame) -> Iterator[Wait]:
        session, worker = self._configured(), self._worker
        pipeline = session.pipeline
        wanted = session.wanted()
        metric = pipeline.info.metric
        maps = metric and session.config.pose.source != 'none'
        if maps:  # kept for late subscribers, so it is made without any subscriber, too
            wanted.add(OCCUPANCY)
        elif not wanted and pipeline.snapshot_is_complete:
            raise InputError('no output has a subscriber', 'no_subscribers')
        clock = Stopwatch()
        frame = session.decoder.decode(raw)
        clock.lap('decode')
        if not frame.frame_id:
            self._health.report(
                'Input',
                'no_frame_id',
                'images have an empty header.frame_id, so tf lookups are impossible; set frame_id '
                'in the camera driver',
            )
        if metric:  # else there is nothing to map
            frame = session.lookup.complete(frame, wanted, maps=maps)
        clock.lap('pose')
        begun = pipeline.begin(frame, wanted)
        if begun.wait is not None:
            yield begun.wait
        seen = pipeline.see(begun)
        clock.lap('process')
        if self._worker is not worker:  # it hung, and the node has gone on without it
            return
        # depth does not wait for the map, nor, if an image has come, does its network
        self._health.note_seen(seen.result)
        session.outputs.publish_seen(seen.result, broadcast=session.config.pose.publish_tf)
        clock.lap('publish')
        result = pipeline.place(seen)
        clock.lap('process')
        if self._worker is not worker:
            return
        self._publish(result)
        clock.lap('publish')
        age_ms = (self.get_clock().now().nanoseconds - frame.stamp_ns) / 1e6
        self._health.frame_done(age_ms, {**clock.laps, **result.timings_ms}, result.mapped)

    def _publish(self, result: FrameResult) -> None:
        session = self._configured()
        if result.restarted:
            session.publish_map()  # in place of the old one; `result` may hold a part only
        self._health.note_placed(result)
        session.outputs.publish_placed(result)
        if session.web is not None:
            session.web.offer(result)
        if self._requests is not None:
            if session.pipeline.snapshot_is_complete:
                self._requests.snapshot_is_complete()
            if result.loaded is not None:
                self._requests.map_was_checked(result.loaded)

    def _serve_request(self) -> None:
        """Render the views of placement `request` as the newest request says."""
        requests = self._configured().requests
        if requests:  # else it was served in the turn of an older one
            self._render_request(requests.pop())

    def _render_request(self, msg: PoseStamped) -> None:
        session = self._configured()
        try:
            wanted = session.wanted()
            parent, T_parent_view = pose_from_msg(msg)
            frame = session.lookup.with_parent(session.pipeline.latest, parent)
            views, unplaced = session.pipeline.render_request(parent, T_parent_view, frame, wanted)
            self._health.views(views, unplaced)
            session.outputs.publish_views(views, frame.stamp_ns)
            if session.web is not None:
                session.web.offer_views(views, frame, session.pipeline.map_origin)
        except InputError as error:
            self._health.report('Views', error.reason, f'view request not served: {error}')
        except Exception as error:  # a request must not end the worker thread
            self._on_error(error, 'internal_error')

    def _on_error(self, error: Exception, reason: str) -> None:
        if reason in NORMAL_DROPS or not self.context.ok():  # at the end nothing can be sent
            return
        if isinstance(error, SharpError):
            self._health.warn('Input', reason, f'frame dropped ({reason}): {error}')
        else:
            text = _text(error)
            self._health.problem('Inference', text)
            self.get_logger().error(
                f'frame dropped by an internal error, please report it: {text}',
                throttle_duration_sec=THROTTLE,
            )

    # state and parameters ----------------------------------------------------------------------

    def running(self) -> Running:
        """What is at work.

        Raises:
            SharpError: while the node is not active.
        """
        if self._session is None or self._worker is None:
            raise SharpError('the node is not active; configure and activate it first')
        return Running(self._session, self._worker, self._health, self._enabled)

    def set_enabled(self, enabled: bool) -> None:
        """Process images, or ignore them; the map and the weights are kept."""
        self._enabled = enabled
        if self._label in ('active', 'disabled'):
            self._label = 'active' if enabled else 'disabled'

    def timings(self) -> str:
        """How long the steps of recent frames took."""
        return self._health.timings()

    def publish_diagnostics(self) -> None:
        """Publish the state of every component (REP-107)."""
        if self._subscribers:
            self._listen_to_latched_info()
        silence, reason = self._health.silence(), ''
        if self._subscribers and (silence is None or silence > 1.0):
            reason = why_silent(self, self._subscribers[0])  # that of the images
        now_ns, name = self.get_clock().now().nanoseconds, self.get_fully_qualified_name()
        self._diagnostics.publish(diagnostics_to_msg(self._statuses(reason), now_ns, name))

    def _statuses(self, why_silent: str = '') -> list[tuple[str, int, str, dict[str, str]]]:
        facts = self._session.facts() if self._session is not None else {}
        counts = self._worker.counts() if self._worker is not None else None
        name = self.get_fully_qualified_name().lstrip('/')
        return self._health.statuses(self._label, facts, counts, name, why_silent)

    def set_parameters_atomically(
        self, parameter_list: list[Parameter[Any]]
    ) -> SetParametersResult:
        """Set parameters, or refuse them with a text; what stays as it is may be given, too.

        A dump of all parameters can be loaded back like this, although some are read-only.
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
                if self._session is not None:
                    self._reconfigure(config)
        except Exception as error:  # it would end the node
            return SetParametersResult(successful=False, reason=_text(error))
        return SetParametersResult(successful=True)

    def _reconfigure(self, config: SharpConfig) -> None:
        session = self._configured()
        frozen = frozen_changes(session.config, config)
        if frozen:
            raise ConfigError(
                f'{", ".join(frozen)}: read at configure; deactivate and clean up the node first'
            )
        session.pipeline.check(config)  # raises before the change is accepted
        if self._label not in ('active', 'disabled') or self._worker is None:
            session.reconfigure(config)
            return
        self._accepted = config
        if not self._is_to_apply:  # of many changes in a row only the last one counts
            self._is_to_apply = True
            self._worker.post(self._apply_accepted)

    def _apply_accepted(self) -> None:
        """On the worker thread: go on with the settings that were accepted last."""
        self._is_to_apply = False  # first, so that what is accepted meanwhile has a call, too
        self._configured().reconfigure(self._accepted)


def main(ending: Ending, args: list[str] | None = None) -> int:
    """Run the node until it is asked to end; it waits to be configured and activated.

    Args:
        ending: says when.
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
    """How an error is reported; those of ours say what to do and need no name."""
    return str(error) if isinstance(error, SharpError) else f'{type(error).__name__}: {error}'
