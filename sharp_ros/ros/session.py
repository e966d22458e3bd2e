"""What a node holds from configure to cleanup, and what runs while it is active."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TYPE_CHECKING, TypeVar

from geometry_msgs.msg import PoseStamped

from sharp_ros.config import SharpConfig
from sharp_ros.pipeline import Pipeline
from sharp_ros.ros.decoding import FrameDecoder, RawFrame, StampPairs
from sharp_ros.ros.diagnostics import Health
from sharp_ros.ros.frame_lookup import FrameLookup
from sharp_ros.ros.imu_source import ImuSource
from sharp_ros.ros.outputs import Outputs
from sharp_ros.ros.pose_sources import PoseSource
from sharp_ros.ros.range_source import RangeSource
from sharp_ros.ros.wiring import CameraWiring
from sharp_ros.worker import Worker

if TYPE_CHECKING:
    from sharp_ros.web import LiveView

Result = TypeVar('Result')


@dataclass
class Session:
    """What exists from configure to cleanup.

    Attributes:
        pipeline: network and maps; while the node is active, the worker thread alone uses it.
        decoder: of raw messages.
        pairs: joins images with their measured depth.
        poses: where those of the camera come from.
        imu: what is up, if the robot has one.
        ranger: its range finder, likewise.
        lookup: of what belongs to a frame at its stamp, its pose above all.
        outputs: the publishers.
        rasterizer: what renders the views, for reports.
        config: in effect; replaced as a whole, between two frames.
        web: the live view, if there is one.
        wiring: tells the camera from others on its topics, and knows its calibration.
        uncalibrated: newest image, and depth, that came before any calibration.
        last_stamp_ns: of the newest image since activation; None before it.
        requests: the newest view request, unless it was served.
    """

    pipeline: Pipeline
    decoder: FrameDecoder
    pairs: StampPairs
    poses: PoseSource
    imu: ImuSource | None
    ranger: RangeSource | None
    lookup: FrameLookup
    outputs: Outputs
    rasterizer: str
    config: SharpConfig
    web: LiveView | None
    wiring: CameraWiring
    uncalibrated: RawFrame | None = None
    last_stamp_ns: int | None = None
    requests: deque[PoseStamped] = field(default_factory=lambda: deque(maxlen=1))

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only; between two frames."""
        self.pipeline.reconfigure(config)
        self.lookup.reconfigure(config)
        self.config = config

    def wanted(self) -> set[str]:
        """Outputs of a frame that somebody wants now, named as in `frame_result`."""
        wanted = self.outputs.wanted()
        return wanted if self.web is None else wanted | self.web.wanted()

    def publish_map(self) -> None:
        """Publish the map as it is now, empty or not, in place of the one that stands."""
        pipeline, outputs = self.pipeline, self.outputs
        if self.web is not None:
            self.web.start_over(pipeline.grid())
        world_frame = pipeline.world_frame or outputs.map_frame
        if world_frame:  # else there never was a map
            outputs.publish_map(
                pipeline.grid(),
                pipeline.map_points(),
                pipeline.map_origin,
                self.last_stamp_ns or 0,
                world_frame,
            )

    def facts(self) -> dict[str, Any]:
        """Model, device, precision and memory, for the diagnostics."""
        pipeline, info, engine = self.pipeline, self.pipeline.info, self.pipeline.engine
        facts = {
            'model': info.name,
            'description': info.description,
            'licence': info.licence,
            'depth': 'metric' if info.metric else 'relative',
            'device': pipeline.device,
            'precision': engine.precision,
            'execution': engine.execution,
            'rasterizer': self.rasterizer,
            **engine.memory_mb(),
        }
        if pipeline.masked_share is not None:
            facts['masked_share'] = f'{pipeline.masked_share:.3f}'
        if engine.check_error is not None:
            facts['self_check'] = f'{engine.check_error:.3g}'
        return facts


@dataclass(frozen=True)
class Running:
    """What is at work while the node is active.

    Attributes:
        session: of the node.
        worker: whose thread owns the pipeline.
        health: of the frames.
        enabled: whether images are processed.
    """

    session: Session
    worker: Worker[RawFrame]
    health: Health
    enabled: bool

    def call(self, function: Callable[[], Result]) -> Result:
        """The result of a function that the worker thread runs between two frames.

        Raises:
            TimeoutError: if the frame in progress hangs.
            SharpError: if the node was deactivated first.
        """
        return self.worker.call(function, self.health.patience())
