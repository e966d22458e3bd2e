"""`sharp-ros view`: a source, a PLY file of Gaussians or a saved map in the browser."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sharp_ros.apps.inspect import add_source_options, exit_code, open_recording, SOURCE_HELP
from sharp_ros.apps.interruption import interruptible
from sharp_ros.config import flatten, from_flat, load_yaml, options, SharpConfig

if TYPE_CHECKING:
    import threading

    from sharp_ros.sources.stock import Stock

_FLAGS = {'port': 'web.port', 'address': 'web.address', 'rate_mb_s': 'web.rate_mb_s'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros view`."""
    from sharp_ros.apps.predict import add_config_arguments
    from sharp_ros.parameter_text import number, whole_number

    parser.add_argument(
        'source',
        metavar='SOURCE',
        help=f'PLY file of Gaussians, folder of a saved map, or {SOURCE_HELP}',
    )
    add_config_arguments(parser)
    entries = {entry.key: entry for entry in options()}
    for name, key in _FLAGS.items():
        entry = entries[key]
        kind = {'int': whole_number, 'float': number, 'str': str}[entry.type]
        parser.add_argument(
            '--' + name.replace('_', '-'),
            type=kind,
            metavar=name.upper(),
            help=f'{entry.help} (default: {entry.default})',
        )
    add_source_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the view until Ctrl-C.

    Raises:
        ConfigError: for settings that cannot be, as a port that is in use.
        InputError: if the source cannot be opened.

    Returns:
        3 if a part of a recording was found but not used, else 0.
    """
    config = _configured(args)
    path = Path(args.source)
    logging.basicConfig(format='%(message)s')
    with interruptible() as stop:
        if path.suffix.lower() == '.ply' or (path / 'state.npz').is_file():
            _show_still(path, config, args.up, stop)
            return 0
        return exit_code(_play(args, config, stop))


def _show_still(path: Path, config: SharpConfig, up: str, stop: threading.Event) -> None:
    from sharp_ros.exchange.scene import read_scene
    from sharp_ros.gaussians import load_ply
    from sharp_ros.mapping.map_files import load_map
    from sharp_ros.web.still import StillView

    is_ply = path.is_file()
    content = load_ply(path) if is_ply else load_map(path)
    auto = read_scene(path, ('gaussians',)).up if is_ply else 'z'
    axis = auto if up == 'auto' else up
    view = StillView(config.web, axis if axis.startswith('-') else f'+{axis}')
    try:
        view.show(content)
        print(f'{path}: {view.said}; Ctrl-C ends\nopen {view.url}', flush=True)
        stop.wait()
    finally:
        view.close()


def _play(
    args: argparse.Namespace, config: SharpConfig, stop: threading.Event
) -> Stock:  # of the source, with what was read of it
    from sharp_ros.relative_pipeline import load_any_pipeline
    from sharp_ros.web.playback import play

    source = open_recording(args, time_offset=config.pose.time_offset)
    print(f'source: {source.name}, {source.note or "calibrated"}', flush=True)
    pipeline = load_any_pipeline(config)
    if pipeline.info.needs_depth:
        source.stock.require_depth(pipeline.info.name)
    play(source, pipeline, stop, lambda text: print(text, flush=True))
    return source.stock


def _configured(args: argparse.Namespace) -> SharpConfig:
    """The file, then the flags."""
    values = flatten(load_yaml(args.config) if args.config else SharpConfig())
    flags = {'model.name': args.model, 'model.device': args.device}
    flags |= {key: getattr(args, name) for name, key in _FLAGS.items()}
    return from_flat(values | {key: value for key, value in flags.items() if value is not None})
