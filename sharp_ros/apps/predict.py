"""`sharp-ros predict`: photographs to depth, a coloured preview and Gaussians on disk."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from sharp_ros.apps.export import add_layout_arguments
from sharp_ros.apps.fleet import add_fleet_arguments, is_fleet, path_or_url, run_many
from sharp_ros.apps.verbosity import add_verbose_argument
from sharp_ros.config import ModelConfig, options
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.parameter_text import number

if TYPE_CHECKING:
    from sharp_ros.camera import Intrinsics
    from sharp_ros.pipeline import Pipeline


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags `--model` and `--device`, with the defaults and texts of the configuration."""
    entries = {entry.key: entry for entry in options()}
    name, device = entries['model.name'], entries['model.device']
    parser.add_argument('--model', default=name.default, metavar='NAME|PATH', help=name.help)
    parser.add_argument(
        '--device', default=device.default, choices=device.choices, help=device.help
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Those, and `--config`, whose values count where the flags are not given."""
    add_model_arguments(parser)
    parser.set_defaults(model=None, device=None)
    parser.add_argument(
        '--config',
        type=Path,
        metavar='FILE',
        help='parameter file in the format of config/sharp.yaml',
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros predict`; `-i IN -o OUT -c CKPT --device D` is SHARP's own interface."""
    parser.add_argument(
        'images',
        metavar='INPUT',
        nargs='*',
        type=path_or_url,
        help='image, or folder that is searched recursively for images; URLs with --jobs or '
        '--executor',
    )
    parser.add_argument(
        '-i',
        '--input',
        '--input-path',
        action='append',
        default=[],
        type=path_or_url,
        help='INPUT as a flag',
    )
    parser.add_argument(
        '-o',
        '--output',
        '--output-path',
        type=path_or_url,
        required=True,
        help='folder for the results, named as their images; images in folders below INPUT go to '
        'such folders here, and the second of two equal names gets _2; or, for one image, a file '
        'of its Gaussians in the format of its suffix, see sharp-ros export',
    )
    add_layout_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(model=None)  # so that run() sees whether it was given
    parser.add_argument(
        '-c', '--checkpoint-path', metavar='PATH', help='file of weights, the same as --model PATH'
    )
    focal = parser.add_mutually_exclusive_group()
    focal.add_argument('--focal-px', type=number, help='focal length of all images, pixels')
    focal.add_argument('--hfov', type=number, help='horizontal field of view, degrees')
    parser.add_argument(
        '--render',
        action=argparse.BooleanOptionalAction,
        default=False,
        help='additional video NAME_orbit.mp4 of each result, as sharp-ros render makes it',
    )
    add_verbose_argument(parser)
    add_fleet_arguments(parser)
    parser.set_defaults(json=None)  # it writes no report


def run(args: argparse.Namespace) -> int:
    """Predict every image; 1 if one could not be read or predicted.

    Raises:
        ConfigError: if no image is named, the flags contradict each other, the model needs more
            than an image or the results cannot be written, or would replace files of others.
    """
    from rich.progress import Progress

    from sharp_ros.exchange.photographs import find_images, photo_pipeline
    from sharp_ros.exchange.prediction_files import refuse_foreign_results
    from sharp_ros.exchange.scene_files import suffix_of

    _check_focal(args)
    args.images, args.input = [*args.images, *args.input], []
    urls = [str(image) for image in args.images if isinstance(image, str)]
    if is_fleet(args, urls):
        return run_many(args, args.images, _place)
    images = find_images(args.images)
    one_file = bool(suffix_of(args.output)) and not args.output.is_dir()
    _check_output(args.output.parent if one_file else args.output)
    if one_file:
        if len(images) > 1:
            raise ConfigError(f'{args.output} holds one image, not {len(images)}; name a folder')
        if args.render:
            raise ConfigError('--render puts a video beside other results; name a folder with -o')
    else:
        if args.up is not None:
            raise ConfigError('--up is for one file, such as -o scene.ply')
        refuse_foreign_results([args.output / stem for stem in images.values()])
    pipeline = photo_pipeline(ModelConfig(name=_chosen_model(args), device=args.device))
    info = pipeline.info
    kind = 'metric' if info.metric else 'relative'
    print(f'model {info.name} ({kind} depth), weights: {info.licence}', file=sys.stderr)
    failed = 0
    with Progress(disable=len(images) == 1, transient=True) as progress:
        for path, stem in progress.track(images.items(), description='predict'):
            try:
                target = args.output if one_file else args.output / stem
                print(_predict_file(pipeline, path, target, args, one_file))
                if args.render:
                    _render(target, args.device)
            except InputError as error:
                failed += 1
                print(f'error: {error}', file=sys.stderr)
    if failed and len(images) > 1:
        print(f'{failed} of {len(images)} images failed', file=sys.stderr)
    return 1 if failed else 0


def _place(args: argparse.Namespace, source: Path, folder: Path) -> None:
    """One of many inputs, see `run_many`."""
    args.images, args.output = [source], folder / 'prediction'


def _predict_file(
    pipeline: Pipeline, path: Path, target: Path, args: argparse.Namespace, one_file: bool
) -> str:  # the line to print about it
    import numpy as np

    from sharp_ros.camera import Frame
    from sharp_ros.exchange.doubts import doubts
    from sharp_ros.exchange.prediction_files import save_gaussians, save_prediction
    from sharp_ros.frame_result import GAUSSIANS
    from sharp_ros.images import check_meaningful, frame_count, read_image

    image, exif_focal = read_image(path)
    check_meaningful(image, str(path))
    count = frame_count(path)
    first = f'first of {count} frames, ' if count > 1 else ''
    size = (image.shape[1], image.shape[0])
    intrinsics, origin = _intrinsics(size, exif_focal, args)
    try:
        result = pipeline.process(Frame(image, intrinsics, 0, 'camera'), {GAUSSIANS})
        if one_file:
            layout = True if args.sharp_layout else None if not args.plain else False
            written = save_gaussians(result, target, args.up, sharp_layout=layout)
        else:
            files = save_prediction(result, target, plain=args.plain)
            written = ', '.join(file.name for file in files)
    except (InputError, MemoryError) as error:
        reason = error if isinstance(error, InputError) else 'not enough memory; shrink it'
        raise InputError(f'cannot predict {path}: {reason}', 'prediction_failed') from error
    gaussians = result.gaussians
    spread = None if gaussians is None else gaussians.front_log_std
    median = 'no depth'
    if np.isfinite(result.depth).any():
        median = f'median depth {np.nanmedian(result.depth):.2f} m'
        if gaussians is not None and spread is not None:
            std = math.hypot(np.nanmedian(spread), gaussians.log_scale_std or 0.0)
            median += f' ± {100 * std:.0f} % by its own estimate'
    return (
        f'{path}: {first}{size[0]}x{size[1]}, focal length {intrinsics.fx:.0f} px ({origin}), '
        f'{median} -> {written}'
        + ''.join(f'; doubtful: {d}' for d in doubts(result.frame, spread, pipeline.info.name))
    )


def _render(stem: Path, device: str) -> None:
    """A video of the results, as `sharp-ros render` makes it."""
    from sharp_ros.apps import render

    parser = argparse.ArgumentParser()
    render.add_arguments(parser)
    video = stem.with_name(f'{stem.name}_orbit.mp4')
    render.run(parser.parse_args([f'{stem}.ply', '-o', str(video), '--device', device]))


def _intrinsics(
    size: tuple[int, int], exif_focal: float | None, args: argparse.Namespace
) -> tuple[Intrinsics, str]:
    from sharp_ros.camera import Intrinsics
    from sharp_ros.images import DEFAULT_FOCAL_35MM, focal_from_35mm

    width, height = size
    if args.hfov is not None:
        return Intrinsics.from_hfov(math.radians(args.hfov), width, height), 'from --hfov'
    focal, origin = args.focal_px, 'from --focal-px'
    if focal is None:
        focal, origin = exif_focal, 'from EXIF'
    if focal is None:
        focal = focal_from_35mm(DEFAULT_FOCAL_35MM, width, height)
        origin = (
            f'assumed: {DEFAULT_FOCAL_35MM:.0f} mm on 35 mm film; metres scale with it, give '
            '--focal-px or --hfov'
        )
    return Intrinsics.centred(focal, width, height), origin


def _chosen_model(args: argparse.Namespace) -> str:
    if args.model and args.checkpoint_path and args.model != args.checkpoint_path:
        raise ConfigError(
            f'--model {args.model} and --checkpoint-path {args.checkpoint_path} name two models; '
            'give one of them'
        )
    return args.model or args.checkpoint_path or ModelConfig().name


def _check_output(folder: Path) -> None:
    """Refuse a folder that cannot be made or written before anything slow is done."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise ConfigError(f'{existing} is a file; choose a folder as --output')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f'{existing} is not writable; choose another --output')


def _check_focal(args: argparse.Namespace) -> None:
    if args.focal_px is not None and not 0 < args.focal_px < math.inf:
        raise ConfigError(f'--focal-px must be positive pixels, got {args.focal_px:g}')
    if args.hfov is not None and not 0 < args.hfov < 180:
        raise ConfigError(f'--hfov must lie between 0 and 180 degrees, got {args.hfov:g}')
