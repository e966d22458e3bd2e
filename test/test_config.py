from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sharp_ros.apps.cli import main
from sharp_ros.config import (
    differences,
    flatten,
    from_flat,
    frozen_changes,
    load_yaml,
    nested_to_flat,
    options,
    SharpConfig,
    to_yaml,
    ViewConfig,
)
from sharp_ros.errors import ConfigError

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / 'config' / 'sharp.yaml'


@pytest.mark.parametrize(
    ('kind', 'shipped'), [('yaml', SHIPPED), ('markdown', ROOT / 'docs' / 'parameters.md')]
)
def test_shipped_files_are_generated_from_the_defaults(kind, shipped, capsys):
    assert main(['params', '--format', kind]) == 0
    regenerate = f'run: sharp-ros params --format {kind} > {shipped}'
    assert shipped.read_text(encoding='utf-8') == capsys.readouterr().out, regenerate


def test_shipped_file_holds_the_defaults():
    assert load_yaml(SHIPPED) == SharpConfig()


def test_changes_that_need_a_new_start_are_named():
    old = SharpConfig()
    new = replace(
        old,
        occupancy=replace(old.occupancy, rate_hz=5.0, voxel_size=0.1),
        views={'over_shoulder': replace(old.views['over_shoulder'], width=64, frame='world')},
    )
    named = frozen_changes(old, new)
    assert 'occupancy.voxel_size' in named
    assert 'views.over_shoulder.frame' in named
    assert 'view_names' in named
    assert not {'occupancy.rate_hz', 'views.over_shoulder.width'} & set(named)
    assert frozen_changes(old, old) == []


def test_yaml_and_flat_keys_round_trip():
    config = SharpConfig(views={'left': ViewConfig(width=64), 'top_down': ViewConfig(hfov=2.0)})
    assert from_flat(flatten(config)) == config
    tree = yaml.safe_load(to_yaml(config))['/**']['ros__parameters']
    assert from_flat(nested_to_flat(tree)) == config


def test_no_views_can_be_said_in_yaml(tmp_path):
    config = SharpConfig(views={})
    path = tmp_path / 'a.yaml'
    path.write_text(to_yaml(config))
    assert load_yaml(path) == config


def test_later_files_override_earlier_ones(tmp_path):
    path = tmp_path / 'camera.yaml'
    path.write_text('/**:\n  ros__parameters:\n    occupancy: {voxel_size: 0.1}\n')
    config = load_yaml(SHIPPED, path)
    assert config.occupancy.voxel_size == 0.1
    assert config.occupancy.size == SharpConfig().occupancy.size


def test_every_option_has_help_and_a_default_within_its_range():
    for entry in options():
        assert entry.help, entry.key
        if entry.type in ('int', 'float') and entry.minimum is not None:
            assert entry.default >= entry.minimum, entry.key
        if entry.choices:
            assert entry.default in entry.choices, entry.key


@pytest.mark.parametrize(
    ('flat', 'text'),
    [
        ({'occupancy.voxel_size': 0.0}, 'at least 0.005'),
        ({'occupancy.voxel_size': float('nan')}, 'finite'),
        ({'occupancy.voxel_size': 'small'}, 'must be float, got str'),
        ({'occupancy.voxle_size': 0.1}, 'unknown setting'),
        ({'camera.transport': 'theora'}, 'raw, compressed'),
        ({'camera.rectified': 1}, 'must be bool'),
        ({'model.threads': 1.5}, 'must be int'),
        ({'occupancy.min_height': 2.0}, 'below occupancy.max_height'),
        ({'occupancy.voxel_size': 0.005}, 'raise occupancy.voxel_size'),
        ({'pose.base_to_camera': [0.0, 1.0]}, '7 numbers'),
        ({'view_names': ['Not A Name']}, 'lower_snake_case'),
        ({'views.ghost.width': 64}, 'does not list'),
        ({'view_names': 'left'}, 'list of names'),
        ({'views.over_shoulder.position': [1.0]}, '3 numbers'),
        ({'views.over_shoulder.up': [1.0, 0.0]}, '3 numbers'),
        ({'views.over_shoulder.orientation': [0.0] * 4}, 'not all 0'),
        ({'views.over_shoulder.frame': ''}, 'frame of tf'),
        ({'views.over_shoulder.placement': 'somewhere'}, 'look_at, orbit, offset, request'),
        ({'views.over_shoulder.source': 'map'}, 'gaussian_map.enabled'),
    ],
)
def test_bad_values_are_refused_with_a_reason(flat, text):
    with pytest.raises(ConfigError, match=text):
        from_flat(flat)


def test_settings_of_a_default_view_keep_what_they_do_not_name():
    views = from_flat({'views.requested.width': 64}).views
    assert views['requested'].placement == 'request'
    assert views['requested'].width == 64
    assert set(views) == set(SharpConfig().views)


def test_whole_numbers_pass_as_floats():
    assert from_flat({'occupancy.size': 12}).occupancy.size == 12.0


@pytest.mark.parametrize(
    'text', ['[1, 2]', 'a: {b: 1}', '/**:\n  ros__parameters: 5', '{', '/**: 3']
)
def test_files_of_another_shape_are_refused(tmp_path, text):
    path = tmp_path / 'a.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_yaml(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='cannot read'):
        load_yaml(tmp_path / 'none.yaml')


def test_differences_from_the_defaults_are_named():
    assert differences(SharpConfig()) == {}
    assert differences(from_flat({'occupancy.size': 12})) == {'occupancy.size': 12.0}
