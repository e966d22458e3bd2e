"""What a training run depends on, as `config/train_nano.yaml` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
import json
import math
from pathlib import Path
from typing import Any

from sharp_ros.config import option
from sharp_ros.errors import ConfigError

NEWEST_LAYOUT = 3  # of network.nano, which would load torch


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a run depends on other than its images.

    Raises:
        ConfigError: if a value is of the wrong type or out of range.
    """

    data: tuple[str, ...] = option(
        ('out/nano/data',), 'folders with the .npz shards of sharp_ros.procedural.rooms'
    )
    out: str = option(
        'out/nano/run', 'folder for checkpoint, log, pictures, weights; a run there is resumed'
    )
    recording: str = option(
        '', 'folder with the shards that --finetune makes; the run is then validated on them'
    )
    synthetic_share: float = option(
        0.5, 'share of rendered images when there is a recording', minimum=0, maximum=1
    )
    init: str = option(
        'imagenet', 'initial weights; imagenet: encoder as published; else a file of nano weights'
    )
    layout: int = option(
        0,
        'network layout, see LAYOUTS; of initial weights of another one only the encoder is used; '
        '0: that of the weights, else the newest without the heads that --metres adds',
        minimum=0,
        maximum=NEWEST_LAYOUT,
    )
    version: str = option('3', 'version name written into the weights')
    minutes: float = option(60.0, 'training time, all resumptions included', minimum=0)
    steps: int = option(
        0, 'number of steps in place of a time, the same on any machine; 0: by time', minimum=0
    )
    learning_rate: float = option(1.2e-3, 'peak learning rate of the decoder', minimum=0)
    encoder_learning_rate: float = option(2e-4, 'peak learning rate of the encoder', minimum=0)
    averaging: float = option(
        0.998,
        'decay of the moving average of the weights, which is what is validated and kept',
        minimum=0,
        maximum=1,
    )
    low_resolution: float = option(
        0.4, 'share of the run spent on small images first', minimum=0, maximum=1
    )
    batch_pixels: int = option(512 * 1024, 'pixels per batch, at any image size', minimum=1)
    thin_loss: float = option(
        0.0,
        'share of the steps whose loss looks at every second row and column, which is faster',
        minimum=0,
        maximum=1,
    )
    second_view: float = option(
        0.0,
        'share of the steps that also compare the other view of each pair with a rendering',
        minimum=0,
        maximum=1,
    )
    on_device: float = option(
        0.0,
        'share of the steps whose images the device draws anew, for a GPU; 1: needs no data',
        minimum=0,
        maximum=1,
    )
    held_out: int = option(
        2, 'shards, first by name, kept for validation; a resumed run keeps its own', minimum=1
    )
    validations: int = option(10, 'number of validations per run, with pictures', minimum=1)
    validation_images: int = option(
        96, 'images per validation; all held-out ones at the end', minimum=1
    )
    patience: int = option(
        3,
        'validations without a better one after which a run with a recording ends; 0: never',
        minimum=0,
    )
    checkpoint_seconds: float = option(120.0, 'time between checkpoints, seconds', minimum=0)
    metres_crops: int = option(
        48_000, 'crops that --metres learns from, each looked at once', minimum=1
    )
    device: str = option(
        'auto', 'training device; auto: cuda if available', choices=('auto', 'cpu', 'cuda')
    )
    precision: str = option(
        'auto',
        'precision of forward and backward pass; auto: bfloat16 where the device supports it',
        choices=('auto', 'float32', 'bfloat16'),
    )
    threads: int = option(2, 'total number of CPU threads', minimum=1)
    seed: int = option(0, 'random seed of initialisation, order and augmentation', minimum=0)

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name), field.default, field.metadata)


def load_yaml(path: str | Path) -> TrainingConfig:
    """Read a file of `to_yaml`; what is missing keeps its default.

    Raises:
        ConfigError: if it is missing, no mapping, or holds an unknown or invalid setting.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding='utf-8')) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f'cannot read {path}: {error}') from error
    if not isinstance(values, dict):
        raise ConfigError(f'{path}: expected settings "key: value"')
    defaults = {field.name: field.default for field in fields(TrainingConfig)}
    for key, value in values.items():
        if key not in defaults:
            raise ConfigError(f'{path}: unknown setting {key!r}; known are {", ".join(defaults)}')
        if isinstance(value, list):
            values[key] = tuple(value)
        elif isinstance(defaults[key], float) and isinstance(value, (int, str)):
            with suppress(ValueError):  # YAML 1.1 takes 3 for an integer and 1e-4 for a text
                values[key] = float(value)
    return TrainingConfig(**values)


def to_yaml(config: TrainingConfig | None = None) -> str:
    """The text of `config/train_nano.yaml`: every setting with its value and one comment."""
    config = config or TrainingConfig()
    lines = ['# sharp-ros train config/train_nano.yaml']
    for field in fields(config):
        value, meta = getattr(config, field.name), field.metadata
        text = repr(value) if isinstance(value, float) else json.dumps(value)  # JSON is YAML
        choices = f' [{" | ".join(meta["choices"])}]' if meta['choices'] else ''
        lines.append(f'{field.name}: {text}  # {meta["help"]}{choices}')
    return '\n'.join(lines) + '\n'


def _check(key: str, value: Any, default: Any, meta: Mapping[str, Any]) -> None:
    if type(value) is not type(default) or (
        isinstance(value, tuple) and not all(isinstance(item, str) for item in value)
    ):
        expected = 'a list of str' if isinstance(default, tuple) else type(default).__name__
        raise ConfigError(f'{key} must be {expected}, got {value!r}')
    low, high = meta['minimum'], meta['maximum']
    if isinstance(value, (int, float)) and not (
        math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
    ):
        raise ConfigError(f'{key} must lie within {low} .. {high}, got {value}')
    if meta['choices'] and value not in meta['choices']:
        raise ConfigError(f'{key} must be one of {", ".join(meta["choices"])}, got {value!r}')
