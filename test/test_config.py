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


@pytest.mark.parametrize(
    ('flat', 'text'),
    [
        # all that was never seen would be free, or all of it occupied
        ({'occupancy.free_log_odds': 0.0}, 'free_log_odds must be at most -0.01'),
        ({'occupancy.free_log_odds': 0.4}, 'free_log_odds must be at most -0.01'),
        ({'occupancy.free_log_odds': -1e-5}, 'free_log_odds must be at most -0.01'),
        ({'occupancy.occupied_log_odds': 0.0}, 'occupied_log_odds must be at least 0.01'),
        # no wall would ever be occupied, nothing ever free
        ({'occupancy.occupied_log_odds': 4.0}, 'beyond occupancy.clamp_log_odds'),
        ({'occupancy.free_log_odds': -4.0}, 'beyond occupancy.clamp_log_odds'),
        ({'occupancy.hit_log_odds': 0.0}, 'hit_log_odds must be at least 0.1'),
        ({'occupancy.hit_log_odds': -0.85}, 'hit_log_odds must be at least 0.1'),
        ({'occupancy.miss_log_odds': 0.0}, 'miss_log_odds must be at least 0.01'),
        ({'occupancy.miss_log_odds': -0.4}, 'miss_log_odds must be at least 0.01'),
        ({'occupancy.clamp_log_odds': 1e5}, 'clamp_log_odds must be at most 20'),
        # nothing would ever be marked
        ({'occupancy.min_range': 6.0}, 'must lie below occupancy.max_range'),
        ({'point_cloud.min_range': 30.0}, 'must lie below point_cloud.max_range'),
        ({'point_cloud.min_range': 5.0}, 'must lie below occupancy.max_range'),
        # walls in plain sight would be cleared
        ({'point_cloud.max_range': 3.0}, 'clear through walls'),
        ({'occupancy.max_range': 25.0}, 'clear through walls'),
        ({'point_cloud.max_range': 0.0}, 'must lie below point_cloud.max_range'),
        # nothing would ever be mapped
        ({'pose.world_frame': ''}, 'world_frame must name'),
        ({'pose.world_frame': ' ', 'pose.source': 'visual'}, 'world_frame must name'),
        # no time or place that can be counted in
        ({'views.over_shoulder.period': 1e300}, 'period must be at most 1e'),
        ({'views.over_shoulder.position': [0.0, 0.0, -1e300]}, 'position must be at least -1e'),
        ({'camera.depth_tolerance': 1e300}, 'depth_tolerance must be at most 1e'),
        ({'snapshot.timeout': 1e10}, 'timeout must be at most 600'),
        ({'occupancy.min_height': -1e7}, 'min_height must be at least -1e'),
        ({'occupancy.rate_hz': float('inf')}, 'finite'),
        ({'occupancy.size': 10**400}, '64 bits'),
        ({'model.threads': 10**400}, '64 bits'),
        # 1.6e9 voxels in one layer that is thinner than a voxel
        (
            {'occupancy.size': 2000, 'occupancy.min_height': 0, 'occupancy.max_height': 1e-4},
            'raise occupancy.voxel_size',
        ),
        # maps would be saved wherever the process was started, or nowhere
        ({'output.directory': ''}, 'name a folder'),
        ({'output.formats': '.spz .doc'}, "'.doc' is none of"),
        ({'keyframe.keep_images': 5}, 'needs gaussian_map.enabled: true'),
        ({'output.directory': '~no_such_user/maps'}, 'no such user'),
    ],
)
def test_what_would_blind_or_end_a_robot_is_refused_with_what_to_do(flat, text):
    with pytest.raises(ConfigError, match=text):
        from_flat(flat)


def test_floats_without_a_range_of_their_own_still_count_in_nanoseconds():
    for entry in options():
        if entry.type == 'float' and entry.maximum is None:
            with pytest.raises(ConfigError, match=entry.key):
                from_flat({entry.key: 2**63 / 1e9})


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


@pytest.mark.parametrize(
    ('wrong', 'meant'),
    [
        ('occupancy.voxle_size', 'occupancy.voxel_size'),
        ('occupancy.voxelsize', 'occupancy.voxel_size'),
        ('camera_height', 'scale.camera_height'),
        ('scales.camera_height', 'scale.camera_height'),
    ],
)
def test_an_unknown_key_names_what_was_meant(wrong, meant):
    with pytest.raises(ConfigError, match=f'did you mean {meant}'):
        from_flat({wrong: 1})


@pytest.mark.parametrize('text', ['1e1', '1.0e1', '10.0', '10'])
def test_numbers_in_files_mean_what_they_mean_to_the_node(tmp_path, text):
    file = tmp_path / 'a.yaml'
    file.write_text(f'/**:\n  ros__parameters:\n    occupancy:\n      size: {text}\n')
    assert load_yaml(file).occupancy.size == 10.0


@pytest.mark.parametrize('text', ['1_0', '1:30', '2020-01-01'])
def test_what_the_node_takes_for_text_is_no_number_in_files(tmp_path, text):
    file = tmp_path / 'a.yaml'
    file.write_text(f'/**:\n  ros__parameters:\n    occupancy:\n      size: {text}\n')
    with pytest.raises(ConfigError, match=r'occupancy\.size must be float, got str'):
        load_yaml(file)
