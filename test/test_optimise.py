"""Gaussians fitted to the images of a room: what is gained, what is saved, what others read."""

from __future__ import annotations

from dataclasses import replace
import json
import tracemalloc

import cv2
import numpy as np
import pytest
from test_folder_recordings import write_tum
import torch

from sharp_ros import se3
from sharp_ros.apps.cli import main
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import GaussianMapConfig, KeyframeConfig, SharpConfig
from sharp_ros.errors import InputError
from sharp_ros.evaluation.optimised import rendered_metrics
from sharp_ros.exchange.scene import read_scene
from sharp_ros.gaussians import Gaussians, load_ply
from sharp_ros.mapping.keyframes import KeyframeStore, write_scene
from sharp_ros.mapping.map_files import save_map
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.network.predictor import SensorPredictor
from sharp_ros.optimise import Optimiser, Settings, View
from sharp_ros.optimise.parameters import Parameters
from sharp_ros.optimise.similarity import blur, blur_reference, ssim
from sharp_ros.rasterizer import rasterize, reference
from sharp_ros.sources import open_source
from sharp_ros.synthetic import Room

pytestmark = pytest.mark.usefixtures('one_thread')
K = Intrinsics.from_hfov(1.2, 96, 72)
CONFIG = replace(
    SharpConfig(),
    gaussian_map=GaussianMapConfig(enabled=True, voxel_size=0.1),
    keyframe=KeyframeConfig(keep_images=100),
)


@pytest.fixture(scope='module')
def frames():
    """The first quarter of the drive through a room."""
    room = Room(seed=0)
    drive = room.trajectory(room.loop_duration / 4, 24 * 4 / room.loop_duration)
    return [
        Frame(image, K, round(t * 1e9), 'camera', T, 'map', depth)
        for t, T in drive
        for image, depth in (room.render(K, T),)
    ]


@pytest.fixture(scope='module')
def world(frames):
    """Their map, with the keyframes."""
    mapped, predict = WorldMap(CONFIG), SensorPredictor(stride=2)
    for frame in frames:
        mapped.integrate(frame, frame.depth, visual=False)
        mapped.fuse(frame, frame.depth, predict(frame.image, K, frame.depth))
    return mapped


@pytest.fixture(scope='module')
def folder(world, frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp('maps') / 'map'
    save_map(folder, world.state(frames[-1].stamp_ns, {}, {}))
    return folder


def test_a_few_rounds_gain_two_decibels_on_images_held_out(world, frames):
    views = [View(f.image, K, f.T_world_camera) for f in frames]
    held, fitted = views[4::8], [v for i, v in enumerate(views) if i % 8 != 4]
    before, _ = world.fused()
    optimiser = Optimiser(before, fitted, Settings(grow_every=25))
    optimiser.run(600, iterations=150)
    after = optimiser.gaussians
    gain = rendered_metrics(after, held)['psnr'] - rendered_metrics(before, held)['psnr']
    assert optimiser.iterations == 150
    assert len(before) < len(after) <= 2 * len(before)
    assert gain > 2  # dB


def test_the_same_loop_with_the_reference_moves_gaussians_alike(world, frames):
    small = Intrinsics.from_hfov(1.2, 32, 24)
    fused, _ = world.fused()
    few = fused.select(slice(0, len(fused), 40))
    views = [View(f.image[1::3, 1::3], small, f.T_world_camera) for f in frames[:3]]

    def slow(gaussians, intrinsics, T):
        return reference.rasterize(gaussians, intrinsics, T, (0.0, 0.0, 0.0), 0.05)

    moved = []
    for render in (rasterize, slow):
        optimiser = Optimiser(few, views, render=render)
        losses = [optimiser.step(0.9) for _ in range(6)]
        moved.append((losses, optimiser.gaussians))
    np.testing.assert_allclose(moved[0][0], moved[1][0], rtol=1e-4)
    a, b = (g.colors for _, g in moved)
    # Adam moves by the sign of a gradient, also where that is next to nothing
    assert ((a - b).abs() < 1e-4).float().mean() > 0.98
    assert (a - few.colors[: len(a)]).abs().max() > 1e-3


def test_exposure_of_an_image_is_not_learned_as_colour(world, frames):
    fused, _ = world.fused()
    T = frames[0].T_world_camera
    image = rasterize(fused, K, se3.inverse(T)).image()
    dark = (image * 0.7).astype(np.uint8)
    bright = np.minimum(image * 1.3, 255).astype(np.uint8)
    views = [View(dark, K, T), View(bright, K, T)]

    def drift(rate):
        optimiser = Optimiser(fused, views, Settings(exposure_rate=rate, colors_rate=1e-3))
        optimiser.run(600, iterations=60)
        fitted = rasterize(optimiser.gaussians, K, se3.inverse(T)).image()
        losses = [optimiser.step(1.0) for _ in views]
        return float(np.abs(fitted.astype(float) - image).mean()), sum(losses)

    (_, without), (off, with_exposure) = drift(0.0), drift(0.01)
    assert with_exposure < 0.5 * without
    assert off < 6  # of 255


def test_ssim_is_that_of_the_window_in_plain_torch():
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.rand(30, 41, 3, generator=draw) for _ in range(2))
    torch.testing.assert_close(blur(a), blur_reference(a), atol=1e-6, rtol=0)
    assert ssim(a, a).item() == pytest.approx(1)
    values = []
    for dtype in (torch.float32, torch.float64):
        x = a.to(dtype).clone().requires_grad_()
        ssim(x, b.to(dtype)).backward()
        values.append((ssim(x, b.to(dtype)).item(), x.grad.double()))
    assert values[0][0] == pytest.approx(values[1][0], abs=1e-5)
    assert (values[0][1] - values[1][1]).abs().max() <= 1e-4 * values[1][1].abs().max()


def test_splitting_keeps_what_adam_knows_of_the_others():
    g = Gaussians(
        torch.rand(5, 3),
        torch.randn(5, 4),
        torch.rand(5, 3) + 0.1,
        *[torch.rand(5)] * 1,
        torch.rand(5, 3),
    )
    parameters = Parameters(g, Settings(), 'cpu')
    parameters.gaussians().means.square().sum().backward()
    parameters.values['colors'].grad = torch.zeros(5, 3)
    parameters.step(1e-3)
    before = parameters.gaussians()
    parameters.split(torch.tensor([False, True, False, False, True]), torch.Generator())
    after = parameters.gaussians()
    assert len(parameters) == 7
    assert torch.equal(after.means[:3], before.means[[0, 2, 3]])
    torch.testing.assert_close((after.means[3:5] + after.means[5:]) / 2, before.means[[1, 4]])
    torch.testing.assert_close(after.scales[5:] * 1.6, before.scales[[1, 4]])
    parameters.keep(torch.tensor([True] * 6 + [False]))
    assert len(parameters) == 6
    parameters.gaussians().means.sum().backward()
    parameters.step(1e-3)  # the state fits


def test_keyframes_are_thinned_out_evenly(frames):
    store = KeyframeStore(5)
    for i in range(40):
        store.add(replace(frames[0], stamp_ns=i), np.eye(4))
    stamps = [keyframe.stamp_ns for keyframe in store.kept]
    assert stamps == [0, 8, 16, 24, 32]
    none = KeyframeStore(0)
    none.add(frames[0], np.eye(4))
    assert not none.kept


def test_a_kept_image_takes_100_kb_with_what_it_does_not_show(frames):
    """Also where each image hides pixels of its own, as those of a moving arm."""
    image = cv2.resize(frames[0].image, (640, 480), interpolation=cv2.INTER_CUBIC)
    store, unseen = KeyframeStore(3), np.zeros((480, 640), bool)
    unseen[300:, 100:400] = True
    k = K.resized(640, 480)
    tracemalloc.start()
    for _ in range(3):
        frame = Frame(image, k, 0, 'camera', np.eye(4), 'world', unseen=unseen.copy())
        store.add(frame, np.eye(4))
        del frame
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 3 * 100_000


def test_what_an_image_does_not_show_is_not_learned(world, frames, tmp_path):
    fused, _ = world.fused()
    unseen = np.zeros((72, 96), bool)
    unseen[:, :40] = True
    image = np.where(unseen[..., None], np.uint8(255), frames[0].image)
    store = KeyframeStore(1)
    store.add(replace(frames[0], image=image, unseen=unseen), frames[0].T_world_camera)
    write_scene(tmp_path, store.kept, ())
    (read,) = open_source(str(tmp_path)).frames()
    assert np.array_equal(read.unseen, unseen)
    view = View(read.image, K, read.T_world_camera, read.unseen)
    colors = []
    for seen in (view, replace(view, unseen=None)):
        optimiser = Optimiser(fused, [seen], Settings(exposure_rate=0.0))
        optimiser.run(600, iterations=20)
        picture = rasterize(optimiser.gaussians, K, se3.inverse(seen.T_world_camera)).image()
        colors.append(picture[:, :30].mean())
    before = rasterize(fused, K, se3.inverse(view.T_world_camera)).image()[:, :30].mean()
    assert abs(colors[0] - before) < 10 < colors[1] - before
    mask = tmp_path / 'masks/frame_000000.png'
    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(InputError, match=r'frame_000000\.png is unreadable'):
        list(open_source(str(tmp_path)).frames())


def test_a_saved_map_is_a_scene_for_others_and_for_us(folder, frames, world):
    scene = json.loads((folder / 'transforms.json').read_text())
    assert scene['ply_file_path'] == 'points.ply'
    assert scene['fl_x'] == K.fx
    assert scene['cx'] == K.cx + 0.5
    pose = np.array(scene['frames'][0]['transform_matrix'])
    T = frames[0].T_world_camera
    np.testing.assert_allclose(pose[:3, 2], -T[:3, 2])  # it looks along -z
    np.testing.assert_allclose(pose[:3, 3], T[:3, 3])
    read = list(open_source(str(folder)).frames())
    assert len(read) == json.loads((folder / 'about.json').read_text())['keyframes'] > 3
    np.testing.assert_allclose(read[0].T_world_camera, T, atol=1e-9)
    assert read[0].intrinsics == K
    assert np.abs(read[0].image.astype(float) - frames[0].image).mean() < 4
    points = (folder / 'points.ply').read_bytes()
    assert f'element vertex {len(world.fused()[0])}\n'.encode() in points


def test_command_writes_what_it_gained(folder, capsys):
    report = folder.parent / 'report.json'
    command = ['optimise', str(folder), '--iterations', '20', '--json', str(report)]
    assert main(command) == 0
    assert 'views held out: PSNR' in capsys.readouterr().out
    numbers = json.loads(report.read_text())
    assert numbers['iterations'] == 20
    assert numbers['held_out']['after']['psnr'] > numbers['held_out']['before']['psnr']
    assert len(load_ply(folder / 'optimised.ply')) == numbers['gaussians']['after']
    assert read_scene(folder / 'optimised.ply', ('gaussians',)).up == 'z'  # as those of the map


def test_a_recording_of_which_a_part_was_lost_gives_exit_code_3(folder, tmp_path, capsys):
    write_tum(tmp_path)
    with (tmp_path / 'groundtruth.txt').open('a') as file:
        file.write('\nthis is no pose')
    report = tmp_path / 'report.json'
    begin = ['--gaussians', str(folder / 'gaussians.ply'), '--iterations', '1', '--hold-out', '0']
    assert main(['optimise', str(tmp_path), *begin, '--json', str(report)]) == 3
    assert 'groundtruth.txt' in json.loads(report.read_text())['stock']['losses'][0]
    assert (tmp_path / 'optimised.ply').exists()
    assert 'warning: not used: groundtruth.txt' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--minutes', '0'], 'give a time'),
        (['--hold-out', '1'], 'at least 2'),
        (['--growth', '0.5'], 'at least 1'),
        (['--iterations', '0'], 'at least 1'),
        (['--gaussians', 'nowhere.ply'], 'sharp-ros map'),
        (['-o', 'none/scene.ply'], 'the folder none does not exist; make it first'),
        (['--json', 'none/report.json'], 'the folder none does not exist; make it first'),
        (['-o', '.'], '. is a folder'),
    ],
)
def test_what_cannot_be_optimised_is_said(folder, flags, words, capsys):
    assert main(['optimise', str(folder), *flags]) == 1
    assert words in capsys.readouterr().err


def test_a_recording_that_is_a_file_has_no_room_for_the_result(folder, tmp_path, capsys):
    (tmp_path / 'bag.mcap').touch()
    begin = str(folder / 'gaussians.ply')
    assert main(['optimise', str(tmp_path / 'bag.mcap'), '--gaussians', begin]) == 1
    assert 'give the file to write as --output' in capsys.readouterr().err


def test_nothing_to_fit_is_refused(world):
    fused, _ = world.fused()
    with pytest.raises(InputError, match='no image'):
        Optimiser(fused, [])
    view = View(np.zeros((72, 96, 3), np.uint8), K, np.eye(4))
    with pytest.raises(InputError, match='no Gaussian'):
        Optimiser(fused.select(slice(0, 0)), [view])
