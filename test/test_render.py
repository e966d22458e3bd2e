from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
import errno
import io
import json
import os
from pathlib import Path
import runpy
import sys

import cv2
import numpy as np
from PIL import Image
import pytest
import torch

from sharp_ros.apps import render as command
from sharp_ros.apps.cli import main
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians, load_ply, save_ply
from sharp_ros.pictures.depth import colour_depth, depth_range
from sharp_ros.pictures.video import video_intrinsics, video_writer
from sharp_ros.rasterizer import rasterize, Rendering
from sharp_ros.se3 import inverse
from sharp_ros.trajectory import camera_path

PHOTO = Intrinsics(70, 68, 30.5, 25.25, 65, 48)
EXAMPLE = Path(__file__).parents[1] / 'examples' / '02_render_orbit.py'


def wall(depth=3.0, scale=0.05):
    """A coloured wall that fills the photo, with a box in front of it."""
    x, y = np.meshgrid(np.linspace(-2.2, 2.2, 45), np.linspace(-1.6, 1.6, 33))
    z = np.where((np.abs(x) < 0.5) & (np.abs(y) < 0.5), depth - 1, depth)
    n = x.size
    means = np.stack([x, y, z], -1).reshape(n, 3)
    colors = np.random.default_rng(0).uniform(0, 1, (n, 3))
    quats = np.tile([1.0, 0, 0, 0], (n, 1))
    scales = np.full((n, 3), scale)
    parts = (means, quats, scales, np.full(n, 0.95), colors)
    return Gaussians(*(torch.from_numpy(part.astype(np.float32)) for part in parts))


@pytest.fixture(scope='module')
def ply(tmp_path_factory):
    path = tmp_path_factory.mktemp('scene') / 'scene.ply'
    save_ply(path, wall(), PHOTO)
    return path


def render(ply, output, *arguments):
    return main(['render', str(ply), '-o', str(output), *map(str, arguments)])


def frames_of(path):
    video, frames = cv2.VideoCapture(str(path)), []
    while True:
        ok, frame = video.read()
        if not ok:
            return np.array(frames)[..., ::-1], video.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


def read(path):
    return cv2.imread(str(path))[..., ::-1]


def expected(ply, k, pose=None):
    return rasterize(load_ply(ply), k, None if pose is None else inverse(pose), near=0.01)


def picture(rendering):
    return np.rint(rendering.color.numpy() * 255).astype(np.uint8)


# --- videos -------------------------------------------------------------------------------------


def test_video_shows_the_path_frame_by_frame(ply, tmp_path, capsys):
    out = tmp_path / 'out.mp4'
    assert render(ply, out, '--steps', 9, '--fps', 12) == 0
    frames, fps = frames_of(out)
    assert frames.shape == (9, 48, 66, 3)  # 65 pixels are odd
    assert fps == 12
    path, k = camera_path('orbit', load_ply(ply), PHOTO, 9), PHOTO.resized(66, 48)
    for i in (0, 2, 4):  # compressed, with colours at half the resolution
        truth = picture(expected(ply, k, path[i])).astype(float)
        small = [cv2.resize(image.astype(float), (22, 16), interpolation=cv2.INTER_AREA)
                 for image in (frames[i], truth)]  # fmt: skip
        assert np.abs(small[0] - small[1]).mean() < 6
    changes = np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))
    assert (changes > 1).all()
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    line, err = capsys.readouterr()
    assert '9 frames of 66x48' in line
    assert 'fps, coverage 9' in line
    assert err == ''


def test_depth_goes_into_a_second_video_over_the_range_of_the_first_frame(ply, tmp_path):
    out = tmp_path / 'out.mp4'
    assert (
        render(ply, out, '--steps', 3, '--trajectory', 'line', '--depth', '--size', '64x48') == 0
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ['out.depth.mp4', 'out.mp4']
    frames, _ = frames_of(tmp_path / 'out.depth.mp4')
    assert frames.shape == (3, 48, 64, 3)
    path = camera_path('line', load_ply(ply), PHOTO, 3)
    k = command._chosen_intrinsics(PHOTO, '64x48', None, True)
    depths = [expected(ply, k, pose).depth.numpy() for pose in path]

    def error(index, of):  # in the middle of the box and of the wall
        truth = colour_depth(depths[index], *depth_range(depths[of])).astype(float)
        return max(
            np.abs(frames[index][area].mean((0, 1)) - truth[area].mean((0, 1))).max()
            for area in (np.s_[20:28, 28:36], np.s_[16:32, 3:9])
        )

    assert max(error(i, 0) for i in range(3)) < 25
    assert error(1, 1) > 50  # the camera came closer, the range stayed


def test_every_trajectory_and_keyframes_can_be_chosen(ply, tmp_path):
    path = tmp_path / 'path.json'
    path.write_text(
        json.dumps({'frames': [{'eye': [x, 0, 0], 'target': [0, 0, 3]} for x in (0, 1)]})
    )
    seen = {}
    for name in ('swipe', 'rotate', 'line', path):
        out = tmp_path / f'{Path(name).stem}.png'
        assert render(ply, out, '--trajectory', name, '--steps', 5, '--still', 3) == 0
        seen[name] = read(out)
        truth = expected(ply, PHOTO, camera_path(str(name), load_ply(ply), PHOTO, 5)[3])
        assert (seen[name] == picture(truth)).all()
    assert len({image.tobytes() for image in seen.values()}) == 4


# --- pictures -----------------------------------------------------------------------------------


def test_picture_is_what_the_photo_saw_and_what_the_renderer_gives(ply, tmp_path):
    assert render(ply, tmp_path / 'out.png', '--depth') == 0
    truth = expected(ply, PHOTO)
    assert (read(tmp_path / 'out.png') == picture(truth)).all()
    depth = truth.depth.numpy()
    colours = colour_depth(depth, *depth_range(depth))
    assert (read(tmp_path / 'out.depth.png') == colours).all()


@pytest.mark.parametrize('ending', ['jpg', 'JPEG', 'webp'])
def test_pictures_are_written_as_their_ending_says(ply, tmp_path, ending):
    assert render(ply, tmp_path / f'out.{ending}') == 0
    with Image.open(tmp_path / f'out.{ending}') as image:
        assert image.size == (65, 48)
        assert image.format == {'webp': 'WEBP'}.get(ending, 'JPEG')


def test_size_keeps_the_width_of_the_view_and_fov_replaces_it(ply, tmp_path):
    assert render(ply, tmp_path / 'wide.png', '--size', '130x40') == 0
    wide = Intrinsics(140, 136, 61.5, 2 * (25.75 - 24) + 20 - 0.5, 130, 40)
    assert (read(tmp_path / 'wide.png') == picture(expected(ply, wide))).all()
    assert render(ply, tmp_path / 'fov.png', '--size', '40x40', '--fov', 90) == 0
    fov = Intrinsics.centred(20, 40, 40)
    assert (read(tmp_path / 'fov.png') == picture(expected(ply, fov))).all()


def test_size_of_the_same_proportions_shows_the_same():
    k = command._chosen_intrinsics(PHOTO, '130x96', None, False)
    assert k == PHOTO.resized(130, 96)


@pytest.mark.parametrize(
    ('photo', 'video'),
    [((640, 480), (640, 480)), ((741, 497), (742, 498)), ((2001, 3000), (2002, 3000)),
     ((4001, 3001), (2000, 1500)), ((4003, 3006), (2002, 1504))],
)  # fmt: skip
def test_videos_have_the_size_that_sharp_gives_them(photo, video):
    k = Intrinsics.centred(1000, *photo)
    assert video_intrinsics(k) == k.resized(*video)


# --- nothing to see -----------------------------------------------------------------------------


def keyframe(tmp_path, eye, target):
    path = tmp_path / 'path.json'
    path.write_text(json.dumps({'frames': [{'eye': eye, 'target': target}]}))
    return '--trajectory', path, '--steps', 3


@pytest.mark.parametrize(
    ('eye', 'target', 'reason'),
    [
        ((0, 0, 9), (0, 0, 10), 'all 1485 Gaussians lie behind the camera'),
        ((0, 0, 0), (9, 0, 1), 'outside of the image'),
        ((0, 0, -3000), (0, 0, 0), 'too small or too transparent'),
    ],
)
def test_black_videos_are_explained(ply, tmp_path, capsys, eye, target, reason):
    arguments = keyframe(tmp_path, eye, target)
    assert render(ply, tmp_path / 'out.mp4', *arguments, '--depth') == 0
    err = capsys.readouterr().err
    assert err.startswith('warning: 3 of 3 frames (nearly) black: ')
    assert reason in err


def test_gaussians_that_cannot_be_drawn_are_counted(ply, tmp_path, capsys, monkeypatch):
    damaged = wall()
    damaged.means[:7, 0] = torch.nan
    damaged.scales[9] = 0
    monkeypatch.setattr('sharp_ros.gaussians.load_ply', lambda path: damaged)
    assert render(ply, tmp_path / 'out.png') == 0
    err = capsys.readouterr().err
    assert err.startswith('warning: 8 of 1485 Gaussians cannot be drawn from anywhere')


@pytest.mark.parametrize('depth', [-3.0, None])
def test_scenes_without_anything_in_front_are_refused(tmp_path, capsys, depth):
    scene = wall()
    scene = scene.select(slice(0)) if depth is None else replace(scene, means=scene.means * depth)
    save_ply(tmp_path / 'a.ply', scene, PHOTO)
    assert render(tmp_path / 'a.ply', tmp_path / 'out.mp4') == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert [file.name for file in tmp_path.iterdir()] == ['a.ply']


# --- folders ------------------------------------------------------------------------------------


def test_every_scene_of_a_folder_becomes_a_video(ply, tmp_path, capsys):
    scenes = tmp_path / 'scenes'
    scenes.mkdir()
    for name in ('a.ply', 'b.ply'):
        (scenes / name).symlink_to(ply)
    words = ['render', '-i', str(scenes), '-o', str(tmp_path / 'out'), '--steps', '2', '-v']
    assert main(words) == 0
    (scenes / 'a.ply').unlink()
    (scenes / 'a.ply').write_bytes(b'no scene')
    assert main(words) == 1
    assert 'a.ply' in capsys.readouterr().err
    assert sorted(file.name for file in (tmp_path / 'out').iterdir()) == ['a.mp4', 'b.mp4']


def test_a_folder_needs_scenes_and_a_folder_for_their_videos(ply, tmp_path, capsys):
    assert render(tmp_path, tmp_path / 'out') == 1
    assert 'holds no .ply' in capsys.readouterr().err
    assert render(ply.parent, tmp_path / 'out.mp4') == 1
    assert 'must be a folder' in capsys.readouterr().err
    assert main(['render', '-o', 'out.mp4']) == 1
    assert main(['render', str(ply), '-i', str(ply), '-o', 'out.mp4']) == 1
    assert capsys.readouterr().err.count('one scene or folder of scenes is needed') == 2


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('output', 'arguments', 'message'),
    [
        ('out.gif', (), 'must end in .mp4 for a video'),
        ('out', (), 'must end in'),
        ('none/out.mp4', (), 'does not exist; make it first'),
        ('folder.mp4', (), 'is a folder'),
        ('out.mp4', ('--size', '0x48'), '--size must be WIDTHxHEIGHT'),
        ('out.mp4', ('--size', '64'), '--size must be'),
        ('out.mp4', ('--size', '9000x64'), '--size must be'),
        ('out.mp4', ('--fov', 0), '--fov must be'),
        ('out.mp4', ('--fov', 180), '--fov must be'),
        ('out.mp4', ('--fov', 'nan'), '--fov must be'),
        ('out.mp4', ('--fps', 0), '--fps must be'),
        ('out.mp4', ('--fps', -3), '--fps must be'),
        ('out.mp4', ('--fps', 'inf'), '--fps must be'),
        ('out.mp4', ('--steps', 0), 'steps must be'),
        ('out.mp4', ('--still', 0), '--still needs a picture'),
        ('out.png', ('--still', -1), '--still must be at least 0'),
        ('out.png', ('--still', 60), '--still must be below the 60 frames'),
        ('out.mp4', ('--trajectory', 'spiral'), "unknown trajectory 'spiral'"),
        ('out.mp4', ('--trajectory', 'none.json'), 'none.json: cannot be read'),
    ],
)
def test_impossible_requests_end_with_one_line(ply, tmp_path, capsys, output, arguments, message):
    (tmp_path / 'folder.mp4').mkdir()
    assert render(ply, tmp_path / output, *arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ')
    assert message in err
    assert err.count('\n') == 1
    assert [file.name for file in tmp_path.iterdir()] == ['folder.mp4']


@pytest.mark.parametrize(
    ('content', 'message'),
    [(None, 'is no file'), (b'GIF89a', 'not a readable PLY file'),
     (b'ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n'
      b'property float y\nproperty float z\nend_header\n' + bytes(12), 'holds no Gaussians')],
)  # fmt: skip
def test_files_that_are_no_scene_end_with_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / 'a.ply').write_bytes(content)
    assert render(tmp_path / 'a.ply', tmp_path / 'out.mp4') == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out.mp4').exists()


def test_photo_that_is_too_large_asks_for_a_size(tmp_path, capsys):
    save_ply(tmp_path / 'a.ply', wall(), Intrinsics.centred(9000, 9000, 6000))
    assert render(tmp_path / 'a.ply', tmp_path / 'out.png') == 1
    assert 'give --size' in capsys.readouterr().err
    assert render(tmp_path / 'a.ply', tmp_path / 'out.png', '--size', '60x40') == 0


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_folder_without_permission_is_refused(ply, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert render(ply, tmp_path / 'out.mp4') == 1
    assert 'is not writable' in capsys.readouterr().err


# --- endings ------------------------------------------------------------------------------------


def test_interrupted_video_leaves_the_old_one_and_nothing_else(ply, tmp_path, monkeypatch):
    (tmp_path / 'out.mp4').write_bytes(b'old')
    frames = []

    def interrupted(rendering):
        frames.append(rendering)
        if len(frames) == 3:
            raise KeyboardInterrupt
        return image_of(rendering)

    image_of = Rendering.image
    monkeypatch.setattr(Rendering, 'image', interrupted)
    assert render(ply, tmp_path / 'out.mp4', '--depth') == 130
    assert [file.name for file in tmp_path.iterdir()] == ['out.mp4']
    assert (tmp_path / 'out.mp4').read_bytes() == b'old'


def test_a_full_disk_is_reported(ply, tmp_path, monkeypatch, capsys):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('sharp_ros.pictures.video.replacing', lambda path: nullcontext(Full()))
    assert render(ply, tmp_path / 'out.mp4', '--steps', 2) == 1
    assert 'o space left' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('image', 'fps', 'words'),
    [(np.zeros((32, 30, 3), np.uint8), 30, 'uint8'), (np.zeros((32, 32, 3)), 30, 'float64')],
)
def test_frames_of_another_size_or_type_are_refused(tmp_path, image, fps, words):
    with (
        pytest.raises(InputError, match=words),
        video_writer(tmp_path / 'a.mp4', 32, 32, fps) as write,
    ):
        write(image)
    assert list(tmp_path.iterdir()) == []


def test_without_pyav_videos_are_refused_and_pictures_are_not(ply, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'av', None)
    assert render(ply, tmp_path / 'out.mp4') == 1
    assert 'pip install av' in capsys.readouterr().err
    assert render(ply, tmp_path / 'out.png') == 0


@pytest.mark.usefixtures('one_thread')
def test_example_predicts_and_renders(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (6, 8, 3), np.uint8)
    photo, out = tmp_path / 'a.png', tmp_path / 'orbit.mp4'
    cv2.imwrite(str(photo), cv2.resize(coarse, (95, 64), interpolation=cv2.INTER_CUBIC))
    monkeypatch.setattr(sys, 'argv', [EXAMPLE.name, str(photo), str(out)])
    runpy.run_path(str(EXAMPLE), run_name='__main__')
    frames, fps = frames_of(out)
    assert frames.shape == (60, 64, 96, 3)
    assert fps == 30
    assert read(tmp_path / 'orbit.png').shape == (64, 96, 3)
    assert 'Gaussians' in capsys.readouterr().out
