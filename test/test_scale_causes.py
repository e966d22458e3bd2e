"""`bench/scale_causes.py`: one thing changes at a time, and its effect is found."""

from __future__ import annotations

from dataclasses import replace
import importlib
import math
from pathlib import Path

import numpy as np
import pytest

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.evaluation.depth_sets import looking, Seen
from sharp_ros.models import WEIGHTS_FOLDER
from sharp_ros.network.fine_detail import fine_detail
from sharp_ros.network.nano import load_weights
from sharp_ros.network.predictor import NanoPredictor
from sharp_ros.procedural.textures import COUNTS, make_textures

pytestmark = pytest.mark.usefixtures('one_thread')

ROOT = Path(__file__).parents[1]
WEIGHTS = WEIGHTS_FOLDER / 'nano.safetensors'


@pytest.fixture(scope='module')
def program():
    """The program as a module, with small images; it sets the path for itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'bench')
        module = importlib.import_module('scale_causes')
        patch.setattr(module, 'SIZE', (64, 48))
        yield module


@pytest.fixture(scope='module')
def cases(program):
    """By factor, the images of the first scene that has a room and a table top."""
    textures = make_textures(dict.fromkeys(COUNTS, 1))
    for seed in range(program.FIRST_SEED, program.FIRST_SEED + 40):
        found: dict[str, list] = {}
        for case in program.cases_of(seed, textures):
            found.setdefault(case.factor, []).append(case)
        if {'room: pitch, °', 'table top: distance, m'} <= found.keys():
            return found
    raise AssertionError('no scene has both')


def plain(metres, image=None):
    """A wall at some distance, seen with a focal length of 160 px."""
    k = Intrinsics.centred(160.0, 64, 48)
    image = np.full((48, 64, 3), 128, np.uint8) if image is None else image
    return Frame(image, k, 0, 'camera', depth=np.full((48, 64), metres, np.float32))


def test_field_of_view_and_distance_change_as_they_say_and_nothing_else(cases):
    for case in cases['room: field of view, °']:
        assert math.degrees(case.frame.intrinsics.hfov) == pytest.approx(case.value, abs=1)
        assert case.frame.depth[24, 32] == pytest.approx(
            cases['room: field of view, °'][0].frame.depth[24, 32], rel=0.15
        )
    middle = [case.frame.depth[20:28, 28:36].min() for case in cases['table top: distance, m']]
    assert (np.diff(middle) > 0).all()
    assert middle[-1] <= 2.1  # the top, or what stands on it


def test_blur_exposure_and_texture_leave_the_depth_as_it_is(cases):
    for factor in ('room: blur, px', 'room: exposure, EV', 'room: finer texture, x'):
        images = [case.frame.image.astype(float) for case in cases[factor]]
        for case in cases[factor][1:]:
            np.testing.assert_array_equal(case.frame.depth, cases[factor][0].frame.depth)
        assert all(np.abs(image - images[0]).mean() > 0.2 for image in images[1:])
    bright = [case.frame.image.mean() for case in cases['room: exposure, EV']]
    assert bright == sorted(bright, reverse=True)


def test_a_model_that_knows_the_truth_responds_fully_and_a_blind_one_not_at_all(program, cases):
    chosen = [*cases['table top: distance, m'], *cases['room: blur, px']]

    def rows(look):
        found: dict[str, dict[float, list]] = {}
        for case in chosen:
            row = program.judged(case, look)
            found.setdefault(case.factor, {}).setdefault(case.value, []).append(row)
        return program.study(found)

    knows = rows(lambda f: Seen(f.depth * np.float32(0.5), None))
    distances = knows['table top: distance, m']
    assert distances['true_over_predicted'] == pytest.approx([math.log(2)] * 6, abs=1e-3)
    assert distances['response'] == pytest.approx(1, abs=1e-3)
    assert distances['span'] == pytest.approx(0, abs=1e-3)
    assert knows['room: blur, px']['response'] is None  # nothing is farther or nearer
    blind = rows(lambda f: Seen(np.full(f.depth.shape, 1.0, np.float32), None))
    assert blind['table top: distance, m']['response'] == pytest.approx(0, abs=1e-3)
    assert blind['table top: distance, m']['span'] > 0.5
    printed = program.tables(knows)
    assert '| table top: distance, m | 1 | 0.4: +0.69 (0.00)' in printed


# --- real images ---------------------------------------------------------------------------------


def test_sets_count_alike_in_the_distances_and_fine_texture_is_detail(program):
    noise = np.random.default_rng(0).integers(60, 200, (48, 64, 3)).astype(np.uint8)
    sets = {'many': [plain(0.5)] * 3, 'one': [plain(1.2, noise)]}
    found = program.by_distance(sets)
    at = {low: i for i, low in enumerate(program.BOUNDS)}
    assert found['share'][at[0.35]] == pytest.approx(0.5)
    assert found['share'][at[1.0]] == pytest.approx(0.5)
    assert sum(found['share']) == pytest.approx(1)
    assert found['detail'][at[0.35]] == pytest.approx(math.log(1e-3), abs=0.01)  # none at all
    assert found['detail'][at[1.0]] > -3
    assert math.isnan(found['detail'][at[3.0]])
    # less light: the same detail, since brightness is divided out
    dark = fine_detail(noise // 2).mean()
    assert dark == pytest.approx(fine_detail(noise).mean(), abs=0.15)


def test_what_predicted_distance_follows_is_told_apart(program):
    rng = np.random.default_rng(0)
    true, shown = rng.normal(0, 1, 200), rng.normal(-3, 1, 200)

    def rows(said):
        given = zip(true, said, shown, strict=True)
        return [(program.Row(0.0, t, s), d) for t, s, d in given]

    half = program.follows({'a': rows(0.5 * true), 'b': rows(0.5 * true)[:50]})
    assert half['true distance']['slopes'] == pytest.approx([0.5])
    assert half['true distance']['r2'] == pytest.approx(1)
    assert half['detail']['r2'] < 0.1
    both = program.follows({'a': rows(0.2 * true + 0.4 * shown)})
    assert both['both']['slopes'] == pytest.approx([0.2, 0.4])
    assert both['both']['r2'] == pytest.approx(1)
    assert both['detail']['r2'] > both['true distance']['r2']
    # a set of few images weighs as much as one of many
    few = program.follows({'a': rows(0.5 * true), 'b': rows(-0.5 * true)[:100]})
    assert abs(few['true distance']['slopes'][0]) < 0.1


def test_metres_grow_with_the_stated_focal_length_and_depend_on_nothing_else_of_it(cases):
    """But for the head, which has learnt what is seen through such a lens."""
    frame = cases['room: pitch, °'][2].frame
    network = load_weights(WEIGHTS)
    network.metres = None
    look = looking(Engine(NanoPredictor(network), ModelConfig()))
    metres = {}
    for factor in (0.5, 1.0, 2.0):
        k = frame.intrinsics
        stated = replace(k, fx=k.fx * factor, fy=k.fy * factor)
        metres[factor] = float(np.nanmedian(look(replace(frame, intrinsics=stated)).depth))
    assert metres[0.5] / metres[1.0] == pytest.approx(0.5, rel=0.02)
    assert metres[2.0] / metres[1.0] == pytest.approx(2.0, rel=0.02)
