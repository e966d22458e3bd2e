"""Every setting with its default, unit, range and help text, written once.

ROS parameters, command-line flags, `config/sharp.yaml` and the documentation are generated from
these dataclasses or tested against them. Keys are nested by dots: `occupancy.voxel_size`. Metres,
seconds and radians go without a suffix, everything else with one. One module, since it is one
table, which is read and searched as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache, lru_cache
import json
import math
import os
from pathlib import Path
import re
from textwrap import wrap
from typing import Any, get_type_hints

from sharp_ros.errors import ConfigError
from sharp_ros.parameter_text import load_value


def option(
    default: Any,
    help: str,  # noqa: A002
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    live: bool = False,
) -> Any:
    """A dataclass field that carries its range, its help text and whether it may change live."""
    metadata = {'help': help, 'minimum': minimum, 'maximum': maximum, 'choices': choices}
    return field(default=default, metadata={**metadata, 'live': live})


@dataclass(frozen=True)
class ModelConfig:
    """Network and inference device."""

    name: str = option(
        'nano',
        'model: nano, sensor or sharp; or the path of nano (.safetensors, .onnx) or SHARP '
        'weights; or the path or name of a description (.yaml) of an ONNX depth network',
    )
    device: str = option('auto', 'inference device', choices=('auto', 'cpu', 'cuda', 'mps'))
    precision: str = option(
        'auto',
        'inference precision; auto: half precision where the device supports it natively, for '
        'sharp and for nano in openvino, else fp32',
        choices=('auto', 'fp32', 'tf32', 'fp16', 'bf16'),
    )
    execution: str = option(
        'auto',
        'execution backend: eager; graph: CUDA graph; compile: torch.compile, minutes at the '
        'first start; onnx: ONNX Runtime; openvino: OpenVINO, on a CPU; auto: graph on cuda, else '
        'for nano the faster of openvino and onnx as measured at the first start, else eager',
        choices=('auto', 'eager', 'graph', 'compile', 'onnx', 'openvino'),
    )
    patch_batch: int = option(
        0,
        'patches that sharp encodes per batch; fewer need less memory; 0: chosen by device',
        minimum=0,
    )
    threads: int = option(0, 'CPU threads for inference; 0: one for each physical core', minimum=0)
    release_when_inactive: bool = option(
        False, 'release of GPU memory on deactivate; activate restores the network', live=True
    )


@dataclass(frozen=True)
class CameraConfig:
    """Camera input."""

    transport: str = option(
        'raw',
        'raw: sensor_msgs/Image; compressed: sensor_msgs/CompressedImage',
        choices=('raw', 'compressed'),
    )
    rectified: bool = option(
        False,
        'already rectified input: intrinsics from P of camera_info; K, D and R only locate the '
        'black margins',
    )
    fallback_hfov: float = option(
        0.0,
        'horizontal field of view of uncalibrated cameras; 0: their images are refused',
        minimum=0.0,
        maximum=3.1,
    )
    depth_tolerance: float = option(
        0.02,
        'largest stamp difference between an image and its registered depth (model sensor)',
        minimum=0.0,
    )
    mask: str = option(
        '',
        'pixels of the image as delivered that show the robot itself, and are not looked at: path '
        'of an 8-bit image, 0 where the robot is, or polygons "x,y x,y x,y; x,y ..."; empty: none',
        live=True,
    )
    robot_box: tuple[float, ...] = option(
        (0.0,) * 6,
        'box x_min y_min z_min x_max y_max z_max around the robot, in the base of '
        'pose.base_to_camera, else in pose.base_frame; what depth shows inside is the robot '
        'itself; all 0: none',
        live=True,
    )


@dataclass(frozen=True)
class PoseConfig:
    """Where the camera's pose comes from; without a pose nothing is integrated."""

    source: str = option(
        'auto',
        'tf; odometry: nav_msgs/Odometry; visual: own visual odometry; auto: the first of these '
        'that provides a pose; none: no mapping',
        choices=('auto', 'tf', 'odometry', 'visual', 'none'),
    )
    world_frame: str = option(
        'odom', 'world frame of the map if poses come from tf or visual odometry'
    )
    wait: float = option(0.1, 'timeout of the pose lookup for an image', minimum=0.0, maximum=2.0)
    tolerance: float = option(
        0.02,
        'largest stamp difference to the nearest pose of tf or odometry, used when no two poses '
        'bracket the image within pose.wait',
        minimum=0.0,
    )
    time_offset: float = option(
        0.0,
        'seconds added to the stamp of an image to look up its pose: positive where the clock of '
        'poses is ahead, or they are stamped late, which pose.wait has to cover; /diagnostics '
        'propose it; of recordings see also --pose-offset',
        live=True,
    )
    max_gap: float = option(
        0.5,
        'longest gap between odometry poses that is interpolated; tf has no such limit',
        minimum=0.0,
    )
    base_to_camera: tuple[float, ...] = option(
        (0.0,) * 7,
        'extrinsics x y z qx qy qz qw of the optical frame in the odometry child frame; all 0: '
        'that frame must be the optical frame itself',
    )
    local_origin: str = option(
        'auto',
        'origin of clouds and Gaussians of the map, which are float32; auto: a point near the '
        'robot if the first pose is more than 10 km from the origin of its world, with '
        '~/map_points in a frame of tf of their own, that of the world and _local; off: always '
        'that of the world',
        choices=('auto', 'off'),
    )
    base_frame: str = option(
        '',
        'robot base frame in tf, z up, e.g. base_footprint: child frame and gravity reference of '
        'visual odometry, centre of the cleared footprint; empty: none',
    )
    publish_tf: bool = option(
        False,
        'tf broadcast of the visual odometry pose, world_frame to base_frame (if empty, the '
        'optical frame); suppressed while another node broadcasts it',
        live=True,
    )


@dataclass(frozen=True)
class ImuConfig:
    """Gravity from an inertial measurement unit."""

    enabled: bool = option(
        False,
        'subscription to imu, whose gravity levels the world; frames whose pose contradicts it '
        'are not mapped',
    )
    base_to_imu: tuple[float, ...] = option(
        (0.0,) * 7,
        'extrinsics x y z qx qy qz qw of the IMU in the base of pose.base_to_camera, else in '
        'pose.base_frame, else in the optical frame; all 0: from tf',
    )


@dataclass(frozen=True)
class RangeConfig:
    """Range finder placed by tf, an anchor of the scale where its ray ends in the image."""

    enabled: bool = option(
        False, 'subscription to range, whose distances are an anchor of the scale'
    )
    message: str = option(
        'range',
        'range: sensor_msgs/Range; scan: sensor_msgs/LaserScan of one beam',
        choices=('range', 'scan'),
    )


@dataclass(frozen=True)
class OdometryConfig:
    """Visual odometry."""

    features: int = option(300, 'target number of tracked features', minimum=30, maximum=2000)
    min_inliers: int = option(
        25, 'minimum number of PnP inliers; below it tracking is lost', minimum=8
    )
    keyframe_parallax: float = option(
        0.05,
        'median parallax that triggers a tracking keyframe, in image widths',
        minimum=0.005,
        maximum=0.5,
    )
    keyframes: int = option(
        30, 'stored keyframes for relocalisation after tracking loss', minimum=1, maximum=200
    )
    max_speed: float = option(
        5.0,
        'largest plausible camera speed, m/s; faster poses need relocalisation',
        minimum=0.1,
    )
    depth_sigma: float = option(
        0.1,
        'relative standard deviation of the depth of one feature; parallax refines it',
        minimum=0.001,
        maximum=1.0,
    )


@dataclass(frozen=True)
class ScaleConfig:
    """One steady metric scale for predicted depth."""

    constant: float = option(
        0.0, 'known scale factor of predicted depth; 0: estimated', minimum=0.0, live=True
    )
    camera_height: float = option(
        0.0, 'camera height above the visible floor; 0: unknown', minimum=0.0, live=True
    )
    floor_frame: str = option(
        '',
        'robot frame in tf with its origin on the floor, e.g. base_footprint: gives gravity and '
        'camera height; empty: none',
    )
    prior_std: float = option(
        0.5, 'initial standard deviation of the log scale of the network', minimum=0.01
    )
    frame_std: float = option(
        0.12, 'frame-to-frame standard deviation of the log scale about its bias', minimum=0.01
    )
    drift_std: float = option(
        0.02, 'random walk of the log scale bias: standard deviation after 1 s', minimum=0.0
    )


@dataclass(frozen=True)
class PointCloudConfig:
    """Depth image and organised cloud."""

    min_range: float = option(0.1, 'smallest valid depth; nearer is -inf', minimum=0.0, live=True)
    max_range: float = option(20.0, 'largest valid depth; farther is +inf', minimum=0.0, live=True)
    edge_ratio: float = option(
        0.12,
        'relative step of inverse depth to both neighbours along a row or column beyond which a '
        'pixel is a flying pixel and dropped; 0: filter off',
        minimum=0.0,
        live=True,
    )
    max_std: float = option(
        0.0,
        'largest standard deviation of log depth (about its relative error) of a point of '
        '~/points; 0: no limit',
        minimum=0.0,
        live=True,
    )


@dataclass(frozen=True)
class RefinementConfig:
    """Predicted depth corrected by what recent images of a moving camera show."""

    enabled: str = option(
        'auto',
        'refinement of predicted depth by motion; auto and on: wherever the pose is known, off: '
        'depth as the network predicts it; measured depth is never changed',
        choices=('auto', 'on', 'off'),
        live=True,
    )
    network_rate_hz: float = option(
        10.0,
        'least rate of the network while poses come from tf or odometry; in between its depth is '
        'carried from image to image by motion, unless too much of an image is new; Gaussians, '
        'views and fused maps come with the network; 0: on every image',
        minimum=0.0,
        live=True,
    )


@dataclass(frozen=True)
class OccupancyConfig:
    """Voxel log-odds map and its 2-D projection."""

    voxel_size: float = option(0.05, 'voxel edge length, also the grid resolution', minimum=0.005)
    size: float = option(20.0, 'side of the square rolling window', minimum=1.0)
    min_height: float = option(0.1, 'bottom of the obstacle height band, z in the world frame')
    max_height: float = option(1.8, 'top of the obstacle height band, z in the world frame')
    min_range: float = option(0.3, 'shortest ray that is integrated', minimum=0.0, live=True)
    max_range: float = option(
        5.0,
        'longest ray that marks; longer rays clear up to this range',
        minimum=0.1,
        live=True,
    )
    # The bounds keep each of them apart from 0, which is unknown, in a map of 16 bits.
    hit_log_odds: float = option(0.85, 'log-odds added by a hit', minimum=0.1)
    miss_log_odds: float = option(0.4, 'log-odds subtracted by a miss', minimum=0.01)
    clamp_log_odds: float = option(
        3.5, 'clamping bound of the log-odds, both signs', minimum=0.1, maximum=20.0
    )
    occupied_log_odds: float = option(
        0.6, 'log-odds at or above which a voxel is occupied', minimum=0.01, maximum=20.0
    )
    free_log_odds: float = option(
        -0.6, 'log-odds at or below which a voxel is free', minimum=-20.0, maximum=-0.01
    )
    range_std: float = option(
        0.01,
        'relative standard deviation of depth over which a hit is spread along its ray; 0: '
        'measured pixel noise only',
        minimum=0.0,
        maximum=0.2,
        live=True,
    )
    max_turn_rate: float = option(
        0.5,
        'rate of rotation of the camera, from pose to pose, above which a frame marks but clears '
        'nothing, as poses may be late; 0: none',
        minimum=0.0,
        live=True,
    )
    decay_time: float = option(
        0.0,
        'time constant of decay: unobserved log-odds fall to 1/e; 0: never',
        minimum=0.0,
        live=True,
    )
    footprint_radius: float = option(
        0.0,
        'radius of footprint clearing around base_frame, else the camera; 0: off',
        minimum=0.0,
        live=True,
    )
    robot_height: float = option(
        0.0, 'height, z in the world frame, up to which free cells were seen free; 0: max_height'
    )
    unseen_above: float = option(
        0.95,
        'height, z in the world frame, above which a free cell may hold space that was never in '
        'view; below, all was seen free',
    )
    drop_offs: str = option(
        'unknown',
        'cells in which the floor (z = 0, with min_height above it) is looked through: unknown, '
        'occupied: the rim occupied, the rest unknown; ignore: no difference',
        choices=('unknown', 'occupied', 'ignore'),
    )
    rate_hz: float = option(
        2.0, 'maximum publishing rate of the grid and of map_points', minimum=0.01, live=True
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and layers of voxels; the last layer may reach past `max_height`."""
        side = max(1, round(self.size / self.voxel_size))
        band = self.max_height - self.min_height
        return side, side, max(1, math.ceil(band / self.voxel_size - 1e-6))


@dataclass(frozen=True)
class ScanConfig:
    """Laser scan of the depth of one image."""

    min_angle: float = option(
        -1.57, 'bearing of the first beam', minimum=-3.15, maximum=3.15, live=True
    )
    max_angle: float = option(
        1.57,
        'bearing of the last beam, counter-clockwise from ahead; beams out of view are NaN',
        minimum=-3.15,
        maximum=3.15,
        live=True,
    )
    angle_increment: float = option(
        0.01, 'angle between beams', minimum=0.001, maximum=0.2, live=True
    )
    min_range: float = option(0.0, 'shortest range; 0: occupancy.min_range', minimum=0.0)
    max_range: float = option(0.0, 'longest range; 0: occupancy.max_range', minimum=0.0)
    min_height: float = option(
        0.0,
        'bottom of the obstacle height band above the floor; 0: occupancy.min_height',
    )
    max_height: float = option(
        0.0,
        'top of the obstacle height band above the floor; 0: occupancy.max_height',
    )


@dataclass(frozen=True)
class KeyframeConfig:
    """Selection of fusion keyframes."""

    distance: float = option(
        0.1, 'camera translation that triggers a fusion keyframe', minimum=0.0, live=True
    )
    angle: float = option(
        0.15, 'camera rotation that triggers a fusion keyframe', minimum=0.0, live=True
    )
    interval: float = option(
        1.0, 'time since the last keyframe that triggers the next', minimum=0.0, live=True
    )
    keep_images: int = option(
        0,
        'largest number of keyframe images kept in memory, 100 kB each, and saved with the map '
        'for sharp-ros optimise and nerfstudio; 0: none',
        minimum=0,
    )


@dataclass(frozen=True)
class GaussianMapConfig:
    """Fused Gaussians of keyframes, rendered by views with source map."""

    enabled: bool = option(
        False, 'fusion of the Gaussians of keyframes, for views with source map'
    )
    voxel_size: float = option(
        0.05, 'voxel edge length, one Gaussian per voxel; 0.03 suits measured depth', minimum=0.005
    )
    max_gaussians: int = option(
        300_000, 'largest number of Gaussians, 130 bytes each', minimum=1000
    )
    max_range: float = option(5.0, 'largest distance at which Gaussians are fused', minimum=0.1)


@dataclass(frozen=True)
class SurfaceMapConfig:
    """Coloured surface fused from keyframes: the mesh and the dense cloud of a saved map."""

    enabled: bool = option(False, 'TSDF fusion of keyframes into a surface mesh; needs open3d')
    voxel_size: float = option(0.02, 'voxel edge length', minimum=0.005)
    max_blocks: int = option(
        20_000, 'largest number of blocks of 8 x 8 x 8 voxels, 10 kB each', minimum=500
    )
    max_range: float = option(4.0, 'largest distance at which depth is fused', minimum=0.1)
    device: str = option('cpu', 'fusion device', choices=('cpu', 'cuda'))


@dataclass(frozen=True)
class SnapshotConfig:
    """The cloud that `~/snapshot` gives: several images of one view, joined."""

    frames: int = option(
        8,
        'number of images joined while the camera stands still, kept in memory until complete',
        minimum=1,
        maximum=100,
        live=True,
    )
    timeout: float = option(
        3.0,
        'time after which the snapshot uses the images received so far',
        minimum=0.1,
        maximum=600.0,
        live=True,
    )
    max_motion: float = option(
        0.01,
        'largest camera motion between images, metres and radians; beyond, collection restarts',
        minimum=0.0,
        live=True,
    )
    max_spread: float = option(
        0.1,
        'largest relative standard deviation of depth of a pixel between images; beyond, no point',
        minimum=0.0,
        live=True,
    )


# Of scenes in the formats of other programs; the writers are in exchange/scene_files.py.
SCENE_SUFFIXES = (
    *('.compressed.ply', '.ply', '.splat', '.spz', '.sog', '.ksplat', '.glb', '.usdz', '.html'),
    *('.xyz', '.las', '.pcd'),
)


@dataclass(frozen=True)
class OutputConfig:
    """Folders of ~/save_map and ~/load_map; services use no others."""

    directory: str = option('~/.ros/sharp_ros', 'parent folder of the maps that ~/save_map writes')
    load: str = option('latest', 'map folder below directory that ~/load_map reads', live=True)
    formats: str = option(
        '',
        'suffixes, separated by spaces, of further files in saved maps, and of files of snapshots '
        'below directory: .compressed.ply .ply .splat .spz .sog .ksplat .glb .usdz .html .xyz '
        '.las .pcd',
        live=True,
    )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those of `formats`, each once."""
        return tuple(dict.fromkeys(self.formats.split()))


@dataclass(frozen=True)
class WebConfig:
    """Live view in the browser; needs the package viser."""

    enabled: bool = option(False, 'web server with a live view of what the node sees and maps')
    port: int = option(
        8080, 'port of the web server; 0: any free one, which is logged', minimum=0, maximum=65535
    )
    address: str = option(
        'localhost',
        'address the web server listens on; localhost: this computer alone; any other, such as '
        '0.0.0.0 for all networks: browsers need the address with the token that is logged',
    )
    rate_mb_s: float = option(
        10.0,
        'largest mean rate of data to all browsers together, MB/s; what is too much is left out',
        minimum=0.1,
        maximum=1000.0,
    )


@dataclass(frozen=True)
class ViewConfig:
    """One virtual camera."""

    width: int = option(320, 'image width, pixels', minimum=16, maximum=4096, live=True)
    height: int = option(240, 'image height, pixels', minimum=16, maximum=4096, live=True)
    hfov: float = option(1.2, 'horizontal field of view', minimum=0.05, maximum=3.0, live=True)
    placement: str = option(
        'look_at',
        'look_at: from position to target; orbit: from position around target; offset: position '
        'and orientation; request: once per pose on ~/view_request',
        choices=('look_at', 'orbit', 'offset', 'request'),
    )
    frame: str = option(
        'camera',
        'reference frame of the placement: camera (optical frame of the image), world (frame of '
        'the pose) or a frame of tf',
    )
    position: tuple[float, ...] = option(
        (0.4, -0.4, -0.4), 'x y z of the viewpoint', minimum=-1e8, maximum=1e8, live=True
    )
    target: tuple[float, ...] = option(
        (0.0, 0.0, 2.5), 'x y z of the look-at point', minimum=-1e8, maximum=1e8, live=True
    )
    up: tuple[float, ...] = option(
        (0.0, 0.0, 0.0),
        'up vector x y z; all 0: -y in the frame camera, +z in any other',
        live=True,
    )
    orientation: tuple[float, ...] = option(
        (0.0, 0.0, 0.0, 1.0),
        'quaternion x y z w of the optical frame, for placement offset',
        live=True,
    )
    period: float = option(20.0, 'orbit period', minimum=0.1, live=True)
    rate_hz: float = option(2.0, 'maximum rendering rate', minimum=0.01, live=True)
    source: str = option(
        'frame',
        'frame: Gaussians of the newest image; map: fused Gaussians (gaussian_map.enabled)',
        choices=('frame', 'map'),
    )
    min_coverage: float = option(
        0.5,
        'smallest share of the image that is backed by Gaussians',
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    max_angle: float = option(
        0.7,
        'largest angle between the virtual line of sight and the nearest real one',
        minimum=0.0,
        live=True,
    )
    max_distance: float = option(
        2.0, 'largest distance from the nearest real camera position', minimum=0.0, live=True
    )
    withhold: bool = option(
        False,
        'suppression of views beyond min_coverage, max_angle or max_distance; false: a red border',
        live=True,
    )


@dataclass(frozen=True)
class SharpConfig:
    """All settings of the pipeline and the node."""

    model: ModelConfig = field(default_factory=ModelConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    imu: ImuConfig = field(default_factory=ImuConfig)
    range: RangeConfig = field(default_factory=RangeConfig)
    odometry: OdometryConfig = field(default_factory=OdometryConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    point_cloud: PointCloudConfig = field(default_factory=PointCloudConfig)
    occupancy: OccupancyConfig = field(default_factory=OccupancyConfig)
    scan: ScanConfig = field(default_factory=ScanConfig)
    keyframe: KeyframeConfig = field(default_factory=KeyframeConfig)
    gaussian_map: GaussianMapConfig = field(default_factory=GaussianMapConfig)
    surface_map: SurfaceMapConfig = field(default_factory=SurfaceMapConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    web: WebConfig = field(default_factory=WebConfig)
    views: Mapping[str, ViewConfig] = field(
        default_factory=lambda: {
            'over_shoulder': ViewConfig(),
            'requested': ViewConfig(placement='request'),
        }
    )

    def __post_init__(self) -> None:
        flat = flatten(self)
        for key, value in flat.items():
            _check(key, value, _option_of(key))
        for low, high in _ORDERED:
            if flat[low] >= flat[high]:
                raise ConfigError(
                    f'{low} ({flat[low]:g}) must lie below {high} ({flat[high]:g}); lower the one '
                    'or raise the other'
                )
        occupancy, directory = self.occupancy, self.output.directory
        if occupancy.max_range > self.point_cloud.max_range:
            raise ConfigError(
                f'occupancy.max_range ({occupancy.max_range:g}) must not exceed '
                f'point_cloud.max_range ({self.point_cloud.max_range:g}), beyond which depth '
                'counts as out of range: the map would clear through walls; raise the latter'
            )
        for what, (low, high) in {'range': self.scan_range, 'height': self.scan_band}.items():
            if low >= high:
                raise ConfigError(
                    f'scan.min_{what} ({low:g}) must lie below scan.max_{what} ({high:g}), each '
                    f'that of occupancy where it is 0; lower the one or raise the other'
                )
        if self.scan_range[1] > self.point_cloud.max_range:
            raise ConfigError(
                f'scan.max_range ({self.scan.max_range:g}) must not exceed point_cloud.max_range '
                f'({self.point_cloud.max_range:g}), beyond which nothing is seen; raise the latter'
            )
        cells = math.prod(occupancy.shape)
        if cells > MAX_VOXELS:
            raise ConfigError(
                f'the occupancy window would hold {cells:.2g} voxels, more than {MAX_VOXELS:.2g}; '
                'raise occupancy.voxel_size or lower occupancy.size'
            )
        for name in ('occupied_log_odds', 'free_log_odds'):
            if abs(getattr(occupancy, name)) > occupancy.clamp_log_odds:
                raise ConfigError(
                    f'occupancy.{name} lies beyond occupancy.clamp_log_odds '
                    f'({occupancy.clamp_log_odds:g}), which no voxel can pass; bring it nearer '
                    'to 0 or raise the latter'
                )
        if not self.pose.world_frame.strip():
            raise ConfigError('pose.world_frame must name the frame of the map, for example odom')
        if not directory.strip():
            raise ConfigError('output.directory must name a folder, for example ~/.ros/sharp_ros')
        if re.match('~[^/]', directory) and os.path.expanduser(directory) == directory:
            raise ConfigError(
                f'output.directory {directory}: there is no such user here; write the path out'
            )
        if self.keyframe.keep_images and not self.gaussian_map.enabled:
            raise ConfigError(
                'keyframe.keep_images needs gaussian_map.enabled: true, with whose map the images '
                'are saved'
            )
        for suffix in self.output.suffixes:
            if suffix not in SCENE_SUFFIXES:
                known = ' '.join(SCENE_SUFFIXES)
                raise ConfigError(f'output.formats: {suffix!r} is none of {known}')
        for key in ('pose.base_to_camera', 'imu.base_to_imu'):
            if len(flat[key]) != 7:
                raise ConfigError(f'{key} needs 7 numbers: x y z qx qy qz qw')
        self._check_box()
        for name, view in self.views.items():
            if not name.isidentifier() or name != name.lower():
                raise ConfigError(f'view name {name!r} must be lower_snake_case')
            if {len(view.position), len(view.target), len(view.up)} != {3}:
                raise ConfigError(f'views.{name}: position, target and up need 3 numbers each')
            if len(view.orientation) != 4 or not any(view.orientation):
                raise ConfigError(f'views.{name}: orientation needs 4 numbers x y z w, not all 0')
            if not view.frame:
                raise ConfigError(f'views.{name}: frame must be camera, world or a frame of tf')
            if view.source == 'map' and not self.gaussian_map.enabled:
                raise ConfigError(f'views.{name}: source map needs gaussian_map.enabled: true')

    @property
    def scan_range(self) -> tuple[float, float]:
        """Shortest and longest range of a scan, metres."""
        scan, occupancy = self.scan, self.occupancy
        low = max(scan.min_range or occupancy.min_range, _NEAREST)
        return low, scan.max_range or occupancy.max_range

    @property
    def scan_band(self) -> tuple[float, float]:
        """Heights over the floor between which a scan has obstacles, metres."""
        scan, occupancy = self.scan, self.occupancy
        return scan.min_height or occupancy.min_height, scan.max_height or occupancy.max_height

    def _check_box(self) -> None:
        box, pose = self.camera.robot_box, self.pose
        if len(box) != 6:
            raise ConfigError(
                'camera.robot_box needs 6 numbers: x_min y_min z_min x_max y_max z_max'
            )
        if not any(box):
            return
        if any(low >= high for low, high in zip(box[:3], box[3:], strict=True)):
            raise ConfigError(
                f'camera.robot_box {" ".join(f"{v:g}" for v in box)} is empty; the first three '
                'numbers must lie below the last three'
            )
        if not pose.base_frame and not any(pose.base_to_camera[3:]):
            raise ConfigError(
                'camera.robot_box needs the frame that it is in: set pose.base_frame, which tf '
                'connects with the camera, or pose.base_to_camera'
            )


MAX_VOXELS = 100_000_000  # of the occupancy window; some 300 MB
_NEAREST = 0.05  # metres, of a scan
LARGEST = 1e6  # of a float whose range says nothing else; seconds stay nanoseconds of 64 bits
_COLUMNS = 99  # of a line of `config/sharp.yaml`
_GLUE = '\N{NO-BREAK SPACE}'  # stands for a space at which no line is broken
VIEW_NAMES = 'view_names'  # the key that lists the views, since ROS parameters cannot nest lists


@dataclass(frozen=True)
class Option:
    """One setting as parameters, flags and documentation see it."""

    key: str
    default: Any
    type: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    live: bool = False  # may change between two frames; else read when the node is configured


def options(config: SharpConfig | None = None) -> Iterator[Option]:
    """Every setting in file order, `default` being its value in `config`."""
    for key, value in flatten(config or SharpConfig()).items():
        yield Option(key, value, *_option_of(key))


def flatten(config: SharpConfig) -> dict[str, Any]:
    """Dotted keys to plain values: bool, int, float, str or a tuple of those."""
    flat: dict[str, Any] = {}
    for stage in fields(config):
        part = getattr(config, stage.name)
        if is_dataclass(part):
            flat.update({f'{stage.name}.{f.name}': getattr(part, f.name) for f in fields(part)})
        else:
            flat[VIEW_NAMES] = tuple(part) or ('',)
            for name, view in part.items():
                flat.update(
                    {f'views.{name}.{f.name}': getattr(view, f.name) for f in fields(view)}
                )
    return flat


def differences(config: SharpConfig) -> dict[str, Any]:
    """The settings whose value is not the default, for logs and reports."""
    defaults = flatten(SharpConfig())
    return {k: v for k, v in flatten(config).items() if k not in defaults or v != defaults[k]}


def frozen_changes(old: SharpConfig, new: SharpConfig) -> list[str]:
    """Keys that differ and are read only when the node is configured."""
    before, after = flatten(old), flatten(new)
    changed = {key for key, value in after.items() if before.get(key) != value}
    changed |= before.keys() - after.keys()
    return sorted(key for key in changed if key not in after or not _option_of(key)[-1])


def from_flat(values: Mapping[str, Any]) -> SharpConfig:
    """A configuration from dotted keys; what is missing keeps its default.

    Raises:
        ConfigError: for an unknown key, a wrong type or a value out of range.
    """
    values = dict(values)
    names = values.pop(VIEW_NAMES, None)
    if names is None:
        names = list(SharpConfig().views)
    elif not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise ConfigError(f'{VIEW_NAMES} must be a list of names')
    names = [name for name in names if name]  # ROS cannot express an empty list: [''] is none
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        option_type = _option_of(key)[0]
        head, _, tail = key.rpartition('.')
        nested.setdefault(head, {})[tail] = _coerce(key, value, option_type)
    stages: dict[str, Any] = {}
    for stage in fields(SharpConfig):
        if stage.name != 'views':
            stages[stage.name] = _STAGES[stage.name](**nested.pop(stage.name, {}))
    defaults = SharpConfig().views
    stages['views'] = {
        name: replace(defaults.get(name, ViewConfig()), **nested.pop(f'views.{name}', {}))
        for name in names
    }
    if nested:
        raise ConfigError(
            f'{", ".join(sorted(nested))}: settings of views that {VIEW_NAMES} does not list'
        )
    return SharpConfig(**stages)


def nested_to_flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """`{'a': {'b': 1}}` to `{'a.b': 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(nested_to_flat(value, f'{prefix}{key}.'))
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def load_yaml(*paths: str | Path) -> SharpConfig:
    """Read ROS parameter files (`/**: ros__parameters:`), later files overriding earlier ones.

    Raises:
        ConfigError: if a file is missing, is no YAML, or holds an unknown or invalid setting.
    """
    import yaml

    flat: dict[str, Any] = {}
    for path in paths:
        try:
            text = Path(path).read_text(encoding='utf-8')
            events = yaml.parse(text, Loader=yaml.SafeLoader)
            if any(isinstance(event, yaml.AliasEvent) for event in events):  # may grow without end
                raise ConfigError(f'{path}: write out what the aliases (*name) stand for')
            tree = load_value(text) or {}
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(f'cannot read {path}: {error}') from error
        if not isinstance(tree, Mapping):
            raise ConfigError(f'{path}: expected a mapping at the top')
        for node in tree.values():
            parameters = node.get('ros__parameters') if isinstance(node, Mapping) else None
            if not isinstance(parameters, Mapping):
                raise ConfigError(f'{path}: expected "/**:" with "ros__parameters:" below it')
            try:
                flat.update(nested_to_flat(parameters))
            except RecursionError as error:
                raise ConfigError(f'{path}: nested too deep') from error
    flat = {key: value for key, value in flat.items() if key not in _ROS_OWN}
    return from_flat(flat)


def to_yaml(config: SharpConfig | None = None) -> str:
    """The text of `config/sharp.yaml`: every setting with its value and a comment.

    A comment that does not fit beside its setting stands above it.
    """
    lines = ['/**:', '  ros__parameters:']
    open_heads: list[str] = []
    described: set[tuple[str, ...]] = set()  # settings of views are explained at the first one
    for entry in options(config):
        *heads, name = entry.key.split('.')
        shared = 0
        while shared < min(len(heads), len(open_heads)) and heads[shared] == open_heads[shared]:
            shared += 1
        for depth in range(shared, len(heads)):
            lines.append(f'{"  " * (depth + 2)}{heads[depth]}:')
        open_heads = heads
        line = f'{"  " * (len(heads) + 2)}{name}: {_scalar(entry.default)}'
        known = (*heads[:1], name) in described
        lines += [line] if known else _commented(line, describe(entry))
        described.add((*heads[:1], name))
    return '\n'.join(lines) + '\n'


def _commented(line: str, text: str) -> list[str]:
    """A line and its comment: beside it where that fits, else above, with the range unbroken."""
    if len(line) + 4 + len(text) <= _COLUMNS:
        return [f'{line}  # {text}']
    indent = ' ' * (len(line) - len(line.lstrip()))
    text = re.sub(r'\[.*\]$', lambda found: found[0].replace(' ', _GLUE), text)
    start = f'{indent}# '
    above = wrap(
        text,
        _COLUMNS,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [*(part.replace(_GLUE, ' ') for part in above), line]


def to_markdown() -> str:
    """All parameters as a page of documentation, `docs/parameters.md`."""
    lines = [
        '# Parameters',
        '',
        'Written by `sharp-ros params --format markdown`. Metres, seconds and radians go without',
        'a suffix. Parameters marked live may change while the node runs and take effect at the',
        'next frame; all others are read at configure. Invalid values and unknown names are',
        'refused with the reason. Floating-point values without a range of their own are limited',
        'to a million, either sign.',
    ]
    view = next(iter(SharpConfig().views))  # settings of views are listed once
    sections = {name: (stage, f'{name}.', f'{name}.') for name, stage in _STAGES.items()}
    sections['views'] = (ViewConfig, f'views.{view}.', 'views.<name>.')
    for name, (stage, prefix, shown) in sections.items():
        lines += ['', f'## {name}', '', str(stage.__doc__), '']
        lines += ['| parameter | default | live | meaning |', '|---|---|---|---|']
        for entry in options():
            if entry.key.startswith(prefix) or (name == 'views' and entry.key == VIEW_NAMES):
                key = entry.key.replace(prefix, shown)
                live = 'yes' if entry.live else ''
                meaning = describe(entry).replace('|', '\\|')
                lines.append(f'| `{key}` | `{_scalar(entry.default)}` | {live} | {meaning} |')
    return '\n'.join(lines) + '\n'


def describe(entry: Option) -> str:
    """Help text with range or choices, on one line."""
    parts = [entry.help]
    if entry.choices:
        parts.append(f'[{" | ".join(entry.choices)}]')
    elif entry.minimum is not None or entry.maximum is not None:
        low = '' if entry.minimum is None else f'{entry.minimum:g}'
        high = '' if entry.maximum is None else f'{entry.maximum:g}'
        parts.append(f'[{low} .. {high}]')
    return ' '.join(parts)


_STAGES: dict[str, Any] = {
    name: hint for name, hint in get_type_hints(SharpConfig).items() if is_dataclass(hint)
}
_ORDERED = (
    ('scan.min_angle', 'scan.max_angle'),
    ('occupancy.min_height', 'occupancy.max_height'),
    ('occupancy.min_range', 'occupancy.max_range'),
    ('point_cloud.min_range', 'point_cloud.max_range'),
    ('point_cloud.min_range', 'occupancy.max_range'),  # else the map clears and never marks
)
_ROS_OWN = ('use_sim_time',)  # every ROS node has these; they are not ours to validate
_VIEW_NAMES_OPTION = (
    'strings',
    'names of the virtual cameras, each configured below views.<name>',
)


_type_hints = cache(get_type_hints)  # which takes a thousand times longer than all the rest


@lru_cache(1000)  # views may have any name
def _option_of(key: str) -> tuple[Any, ...]:
    """(type, help, minimum, maximum, choices, live) of a dotted key."""
    if key == VIEW_NAMES:
        return (*_VIEW_NAMES_OPTION, None, None, None, False)
    stage, _, name = key.partition('.')
    holder: Any = _STAGES.get(stage)
    if stage == 'views' and name.count('.') == 1:
        holder, name = ViewConfig, name.partition('.')[2]
    hints = _type_hints(holder) if holder else {}
    if name not in hints:
        known = sorted(flatten_keys())
        near = _similar(key, known)
        meant = f'did you mean {" or ".join(near)}? ' if near else ''
        raise ConfigError(f'unknown setting {key!r}; {meant}known are {", ".join(known)}')
    meta = holder.__dataclass_fields__[name].metadata
    kind = 'floats' if str(hints[name]).startswith('tuple') else hints[name].__name__
    return kind, *(meta[name] for name in ('help', 'minimum', 'maximum', 'choices', 'live'))


def _similar(key: str, known: Sequence[str]) -> list[str]:
    """Keys that somebody may have meant: nearly the same, or with the same last word."""
    near = get_close_matches(key, known, 3, 0.75)
    last = key.rpartition('.')[2]
    return near or [name for name in known if name.rpartition('.')[2] == last][:3]


def flatten_keys() -> list[str]:
    """All dotted keys, with `<name>` in place of the name of a view."""
    keys = [f'{s}.{f.name}' for s, stage in _STAGES.items() for f in fields(stage)]
    return [*keys, VIEW_NAMES, *(f'views.<name>.{f.name}' for f in fields(ViewConfig))]


def _coerce(key: str, value: Any, kind: str) -> Any:
    """The value as the field's type; integers pass as floats, nothing else is converted."""
    if kind == 'floats' and isinstance(value, (list, tuple)):
        return tuple(_coerce(key, item, 'float') for item in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f'{key} must be a number of 64 bits; that one is larger')
    if kind == 'float' and number:
        return float(value)
    if type(value).__name__ == kind:
        return value
    raise ConfigError(f'{key} must be {kind}, got {type(value).__name__} {value!r}')


def _check(key: str, value: Any, entry: tuple[Any, ...]) -> None:
    kind, _, minimum, maximum, choices, _ = entry
    if kind in ('float', 'floats'):
        minimum = -LARGEST if minimum is None else minimum
        maximum = LARGEST if maximum is None else maximum
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if kind in ('int', 'float', 'floats'):
            if not math.isfinite(number):
                raise ConfigError(f'{key} must be finite, got {number}')
            if minimum is not None and number < minimum:
                raise ConfigError(f'{key} must be at least {minimum:g}, got {number:g}')
            if maximum is not None and number > maximum:
                raise ConfigError(f'{key} must be at most {maximum:g}, got {number:g}')
    if choices and value not in choices:
        raise ConfigError(f'{key} must be one of {", ".join(choices)}, got {value!r}')


def _scalar(value: Any) -> str:
    if isinstance(value, tuple):
        return '[' + ', '.join(_scalar(item) for item in value) + ']'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value:
        plain = re.fullmatch(r'[\w ./~-]+', value, re.ASCII) and load_value(value) == value
        return value if plain else json.dumps(value)  # which YAML reads, too
    return str(value) or "''"
