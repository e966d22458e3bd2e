from __future__ import annotations

from dataclasses import replace
import errno
from functools import lru_cache
import math
import os
from pathlib import Path
import re
import runpy
import sys

import cv2
import numpy as np
from PIL import Image
import pytest
import torch

from sharp_ros import loading, models
from sharp_ros.apps.cli import main
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.exchange.doubts import doubts
from sharp_ros.exchange.photographs import find_images
from sharp_ros.exchange.prediction_files import millimetres
from sharp_ros.gaussians import load_ply
from sharp_ros.network.nano import NanoNetwork, save_weights
from sharp_ros.network.predictor import NanoPredictor
from sharp_ros.pictures.depth import colour_depth, depth_range, draw_preview
from sharp_ros.pipeline import GAUSSIANS, Pipeline

pytestmark = pytest.mark.usefixtures('one_thread')

EXAMPLE = Path(__file__).parents[1] / 'examples' / '01_predict_image.py'
ENDINGS = ('_depth.png', '_depth.npz', '_preview.png', '.ply')


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'nano.safetensors'
    save_weights(NanoNetwork(), path, {})
    return path


@pytest.fixture(scope='module', autouse=True)
def loaded_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, 'load_predictor', lru_cache(loading.load_predictor))
        yield


def write_photo(path, size=(96, 64), focal_35mm=None):
    coarse = np.random.default_rng(1).integers(0, 255, (6, 8, 3), np.uint8)
    image = Image.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
    exif = Image.Exif()
    if focal_35mm:
        exif.get_ifd(0x8769)[0xA405] = focal_35mm  # FocalLengthIn35mmFilm
    image.save(path, exif=exif)
    return path


def predict(weights, out, *arguments):
    return main(['predict', *map(str, arguments), '-o', str(out), '--model', str(weights)])


def test_photo_with_exif_gives_all_files_in_agreement(weights, tmp_path, capsys):
    photo = write_photo(tmp_path / 'room.jpg', focal_35mm=26)
    assert predict(weights, tmp_path / 'out', photo) == 0
    files = {ending: tmp_path / 'out' / f'room{ending}' for ending in ENDINGS}
    assert sorted(files.values()) == sorted((tmp_path / 'out').iterdir())

    with np.load(files['_depth.npz']) as arrays:
        depth, spread, k = arrays['depth'], arrays['log_depth_std'], arrays['intrinsics']
    assert depth.shape == spread.shape == (64, 96)
    assert depth.dtype == np.float32
    focal = 26 / math.hypot(36, 24) * math.hypot(96, 64)
    np.testing.assert_allclose(k, [focal, focal, 47.5, 31.5])
    assert 'from EXIF' in capsys.readouterr().out

    png = cv2.imread(str(files['_depth.png']), cv2.IMREAD_UNCHANGED)
    assert png.dtype == np.uint16
    known = np.isfinite(depth)
    assert known.mean() > 0.5
    assert np.abs(png[known] / 1000 - depth[known]).max() <= 0.0006  # half a millimetre
    assert (png[~known] == 0).all()

    gaussians = load_ply(files['.ply'])
    z = gaussians.means[:, 2].numpy()
    assert z.min() <= np.nanmin(depth) + 0.05
    assert cv2.imread(str(files['_preview.png'])).shape[0] == 64


def test_focal_length_given_wins_over_exif_and_scales_the_metres(weights, tmp_path):
    photo = write_photo(tmp_path / 'a.jpg', focal_35mm=26)
    medians = {}
    for focal in (80.0, 160.0):
        assert predict(weights, tmp_path, photo, '--focal-px', focal) == 0
        with np.load(tmp_path / 'a_depth.npz') as arrays:
            assert arrays['intrinsics'][0] == focal
            medians[focal] = np.nanmedian(arrays['depth'])
    assert medians[160.0] / medians[80.0] == pytest.approx(2, rel=0.1)


def test_horizontal_field_of_view_is_taken_in_degrees(weights, tmp_path):
    photo = write_photo(tmp_path / 'a.png')
    assert predict(weights, tmp_path, photo, '--hfov', 90) == 0
    with np.load(tmp_path / 'a_depth.npz') as arrays:
        assert arrays['intrinsics'][0] == pytest.approx(48)  # half the width


@pytest.mark.parametrize('size', [(96, 64), (64, 96)])
def test_without_any_focal_length_the_assumption_is_stated(weights, tmp_path, capsys, size):
    photo = write_photo(tmp_path / 'a.png', size)
    assert predict(weights, tmp_path, photo) == 0
    assert 'assumed: 30 mm on 35 mm film' in capsys.readouterr().out
    with np.load(tmp_path / 'a_depth.npz') as arrays:
        # 3:2 as film is, so 36 mm lie across the longer side
        assert arrays['intrinsics'][0] == pytest.approx(96 * 30 / 36)


def test_unreadable_images_of_a_folder_are_counted_and_the_others_done(weights, tmp_path, capsys):
    write_photo(tmp_path / 'good.jpg')
    (tmp_path / 'bad.jpg').write_bytes(b'\xff\xd8 no more')
    (tmp_path / 'notes.txt').write_text('not an image')
    assert predict(weights, tmp_path / 'out', tmp_path) == 1
    err = capsys.readouterr().err
    assert err.count('error:') == 1
    assert 'bad.jpg' in err
    assert '1 of 2 images failed' in err
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {f'good{e}' for e in ENDINGS}


def test_results_beside_the_photos_are_not_taken_for_photos(weights, tmp_path):
    write_photo(tmp_path / 'a.png')
    for _ in range(2):
        assert predict(weights, tmp_path, tmp_path) == 0
    assert {p.name for p in tmp_path.iterdir()} == {'a.png', *(f'a{e}' for e in ENDINGS)}


def test_folders_are_searched_in_depth_and_their_layout_kept(weights, tmp_path):
    day, night = tmp_path / 'in' / 'day', tmp_path / 'in' / 'night'
    for folder in (day, night, tmp_path / 'in' / '.thumbnails', day / 'folder.jpg'):
        folder.mkdir(parents=True)
    for path in (day / 'a.JPG', night / 'a.png', tmp_path / 'in' / '.thumbnails' / 'a.png'):
        write_photo(path)
    out = tmp_path / 'in' / 'out'  # the results are not taken for photographs the second time
    for _ in range(2):
        assert predict(weights, out, '-i', tmp_path / 'in') == 0
    expected = {out / day / f'a{e}' for day in ('day', 'night') for e in ENDINGS}
    assert {path for path in out.rglob('*') if path.is_file()} == expected


def test_equal_places_in_two_folders_get_two_names(tmp_path):
    photos = [tmp_path / folder / name for folder in 'xy' for name in ('a.jpg', 'a_2.jpg')]
    for photo in photos:
        photo.parent.mkdir(exist_ok=True)
        photo.touch()
    found = find_images([tmp_path / 'x', tmp_path / 'y', photos[0]])
    assert list(found) == photos
    assert [str(stem) for stem in found.values()] == ['a', 'a_2', 'a_3', 'a_2_2']


@pytest.mark.parametrize(
    'form',
    [
        '-i {photo} -o {out} -c {weights} --device cpu',  # that of SHARP's own tool
        '--input {photo} --output {out} --checkpoint-path {weights}',
        '{photo} -o {out} --model {weights}',
        '-o {out} --device cpu {photo} -c {weights}',
        '-c {weights} --model {weights} -o {out} {photo} -i {photo}',
    ],
)
def test_every_form_of_the_command_line_predicts_once(weights, tmp_path, capsys, form):
    photo, out = write_photo(tmp_path / 'a.png'), tmp_path / 'out'
    words = form.format(photo=photo, out=out, weights=weights).split()
    assert main(['predict', *words]) == 0
    streams = capsys.readouterr()
    assert streams.out.count('\n') == 1
    # which model, before all else, on one line
    assert streams.err == f'model {weights} (metric depth), weights: unknown\n'
    assert {p.name for p in out.iterdir()} == {f'a{e}' for e in ENDINGS}


def test_only_what_is_written_is_asked_for(weights, tmp_path, monkeypatch):
    asked, process = [], Pipeline.process

    def note(self, frame, wanted):
        asked.append(wanted)
        return process(self, frame, wanted)

    monkeypatch.setattr(Pipeline, 'process', note)
    assert predict(weights, tmp_path, write_photo(tmp_path / 'a.png')) == 0
    assert asked == [{GAUSSIANS}]


@pytest.mark.parametrize('size', [(1, 1), (1, 70), (4000, 30), (31, 200), (600, 36)])
def test_photographs_too_small_to_mean_anything_are_refused(weights, tmp_path, size, capsys):
    Image.new('RGB', size, (90, 120, 60)).save(tmp_path / 'a.png')
    assert predict(weights, tmp_path / 'out', tmp_path / 'a.png') == 1
    assert f'is {size[0]}x{size[1]}; too small to mean anything' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_numbered_photographs_come_in_natural_order(tmp_path):
    names = ['a2/frame1.png', 'a2/frame2.png', 'a2/frame10.png', 'a10/frame1.png']
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in find_images([tmp_path])] == names


@pytest.mark.parametrize('size', [(32, 32), (32, 512), (512, 32)])
def test_photographs_of_extreme_shape_are_predicted(weights, tmp_path, size):
    Image.new('RGB', size, (90, 120, 60)).save(tmp_path / 'a.png')
    assert predict(weights, tmp_path / 'out', tmp_path / 'a.png') == 0
    with np.load(tmp_path / 'out' / 'a_depth.npz') as arrays:
        assert arrays['depth'].shape == size[::-1]


def refused(capsys, *arguments):
    """The one line in which a command line is refused."""
    assert main(['predict', *map(str, arguments)]) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith('model ')]
    assert len(lines) == 1
    assert lines[0].startswith('error: ')
    return lines[0]


def test_images_of_one_name_do_not_overwrite_each_other(weights, tmp_path):
    photos = [write_photo(tmp_path / 'a.png'), write_photo(tmp_path / 'a.jpg')]
    assert predict(weights, tmp_path / 'out', *photos) == 0
    expected = {f'{stem}{e}' for stem in ('a', 'a_2') for e in ENDINGS}
    assert {p.name for p in (tmp_path / 'out').iterdir()} == expected


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--focal-px', '-5'], 'focal-px must be positive'),
        (['--focal-px', '0'], 'focal-px must be positive'),
        (['--focal-px', 'nan'], 'focal-px must be positive'),
        (['--focal-px', 'inf'], 'focal-px must be positive'),
        (['--hfov', '180'], 'between 0 and 180'),
        (['--hfov', '0'], 'between 0 and 180'),
        (['--hfov', 'nan'], 'between 0 and 180'),
        (['--model', 'sensor'], 'needs a depth image'),
        (['--model', 'nonsense'], 'neither one of'),
        (['--model', '~nobody_of_that_name/nano.onnx'], 'neither one of'),
        (['-c', '/nowhere/sharp.pt'], '/nowhere/sharp.pt'),
        (['--model', 'nano', '-c', 'other.pt'], 'give one of them'),
        (['-i', '/nowhere'], '/nowhere does not exist'),
    ],
)
def test_impossible_wishes_are_refused_with_one_line(tmp_path, capsys, arguments, message):
    photo = write_photo(tmp_path / 'a.png')
    assert message in refused(capsys, photo, '-o', tmp_path / 'out', *arguments)
    assert not (tmp_path / 'out').exists()


def test_without_any_image_both_forms_to_name_one_are_named(tmp_path, capsys):
    assert 'give image files or folders' in refused(capsys, '-o', tmp_path / 'out')
    (tmp_path / 'notes.txt').touch()
    assert 'no image in' in refused(capsys, '-i', tmp_path, '-o', tmp_path)


@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
def test_half_a_checkpoint_is_refused(weights, tmp_path, capsys, suffix):
    half = tmp_path / f'half{suffix}'
    if suffix == '.pt':
        torch.save({'weight': torch.zeros(1000)}, half)
    else:
        half.write_bytes(weights.read_bytes())
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    photo, out = write_photo(tmp_path / 'a.png'), tmp_path / 'out'
    assert 'damaged' in refused(capsys, photo, '-o', out, '-c', half)
    assert not out.exists()


def test_missing_device_is_noticed_before_the_weights_are_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(loading, 'load_predictor', None)  # a call would raise
    photo = write_photo(tmp_path / 'a.png')
    message = refused(capsys, photo, '-o', tmp_path / 'out', '--device', 'cuda')
    assert 'cuda is not available' in message


def test_output_that_cannot_be_written_is_noticed_before_the_weights_are_loaded(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loading, 'load_predictor', None)
    photo = write_photo(tmp_path / 'a.png')
    for out in (photo, photo / 'out'):
        assert f'{photo} is a file' in refused(capsys, photo, '-o', out)
    monkeypatch.setattr(os, 'access', lambda path, mode: False)  # root may write everywhere
    assert f'{tmp_path} is not writable' in refused(capsys, photo, '-o', tmp_path / 'out')


@pytest.mark.parametrize('ending', [ending for ending in ENDINGS if ending != '_depth.npz'])
def test_files_of_others_beside_the_photos_are_refused_before_any_work(
    tmp_path, capsys, monkeypatch, ending
):
    monkeypatch.setattr(loading, 'load_predictor', None)  # a call would raise
    for name in 'ab':
        write_photo(tmp_path / f'{name}.jpg')
    measured = tmp_path / f'b{ending}'
    measured.write_bytes(b'of a sensor')
    message = refused(capsys, tmp_path, '-o', tmp_path)
    assert f'{measured} would be replaced' in message
    assert 'another --output' in message
    assert measured.read_bytes() == b'of a sensor'
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize('older', [False, True])
@pytest.mark.parametrize('full_at', [1, 3, 4])  # the PLY is the fourth
def test_full_disk_leaves_no_part_of_the_results_but_older_ones(
    weights, tmp_path, capsys, monkeypatch, full_at, older
):
    calls, fsync = [], os.fsync

    def fill(file):
        calls.append(file)
        if len(calls) == full_at:
            raise OSError(errno.ENOSPC, 'No space left on device')
        fsync(file)

    monkeypatch.setattr(os, 'fsync', fill)
    photo, out = write_photo(tmp_path / 'a.png'), tmp_path / 'out'
    before = {f'a{ending}': b'older' for ending in ENDINGS} if older else {}
    out.mkdir()
    for name, content in before.items():
        (out / name).write_bytes(content)
    message = refused(capsys, photo, '-o', out, '--model', weights)
    assert 'No space left on device; make space' in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_lack_of_memory_fails_one_photograph_with_one_line(weights, tmp_path, capsys, monkeypatch):
    def fail(self, frame, wanted):
        raise MemoryError

    monkeypatch.setattr(Pipeline, 'process', fail)
    photo = write_photo(tmp_path / 'a.png')
    message = refused(capsys, photo, '-o', tmp_path / 'out', '--model', weights)
    assert message == f'error: cannot predict {photo}: not enough memory; shrink it'
    assert not (tmp_path / 'out').exists()


def test_millimetres_round_saturate_and_keep_zero_for_unknown():
    depth = np.array([[1.2344, 1.2346, 0.0001, 70.0, np.inf, np.nan, 0.0, -1.0]], np.float32)
    assert millimetres(depth).tolist() == [[1234, 1235, 1, 65535, 65535, 0, 0, 0]]


def test_colours_run_from_red_near_to_blue_far_and_leave_unknown_dark():
    red, blue, unknown = colour_depth(np.array([[1.0, 4.0, np.nan]], np.float32), 1.0, 4.0)[0]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert (unknown == 40).all()


@pytest.mark.parametrize('height', [1, 20, 480])
@pytest.mark.parametrize('depth', [np.nan, 2.0, 0.013, 40.0])
def test_preview_is_drawn_for_any_depth_and_size(height, depth):
    image = np.full((height, 30, 3), 128, np.uint8)
    filled = np.full((height, 30), depth, np.float32)
    preview = draw_preview(image, filled, *depth_range(filled))
    assert preview.shape[0] == height
    assert (preview[:, :30] == 128).all()


def test_example_runs_and_writes_gaussians(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, 'WEIGHTS_FOLDER', weights.parent)
    photo, ply = write_photo(tmp_path / 'a.jpg'), tmp_path / 'a.ply'
    monkeypatch.setattr(sys, 'argv', ['01_predict_image.py', str(photo), str(ply)])
    runpy.run_path(str(EXAMPLE), run_name='__main__')
    assert 'median depth' in capsys.readouterr().out
    assert len(load_ply(ply)) > 0


def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(weights, tmp_path, capsys):
    frames = [Image.fromarray(np.full((64, 96, 3), v, np.uint8)) for v in (40, 90, 200)]
    frames[0].save(tmp_path / 'a.gif', save_all=True, append_images=frames[1:], duration=100)
    assert predict(weights, tmp_path, tmp_path / 'a.gif') == 0
    assert 'first of 3 frames' in capsys.readouterr().out


def test_a_suffix_means_one_file_of_one_image(weights, tmp_path, capsys):
    photo = write_photo(tmp_path / 'room.jpg')
    assert predict(weights, tmp_path / 'out', photo) == 0
    by_folder = (tmp_path / 'out' / 'room.ply').read_bytes()
    assert predict(weights, tmp_path / 'new' / 'room.ply', photo) == 0
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['room.ply']
    assert (tmp_path / 'new' / 'room.ply').read_bytes() == by_folder
    assert predict(weights, tmp_path / 'plain', photo, '--plain') == 0
    plain = (tmp_path / 'plain' / 'room.ply').read_bytes()
    assert plain.count(b'element') == 1
    assert by_folder.split(b'end_header\n')[1].startswith(plain.split(b'end_header\n')[1])
    assert predict(weights, tmp_path / 'room.spz', photo) == 0
    assert (tmp_path / 'room.spz').read_bytes()[:2] == b'\x1f\x8b'
    capsys.readouterr()
    assert predict(weights, tmp_path / 'two.spz', photo, write_photo(tmp_path / 'b.png')) == 1
    assert 'holds one image, not 2' in capsys.readouterr().err
    assert predict(weights, tmp_path / 'out', photo, '--up', 'z') == 1
    assert '--up is for one file' in capsys.readouterr().err
    assert predict(weights, tmp_path / 'out.spz', photo, '--sharp-layout') == 1
    assert not (tmp_path / 'out.spz').exists()


def test_the_line_of_a_photo_says_how_unsure_the_network_is_and_what_else_is_doubtful(
    weights, tmp_path, capsys
):
    photo = write_photo(tmp_path / 'a.png')
    assert predict(weights, tmp_path, photo, '--render', '-v') == 0
    with np.load(tmp_path / 'a_depth.npz') as arrays:
        spread = np.median(arrays['log_depth_std'])
    line = capsys.readouterr().out.splitlines()[0]
    stated = re.search(r'median depth [\d.]+ m ± (\d+) % by its own estimate', line)
    assert stated is not None, line
    assert int(stated[1]) == pytest.approx(100 * spread, abs=3)
    assert 'doubtful: the image shows nothing sharp' in line  # as enlarged as it is
    assert cv2.VideoCapture(str(tmp_path / 'a_orbit.mp4')).read()[0]


def test_the_line_of_a_photo_counts_what_is_stated_of_all_of_its_metres(
    weights, tmp_path, capsys, monkeypatch
):
    make = NanoPredictor.gaussians

    def doubting(*arguments, **named):
        return replace(make(*arguments, **named), log_scale_std=2.0)

    monkeypatch.setattr(NanoPredictor, 'gaussians', doubting)
    assert predict(weights, tmp_path, write_photo(tmp_path / 'a.png')) == 0
    with np.load(tmp_path / 'a_depth.npz') as arrays:
        spread = np.median(arrays['log_depth_std'])
        assert arrays['log_scale_std'] == 2.0
    stated = re.search(r'± (\d+) % by its own', capsys.readouterr().out)
    assert int(stated[1]) == pytest.approx(100 * math.hypot(spread, 2.0), abs=3)


def doubted(focal, spread=0.2, shape=(192, 256)):
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_NEAREST)
    frame = Frame(image, Intrinsics.centred(focal, *shape[::-1]), 0, 'camera')
    return list(doubts(frame, np.full((48, 64), spread, np.float32), 'nano'))


def test_photos_like_those_of_the_training_are_not_doubted():
    assert doubted(180) == doubted(180, shape=(256, 192)) == []


def test_narrow_and_wide_views_and_unsure_networks_are_doubted():
    assert 'not of 29°' in ' '.join(doubted(500))
    assert 'not of 127°' in ' '.join(doubted(64))
    assert '± 45 %' in ' '.join(doubted(180, 0.45))


def test_a_preview_says_what_grey_means_where_there_is_grey():
    image, depth = np.zeros((200, 30, 3), np.uint8), np.full((200, 30), 2.0, np.float32)
    depth[100:] = 3.0
    whole = draw_preview(image, depth, 1, 4)[-40:, 60:]
    depth[:9] = np.nan
    assert np.abs(whole.astype(int) - draw_preview(image, depth, 1, 4)[-40:, 60:]).max() > 100
    depth[:9] = 2.0
    assert (whole == draw_preview(image, depth, 1, 4)[-40:, 60:]).all()
