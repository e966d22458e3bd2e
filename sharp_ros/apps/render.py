"""`sharp-ros render`: a video or a picture of Gaussians from a moving viewpoint."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
import math
from pathlib import Path
import re
import sys
import time
from typing import TYPE_CHECKING

from sharp_ros.apps.outputs import check_outputs
from sharp_ros.apps.verbosity import add_verbose_argument
from sharp_ros.config import options
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.files import natural, write_atomically
from sharp_ros.parameter_text import number, whole_number

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sharp_ros.camera import Intrinsics
    from sharp_ros.gaussians import Gaussians
    from sharp_ros.rasterizer import Rendering

MAX_DEPTH = 50.0  # metres, of the colours of depth
MAX_SIDE, MAX_FPS = 8192, 1000.0
_VIDEO, _PICTURES = '.mp4', ('.png', '.jpg', '.jpeg', '.webp')
_EMPTY = 0.01  # mean coverage of a frame that is as good as black


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros render`."""
    device = next(entry for entry in options() if entry.key == 'model.device')
    parser.add_argument(
        'scene',
        type=Path,
        nargs='?',
        metavar='SCENE.ply',
        help='Gaussian PLY file, or a folder of such: a video of each',
    )
    parser.add_argument('-i', '--input', '--input-path', type=Path, help='SCENE.ply as a flag')
    parser.add_argument(
        '-o',
        '--output',
        '--output-path',
        type=Path,
        required=True,
        help=f'output file: {_VIDEO} for a video, or a picture ({", ".join(_PICTURES)}); of a '
        'folder of scenes the folder for their videos',
    )
    parser.add_argument(
        '--trajectory',
        default='orbit',
        metavar='NAME|FILE.json',
        help='camera path: orbit (a small loop around the foreground), line (ahead and back), '
        "SHARP's rotate_forward, swipe, shake and rotate, or a file of keyframes: "
        '{"frames": [{"T_world_camera": 4x4 row by row} or {"eye": [x, y, z], "target": '
        '[x, y, z], "up": [0, -1, 0]}, ...]}; default: %(default)s',
    )
    parser.add_argument(
        '--steps',
        type=whole_number,
        metavar='N',
        help='number of frames; default: 60, or as in FILE',
    )
    parser.add_argument(
        '--still',
        type=whole_number,
        metavar='K',
        help='index of the frame that a picture shows; default: 0, which for orbit, line and '
        "rotate_forward is the photo's own viewpoint",
    )
    parser.add_argument(
        '--size', metavar='WxH', help="image size, pixels; default: the photo's; even in videos"
    )
    parser.add_argument(
        '--fov', type=number, metavar='DEG', help="horizontal field of view; default: the photo's"
    )
    parser.add_argument(
        '--fps', type=number, default=30.0, help='frame rate of a video; default: %(default)g'
    )
    parser.add_argument(
        '--depth',
        action='store_true',
        help='additional output OUTPUT.depth.*: colour-coded depth, red near, blue far, over the '
        f'range of the first frame, up to {MAX_DEPTH:g} m',
    )
    parser.add_argument(
        '--device', default=device.default, choices=device.choices, help='rendering device'
    )
    add_verbose_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Render one video or picture, or a video of every scene of a folder.

    Returns:
        1 if a scene of a folder could not be used, else 0.

    Raises:
        ConfigError: if a flag is out of range or the output cannot be written.
        InputError: if the scene or the trajectory cannot be used.
    """
    if (args.scene is None) == (args.input is None):
        raise ConfigError('one scene or folder of scenes is needed; name it as such or with -i')
    args.scene = args.scene or args.input
    return _render_folder(args) if args.scene.is_dir() else _render_scene(args)


def _render_folder(args: argparse.Namespace) -> int:
    scenes = sorted(args.scene.glob('*.ply'), key=natural)
    if not scenes:
        raise ConfigError(f'{args.scene} holds no .ply; give a file, or a folder of such')
    if args.output.suffix or args.output.is_file():
        raise ConfigError(f'{args.output} must be a folder, as {args.scene} is one')
    args.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for scene in scenes:
        output = args.output / f'{scene.stem}{_VIDEO}'
        try:
            _render_scene(argparse.Namespace(**{**vars(args), 'scene': scene, 'output': output}))
        except InputError as error:
            failed += 1
            print(f'error: {error}', file=sys.stderr)
    return 1 if failed else 0


def _render_scene(args: argparse.Namespace) -> int:
    _check(args)
    from sharp_ros.engine import choose_device
    from sharp_ros.gaussians import load_ply, load_ply_intrinsics
    from sharp_ros.trajectory import camera_path, check_trajectory

    check_trajectory(args.trajectory)
    device = choose_device(args.device)
    photo = load_ply_intrinsics(args.scene)
    video = args.output.suffix.lower() == _VIDEO
    intrinsics = _chosen_intrinsics(photo, args.size, args.fov, video)
    gaussians = load_ply(args.scene)
    if not len(gaussians):
        raise InputError(f'{args.scene} holds no Gaussians; write it anew', 'empty_scene')
    path = camera_path(args.trajectory, gaussians, photo, args.steps)
    gaussians = gaussians.to(device)
    if video:
        report = _write_video(args.output, gaussians, intrinsics, path, args.fps, args.depth)
    else:
        still = args.still or 0
        if still >= len(path):
            raise ConfigError(f'--still must be below the {len(path)} frames of the path')
        report = _write_picture(args.output, gaussians, intrinsics, path[still], args.depth)
    for line in report.warnings(len(gaussians)):
        print(f'warning: {line}', file=sys.stderr)
    print(report.summary(intrinsics))
    return 0


@dataclass
class _Report:
    """Report about the frames rendered."""

    files: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)
    why_empty: str = ''  # of the first frame that shows nothing
    skipped: int = 0

    def warnings(self, gaussians: int) -> Iterator[str]:
        if self.skipped:
            yield (
                f'{self.skipped} of {gaussians} Gaussians cannot be drawn from anywhere: not '
                'finite, of no size, or without orientation'
            )
        if self.why_empty:
            empty = sum(share < _EMPTY for share in self.coverage)
            yield f'{empty} of {len(self.coverage)} frames (nearly) black: {self.why_empty}'

    def summary(self, intrinsics: Intrinsics) -> str:
        frames, k = len(self.seconds), intrinsics
        speed = ''
        if frames > 1:  # the first one may compile
            speed = f'rendered at {1 / sorted(self.seconds)[frames // 2]:.1f} fps, '
        return (
            f'{frames} frame{"s" * (frames > 1)} of {k.width}x{k.height}, {speed}coverage '
            f'{sum(self.coverage) / frames:.1%} -> {", ".join(self.files)}'
        )


def _write_video(
    output: Path,
    gaussians: Gaussians,
    intrinsics: Intrinsics,
    path: np.ndarray,
    fps: float,
    with_depth: bool,
) -> _Report:
    from rich.progress import Progress

    from sharp_ros.pictures.video import video_writer

    size = (intrinsics.width, intrinsics.height)
    report, colours, depth_output = _Report(), _DepthColours(), _depth_path(output)
    with ExitStack() as stack:
        write = stack.enter_context(video_writer(output, *size, fps))
        report.files.append(str(output))
        write_depth = None
        if with_depth:
            write_depth = stack.enter_context(video_writer(depth_output, *size, fps))
            report.files.append(str(depth_output))
        progress = stack.enter_context(Progress(transient=True, disable=not sys.stdout.isatty()))
        for T_world_camera in progress.track(path, description='render'):
            rendering = _render(gaussians, intrinsics, T_world_camera, report)
            write(rendering.image())
            if write_depth is not None:
                write_depth(colours(rendering.depth))
    return report


def _write_picture(
    output: Path,
    gaussians: Gaussians,
    intrinsics: Intrinsics,
    T_world_camera: np.ndarray,
    with_depth: bool,
) -> _Report:
    from sharp_ros.pictures.drawing import encode_picture

    report = _Report()
    rendering = _render(gaussians, intrinsics, T_world_camera, report)
    pictures = {output: rendering.image()}
    if with_depth:
        pictures[_depth_path(output)] = _DepthColours()(rendering.depth)
    for file, picture in pictures.items():
        write_atomically(file, encode_picture(picture, file.suffix))
        report.files.append(str(file))
    return report


def _render(
    gaussians: Gaussians, intrinsics: Intrinsics, T_world_camera: np.ndarray, report: _Report
) -> Rendering:
    from sharp_ros.rasterizer import rasterize
    from sharp_ros.se3 import inverse
    from sharp_ros.trajectory import NEAR

    start = time.perf_counter()
    T_camera_world = inverse(T_world_camera)
    rendering = rasterize(gaussians, intrinsics, T_camera_world, near=NEAR)
    report.coverage.append(float(rendering.alpha.mean()))  # waits for a GPU
    report.seconds.append(time.perf_counter() - start)
    report.skipped = int(rendering.skipped)
    if report.coverage[-1] < _EMPTY and not report.why_empty:
        report.why_empty = _why_empty(gaussians, intrinsics, T_camera_world)
    return rendering


def _why_empty(gaussians: Gaussians, intrinsics: Intrinsics, T_camera_world: np.ndarray) -> str:
    """The likely reason that a frame shows next to nothing."""
    from sharp_ros.se3 import apply
    from sharp_ros.trajectory import NEAR

    n, k = len(gaussians), intrinsics
    points = apply(T_camera_world, gaussians.means.cpu().double().numpy())
    ahead = points[points[:, 2] >= NEAR]
    if not len(ahead):
        return (
            f'all {n} Gaussians lie behind the camera; cameras look along +z with +y down, and '
            'paths are in metres'
        )
    u, v = (k.matrix[:2] @ (ahead / ahead[:, 2:]).T).round()
    inside = k.contains(u, v)
    if not inside.any():
        return (
            f'all {len(ahead)} Gaussians in front of the camera lie outside of the image; is the '
            'path in metres, in the frame of the scene?'
        )
    return (
        f'{inside.sum()} of {n} Gaussians lie within the image, too small or too transparent to '
        'fill it; is the camera too far away?'
    )


class _DepthColours:
    """Depth in colours over the range of the first frame that shows any."""

    def __init__(self) -> None:
        self._range: tuple[float, float] | None = None

    def __call__(self, depth: Tensor) -> np.ndarray:  # [H, W] -> [H, W, 3] uint8 RGB
        from sharp_ros.pictures.depth import colour_depth, depth_range

        metres = depth.cpu().numpy()
        if self._range is None and (metres > 0).any():
            near, far = depth_range(metres)
            near = min(near, MAX_DEPTH / 2)
            self._range = near, min(far, MAX_DEPTH)
        return colour_depth(metres, *(self._range or (1.0, MAX_DEPTH)))


def _depth_path(output: Path) -> Path:
    return output.with_suffix(f'.depth{output.suffix}')


def _chosen_intrinsics(
    photo: Intrinsics, size: str | None, fov: float | None, video: bool
) -> Intrinsics:
    """As asked for; a size of other proportions shows more or less at the top and bottom."""
    from sharp_ros.camera import Intrinsics
    from sharp_ros.pictures.video import video_intrinsics

    if video:
        photo = video_intrinsics(photo)
    width, height = (photo.width, photo.height) if size is None else _parse_size(size)
    if video:
        width, height = width + width % 2, height + height % 2
    if max(width, height) > MAX_SIDE:  # of a photo: flags are checked before
        raise ConfigError(f'the scene is of a photo of {width}x{height} pixels; give --size')
    if fov is not None:
        return Intrinsics.from_hfov(math.radians(fov), width, height)
    scale = width / photo.width
    cx = (photo.cx + 0.5) * scale - 0.5
    cy = (photo.cy + 0.5 - photo.height / 2) * scale + height / 2 - 0.5
    return Intrinsics(photo.fx * scale, photo.fy * scale, cx, cy, width, height)


def _parse_size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d{1,5})x(\d{1,5})', size)
    width, height = (int(side) for side in match.groups()) if match else (0, 0)
    if not 2 <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise ConfigError(
            f'--size must be WIDTHxHEIGHT with sides of 2 to {MAX_SIDE} pixels, got {size}'
        )
    return width, height


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow is done."""
    output, ending = args.output, args.output.suffix.lower()
    if ending not in (_VIDEO, *_PICTURES):
        raise ConfigError(
            f'{output} must end in {_VIDEO} for a video, or for a picture in '
            f'{", ".join(_PICTURES)}'
        )
    check_outputs(output, _depth_path(output) if args.depth else None)
    if args.size is not None:
        _parse_size(args.size)
    if args.fov is not None and not 1 <= args.fov < 180:
        raise ConfigError(f'--fov must be 1 to 179 degrees, got {args.fov:g}')
    if not 0 < args.fps <= MAX_FPS:
        raise ConfigError(f'--fps must be above 0, at most {MAX_FPS:g}, got {args.fps:g}')
    if args.still is not None and ending == _VIDEO:
        raise ConfigError(f'--still needs a picture as --output, {", ".join(_PICTURES)}')
    if args.still is not None and args.still < 0:
        raise ConfigError(f'--still must be at least 0, got {args.still}')
    if not args.scene.is_file():
        raise ConfigError(f'{args.scene} is no file; give a .ply, as sharp-ros predict writes it')
