"""Photographs to depth and Gaussians on disk: which there are, and the pipeline for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, TYPE_CHECKING

from sharp_ros.config import ModelConfig, PointCloudConfig, SharpConfig
from sharp_ros.errors import ConfigError
from sharp_ros.exchange.prediction_files import DEPTH, PNG_MAX_RANGE, PREVIEW
from sharp_ros.files import natural
from sharp_ros.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from sharp_ros.pipeline import Pipeline

# From folders besides images; sources of frames take it for a video. Any file Pillow reads can be
# named itself.
_MORE_SUFFIXES = ('.gif',)


def photo_pipeline(model: ModelConfig) -> Pipeline:
    """A pipeline for single photographs: depth up to what the 16-bit file can hold, no views.

    Raises:
        ConfigError: if the model or device does not exist, or the model needs sensor depth.
        CheckpointError: if the weights cannot be loaded.
    """
    from sharp_ros.pipeline import Pipeline  # with torch, which naming images does not need

    cloud = replace(PointCloudConfig(), max_range=PNG_MAX_RANGE)
    pipeline = Pipeline.from_config(SharpConfig(model=model, point_cloud=cloud, views={}))
    if pipeline.info.needs_depth:
        raise ConfigError(
            f'model {pipeline.info.name!r} needs a depth image with every photograph; '
            'choose --model nano'
        )
    pipeline.take_any_image()
    return pipeline


def _naturally(path: Path) -> list[Any]:
    return [natural(part) for part in (*reversed(path.parents), path)]


def find_images(paths: Sequence[Path]) -> dict[Path, Path]:
    """Files as given and the images anywhere below folders, each once, in order.

    In folders, hidden files are skipped, and so are depth and preview images of `save_prediction`:
    results may lie beside the photographs.

    Returns:
        For every image the path of its results below the output folder, without ending, unique.

    Raises:
        ConfigError: if a path does not exist or no image is found.
    """
    suffixes = (*IMAGE_SUFFIXES, *_MORE_SUFFIXES)
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            below = sorted(path.rglob('*'), key=_naturally)
            files = {file: file.relative_to(path) for file in below}
            found |= {
                file: place.with_suffix('')
                for file, place in files.items()
                if file not in found
                and file.suffix.lower() in suffixes
                and not file.name.endswith((DEPTH, PREVIEW))
                and not any(part.startswith('.') for part in place.parts)
                and file.is_file()
            }
        elif path.exists():
            found.setdefault(path, Path(path.stem))
        else:
            raise ConfigError(f'{path} does not exist; give image files or folders')
    if not found:
        raise ConfigError(
            f'no image in {", ".join(map(str, paths))}; known are {", ".join(suffixes)}'
            if paths
            else 'no image is named; give image files or folders, as such or with -i'
        )
    taken: set[Path] = set()
    for file, stem in found.items():
        candidates = chain([stem], (stem.with_name(f'{stem.name}_{n}') for n in count(2)))
        found[file] = next(place for place in candidates if place not in taken)
        taken.add(found[file])
    return found
