"""`sharp-ros export`: a network as ONNX, for other programs and for speed."""

from __future__ import annotations

import argparse
from pathlib import Path

from sharp_ros.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros export`."""
    parser.add_argument(
        '--model',
        default='nano',
        metavar='NAME|PATH',
        help='nano, or the path of its weights (.safetensors) (default: %(default)s)',
    )
    parser.add_argument('--format', default='onnx', choices=['onnx'], help='file format')
    parser.add_argument(
        '-o', '--output', type=Path, metavar='FILE', help='output file; default: NAME.onnx'
    )
    parser.add_argument(
        '--graph-only',
        action='store_true',
        help='small file that reads the weights from their .safetensors file beside it',
    )


def run(args: argparse.Namespace) -> int:
    """Write the file, run it, and say how far it is from torch.

    Raises:
        ConfigError: if the model cannot be exported, or a package is missing.
        EngineError: if the file gives something else than torch.
    """
    from sharp_ros.exchange.onnx_export import export_nano
    from sharp_ros.models import load_predictor, WEIGHTS_FOLDER
    from sharp_ros.network.predictor import NanoPredictor

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
