"""`sharp-ros export`: scenes and maps in the formats of other programs, and nano as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from sharp_ros.errors import ConfigError
from sharp_ros.parameter_text import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros export`."""
    parser.add_argument(
        'scene',
        metavar='SCENE.ply|MAP_FOLDER',
        nargs='?',
        type=Path,
        help='Gaussians, points or mesh, or the folder of a map; without it, the network --model '
        'is exported',
    )
    parser.add_argument(
        '-o',
        '--output',
        type=Path,
        metavar='FILE',
        help='output file, in the format of its suffix: .ply .compressed.ply .splat .spz .sog '
        '.ksplat .glb .usdz .html .xyz .las .pcd; of a network .onnx; default: NAME.onnx',
    )
    add_layout_arguments(parser)
    parser.add_argument(
        '--what',
        choices=['gaussians', 'mesh', 'cloud'],
        help='part of a map; default: cloud for .xyz .las .pcd, mesh for .glb .usdz, gaussians '
        'for the others',
    )
    parser.add_argument(
        '--most',
        type=whole_number,
        metavar='N',
        help='number of Gaussians at most; those that cover least are left out',
    )
    parser.add_argument(
        '--model',
        default='nano',
        metavar='NAME|PATH',
        help='nano, or the path of its weights (.safetensors) (default: %(default)s)',
    )
    parser.add_argument('--format', default='onnx', choices=['onnx'], help='file format')
    parser.add_argument(
        '--graph-only',
        action='store_true',
        help='small file that reads the weights from their .safetensors file beside it',
    )


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags `--plain`, `--sharp-layout` and `--up`."""
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument(
        '--plain', action='store_true', help='.ply of nothing but vertices, the layout of 3DGS'
    )
    layout.add_argument(
        '--sharp-layout',
        action='store_true',
        help=".ply with SHARP's elements about the photo, which other readers may refuse",
    )
    parser.add_argument(
        '--up',
        choices=['y', 'z', '-y'],
        help='axis that points up in the file; default: what viewers of the format expect, see '
        'docs/files.md',
    )


def run(args: argparse.Namespace) -> int:
    """Write the file and say what it holds.

    Raises:
        ConfigError: for flags that contradict each other, and packages that are missing.
        InputError: if the scene cannot be read, or the format cannot hold it.
        EngineError: if the file of a network gives something else than torch.
    """
    return _export_network(args) if args.scene is None else _export_scene(args)


def _export_scene(args: argparse.Namespace) -> int:
    from sharp_ros.exchange.scene import read_scene
    from sharp_ros.exchange.scene_files import format_of, write_scene

    if args.output is None:
        raise ConfigError('give the file to write as --output, such as scene.spz')
    if args.graph_only:
        raise ConfigError('--graph-only is of networks; leave the scene away, or the flag')
    if args.most is not None and args.most < 1:
        raise ConfigError(f'--most must be at least 1, got {args.most}')
    wanted = format_of(args.output).wanted
    if args.what is not None:
        if args.what not in wanted:
            raise ConfigError(f'{args.output.name} cannot hold a {args.what}')
        wanted = (args.what,)
    scene = read_scene(args.scene, wanted)
    if args.most is not None:
        scene = scene.most(args.most)
    print(write_scene(args.output, scene, args.up, sharp_layout=args.sharp_layout))
    return 0


def _export_network(args: argparse.Namespace) -> int:
    from sharp_ros.exchange.onnx_export import export_nano
    from sharp_ros.models import load_predictor, WEIGHTS_FOLDER
    from sharp_ros.network.predictor import NanoPredictor

    if args.output is not None and args.output.suffix.lower() != '.onnx':
        raise ConfigError(
            f'{args.output} of what? Name the scene or map, as in sharp-ros export scene.ply -o '
            f'{args.output}; a network is exported as .onnx'
        )
    predictor, info = load_predictor(args.model, relative=True)
    if type(predictor) is not NanoPredictor:
        raise ConfigError(
            f'{info.name} cannot be exported, only nano: SHARP takes its image apart and lays it '
            'together again in loops over sizes that its weights decide, and its 2.8 GB exceed '
            'what one ONNX file holds; other models are no networks, or in ONNX already'
        )
    weights = WEIGHTS_FOLDER / 'nano.safetensors' if args.model == 'nano' else Path(args.model)
    name = weights.with_suffix('.onnx').name
    output = args.output or (weights.parent / name if args.graph_only else Path(name))
    if args.graph_only and output.absolute().parent != weights.absolute().parent:
        raise ConfigError(f'--graph-only: the graph must lie beside {weights}')
    metadata = {'description': info.description, 'licence': info.licence}
    worst = export_nano(predictor, output, metadata, weights if args.graph_only else None)
    print(f'{output}: {output.stat().st_size:,} bytes; largest difference from torch {worst:.2g}')
    return 0
