"""Many small sets in one number: `evaluation.depth_sets` and `bench/depth_sets.py`."""

from __future__ import annotations

from dataclasses import replace
import importlib
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from sharp_ros import models
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.evaluation.depth_sets import judge_set, over_sets, second_look, Seen
from sharp_ros.files import sha256_of
from sharp_ros.network.fine_detail import fine_detail, softened
from sharp_ros.network.nano import load_weights
from sharp_ros.network.predictor import NanoPredictor

pytestmark = pytest.mark.usefixtures('one_thread')

ROOT = Path(__file__).parents[1]
CAMERA = Intrinsics.from_hfov(1.0, 64, 48)


@pytest.fixture(scope='module')
def program():
    """The program as a module; it sets the path for itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'bench')
        yield importlib.import_module('depth_sets')


def frame(metres):
    """A slanted surface, in the mean so many metres away."""
    depth = np.linspace(0.8, 1.2, 64, dtype=np.float32) * np.ones((48, 1), np.float32) * metres
    return Frame(np.zeros((48, 64, 3), np.uint8), CAMERA, 0, 'camera', depth=np.float32(depth))


def too_far(factor, log_std=0.1):
    """Knows the shape, and metres but for a factor."""
    return lambda f: Seen(f.depth * np.float32(factor), np.full(f.depth.shape, log_std))


def test_a_set_is_judged_by_its_frames_alike_and_beside_baselines():
    many = judge_set([frame(1.0), replace(frame(1.0), depth=None), frame(4.0)], too_far(1.15))
    assert many['frames'] == 2
    assert many['abs_rel'] == pytest.approx(0.15, abs=1e-4)
    assert many['abs_rel_median_scaled'] == pytest.approx(0, abs=1e-5)
    assert many['scale_median'] == pytest.approx(1 / 1.15, rel=1e-4)
    assert (many['within_1std'], many['within_2std']) == (0, 1)  # log 1.15 is 0.14
    # the constant says the same of both, so that its scale spreads as the frames do
    assert many['constant']['scale_std'] == pytest.approx(math.log(4) / 2, rel=1e-4)
    assert many['training_mean']['abs_rel'] > 0.15


def test_half_of_the_frames_within_is_half_within():
    frames = [frame(1.0), frame(2.0)]
    wrong_far = judge_set(frames, lambda f: too_far(1.5 if f.depth.max() > 1.5 else 1.0)(f))
    assert (wrong_far['within_1std'], wrong_far['within_2std']) == (0.5, 0.5)


def test_model_without_deviation_states_none_and_sets_without_truth_are_refused():
    row = judge_set([frame(1.0)], lambda f: Seen(f.depth, None))
    assert 'within_1std' not in row
    over = over_sets({'a': row})
    assert over['within_2std'] is None
    assert over['abs_rel'] == pytest.approx(1e-4)  # the least that counts, and no log of 0
    with pytest.raises(InputError, match='true depth'):
        judge_set([replace(frame(1.0), depth=None)], too_far(1.0))


def test_twice_as_bad_in_one_set_is_undone_by_twice_as_good_in_another():
    sets = {'near': [frame(0.5)] * 9, 'far': [frame(3.0)]}  # sets count alike, not frames
    before = over_sets({n: judge_set(f, too_far(1.2)) for n, f in sets.items()})
    factors = {'near': 1.1, 'far': 1.4}
    rows = {n: judge_set(f, too_far(factors[n], 0.2)) for n, f in sets.items()}
    after = over_sets(rows)
    assert before['abs_rel'] == pytest.approx(0.2, rel=1e-3)
    assert after['abs_rel'] == pytest.approx(0.2, rel=1e-3)
    assert after['worst'] == pytest.approx(0.4, rel=1e-3)
    assert after['worst_set'] == 'far'
    assert after['scale_std'] == pytest.approx(math.log(1.4 / 1.1) / 2, rel=1e-3)
    assert before['scale_std'] == pytest.approx(0, abs=1e-6)
    assert (after['within_2std'], after['within_2std_set']) == (1, 'near')
    assert after['constant']['worst_set'] == 'near'


# --- a second look -------------------------------------------------------------------------------


def busy(seed=0, size=(192, 256)):
    """Noise of single pixels, than which nothing has more detail."""
    return np.random.default_rng(seed).integers(60, 200, (*size, 3)).astype(np.uint8)


def test_images_are_softened_as_little_as_will_do_and_smooth_ones_not_at_all():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (192, 256, 3)).copy()
    assert softened(ramp) is ramp
    most = float(fine_detail(cv2.GaussianBlur(busy(), (0, 0), 1.3)).mean())
    image = softened(busy(), most)
    np.testing.assert_array_equal(image, cv2.GaussianBlur(busy(), (0, 0), 1.3))
    assert fine_detail(cv2.GaussianBlur(busy(), (0, 0), 1.1)).mean() > most
    # where even the most blur is not enough, that
    np.testing.assert_array_equal(softened(busy(), -9), cv2.GaussianBlur(busy(), (0, 0), 4.3))


def test_second_look_takes_metres_from_it_and_the_shape_from_the_first():
    shape = np.linspace(1, 2, 640, dtype=np.float32) * np.ones((480, 1), np.float32)
    k = Intrinsics.from_hfov(1.0, 640, 480)
    given = Frame(busy(size=(480, 640)), k, 0, 'camera')
    calls = []

    def detail_is_far(f):  # twice as far where it sees fine detail; the soft image has no shape
        calls.append(f.intrinsics.hfov)
        fine = f.image.shape[0] == 480
        depth = 2 * shape if fine else np.full(f.image.shape[:2], 1.5, np.float32)
        return Seen(depth, np.full(depth.shape, 0.3, np.float32))

    seen = second_look(detail_is_far)(given)
    assert calls == pytest.approx([k.hfov, k.hfov])
    np.testing.assert_allclose(seen.depth, shape, rtol=0.01)
    assert seen.log_std == pytest.approx(math.hypot(0.3, math.log(2)), rel=0.01)


def test_smooth_images_are_looked_at_once():
    calls = []

    def look(f):
        calls.append(f)
        return too_far(1.0)(f)

    given = frame(1.0)
    seen = second_look(look)(given)
    assert calls == [given]
    np.testing.assert_array_equal(seen.depth, given.depth)


# --- the program ---------------------------------------------------------------------------------


def test_each_half_of_the_split_has_rooms_and_near_things(program):
    roles = {
        role: {n for n, r in program.SPLIT.items() if r == role} for role in ('chooses', 'reports')
    }
    rooms = {'kinect_room_dev', 'aims_lab_d435', 'tum_fr3_cabinet', 'motorcycle'}
    for names in roles.values():
        assert len(names & rooms) == 2
        assert len(names - rooms) >= 2
    assert set.union(*roles.values()) == set(program.SPLIT)


def test_rendered_sets_guard_and_unknown_folders_only_report(program):
    sets = {name: [frame(1.0)] for name in ('arc_tote_a', 'a_new_one', *program.RENDERED)}
    others = {'arc_tote_a': too_far(1.5)}
    report = program.report_on(sets, too_far(1.1), others)
    assert [row['role'] for row in report['sets'].values()] == [
        'chooses',
        'reports',
        'guards',
        'guards',
    ]
    over = report['over']
    assert {group: part['sets'] for group, part in over.items()} == {
        'all real sets': 2,
        'sets that choose': 1,
        'sets that report': 1,
    }
    # the model that was trained without it judges it
    assert over['sets that choose']['abs_rel'] == pytest.approx(0.5, rel=1e-3)
    assert over['sets that report']['abs_rel'] == pytest.approx(0.1, rel=1e-3)
    assert '| arc_tote_a (left out) | chooses |' in program.tables({'model': 'nano', **report})
    with pytest.raises(ConfigError, match='arc_tote_c'):
        program.report_on(sets, too_far(1.0), {'arc_tote_c': too_far(1.0)})


def recorded(folder):
    """A folder of one image with depth, in TUM layout."""
    folder.mkdir(parents=True)
    depth = np.uint16(frame(1.3).depth * 1000)
    texture = np.random.default_rng(0).integers(40, 220, (48, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / 'image.png'), texture)
    cv2.imwrite(str(folder / 'depth.png'), depth)
    (folder / 'rgb.txt').write_text('1.0 image.png\n')
    (folder / 'depth.txt').write_text('1.0 depth.png\n')
    (folder / 'camera.yaml').write_text(
        'width: 64\nheight: 48\nfx: 60\nfy: 60\ncx: 31.5\ncy: 23.5\ndepth_scale: 1000\n'
    )


def test_one_command_judges_every_folder_and_writes_the_page(
    program, monkeypatch, tmp_path, capsys
):
    recorded(tmp_path / 'sets' / 'ycbv_tabletop')
    recorded(tmp_path / 'sets' / 'mine')
    rendered = {name: [frame(2.0)] for name in program.RENDERED}
    monkeypatch.setattr(program, 'rendered_sets', lambda quick: rendered)
    predictor = NanoPredictor(load_weights(models.WEIGHTS_FOLDER / 'nano.safetensors'), 96 * 64)
    monkeypatch.setattr(models, 'load_predictor', lambda name: (predictor, models.MODELS['nano']))
    for name in ('PAGE', 'RESULTS'):
        monkeypatch.setattr(program, name, tmp_path / name)
    program.PAGE.write_text('before\n<!-- depth_sets -->\n<!-- /depth_sets -->\nafter\n')
    assert program.main([str(tmp_path / 'sets'), '--update-docs']) == 0
    report = json.loads(program.RESULTS.read_text())
    assert list(report['sets']) == ['mine', 'ycbv_tabletop', 'motorcycle', *program.RENDERED]
    assert report['over']['all real sets']['sets'] == 3
    assert capsys.readouterr().out.strip() in program.PAGE.read_text()
    assert program.main([str(tmp_path / 'sets' / 'mine')]) == 1
    assert 'rgb.txt' in capsys.readouterr().err


def test_page_without_its_markers_is_refused(program):
    with pytest.raises(ConfigError, match='depth_sets'):
        program.updated('nothing here', {'model': 'nano', 'sets': {}, 'over': {}})


def test_page_is_what_its_results_say_and_of_the_shipped_weights(program):
    page, results = program.PAGE.read_text(), json.loads(program.RESULTS.read_text())
    assert program.updated(page, results) == page
    assert results['weights']['sha256'] == sha256_of(models.WEIGHTS_FOLDER / 'nano.safetensors')
    assert not results['quick']
