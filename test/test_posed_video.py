"""Fine-tuning on a moving camera without depth: pairs of views whose poses tell the metres."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import json
import math
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest
import torch

from sharp_ros.apps.cli import main
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.models import WEIGHTS_FOLDER
from sharp_ros.network.nano import load_weights, NONE, save_weights
from sharp_ros.se3 import quat_from_matrix
from sharp_ros.synthetic import Room
from sharp_ros.training import trainer
from sharp_ros.training.dataset import Batch, Shards
from sharp_ros.training.losses import depth_loss
from sharp_ros.training.recordings import (
    knows_depth,
    MAX_TURN,
    MIN_STEP,
    posed_pairs,
    write_recording,
)
from sharp_ros.training.settings import to_yaml, TrainingConfig
from sharp_ros.training.trainer import Run, validate

pytestmark = pytest.mark.usefixtures('one_thread')

K = Intrinsics.from_hfov(1.2, 128, 96)
TINY = Intrinsics.from_hfov(1.2, 64, 48)


@pytest.fixture(scope='module')
def drive() -> list[Frame]:
    """One round through the simulated room with exact depth, an image every 25 cm."""
    room, frames = Room(1), []
    for t, T_world_camera in room.trajectory(room.loop_duration, 2.0):
        image, depth = room.render(K, T_world_camera)
        frames.append(Frame(image, K, round(t * 1e9), 'camera', T_world_camera, 'world', depth))
    return frames


@pytest.fixture(scope='module')
def video(drive: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drive as a folder in TUM layout, without its depth."""
    folder = tmp_path_factory.mktemp('video')
    values = {name: getattr(K, name) for name in ('width', 'height', 'fx', 'fy', 'cx', 'cy')}
    (folder / 'camera.yaml').write_text(json.dumps(values))
    images, poses = [], []
    for frame in drive:
        stamp, name = frame.stamp_ns / 1e9, f'{frame.stamp_ns}.png'
        cv2.imwrite(str(folder / name), frame.image[..., ::-1])
        w, *xyz = quat_from_matrix(frame.T_world_camera[:3, :3])
        images.append(f'{stamp} {name}')
        poses.append(' '.join(map(str, (stamp, *frame.T_world_camera[:3, 3], *xyz, w))))
    (folder / 'rgb.txt').write_text('\n'.join(images))
    (folder / 'groundtruth.txt').write_text('\n'.join(poses))
    return folder


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingConfig:
    monkeypatch.setattr(Run, 'plan', lambda run, step: (3, 96, 128))
    monkeypatch.setattr(trainer, 'VALIDATION_SIZE', (96, 128))
    return TrainingConfig(
        data=(),
        out=str(tmp_path / 'run'),
        validations=2,
        threads=1,
        precision='float32',
        device='cpu',
        averaging=0.7,
    )


@pytest.fixture(scope='module')
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that see everything 1.4 times too far."""
    network = load_weights(WEIGHTS_FOLDER / 'nano.safetensors')
    with torch.no_grad():
        network.head.bias[0] += math.log(1.4)
    path = tmp_path_factory.mktemp('weights') / 'far.safetensors'
    save_weights(network, path, {})
    return path


def settings(path: Path, config: TrainingConfig) -> str:
    path.write_text(to_yaml(config))
    return str(path)


def walk(steps: list[float], turns: list[float] | None = None) -> Iterator[Frame]:
    """Along x by metres, turned about the vertical to radians; image i has colour i."""
    for i, x in enumerate(np.cumsum(steps)):
        pose = np.eye(4)
        pose[0, 3] = x
        if turns is not None:
            pose[:3, :3] = cv2.Rodrigues(np.array([0.0, turns[i], 0.0]))[0]
        yield Frame(np.full((48, 64, 3), i, np.uint8), TINY, i, 'camera', pose, 'world')


# --- pairs ----------------------------------------------------------------------------------


def test_the_partner_of_a_view_is_the_first_one_far_enough_away(tmp_path: Path) -> None:
    standing_and_walking = [0.0, 0.001, 0.0, *[0.15] * 20]
    assert write_recording(posed_pairs(walk(standing_and_walking)), tmp_path / 'shards') == 14
    assert not knows_depth(tmp_path / 'shards')
    shards = Shards(sorted((tmp_path / 'shards').iterdir()))
    first = [int(shards[i].rgb.max()) for i in range(0, 14, 2)]
    second = [int(shards.partner(i).rgb.max()) for i in range(0, 14, 2)]
    assert (first[0], second[0]) == (0, 4)
    assert [b - a for a, b in zip(first[1:], second[1:], strict=True)] == [2] * 6
    batch = shards.batch([2, 3], 48, 64, None, second_view=True)
    assert not batch.depth.any()
    np.testing.assert_allclose(batch.T_2_1[:, 0, 3], [-0.3, 0.3], atol=1e-6)


def test_no_pair_lies_across_a_turn() -> None:
    turns = [*[0.0] * 8, *np.linspace(0, 2, 12)[1:], *[2.0] * 9]
    views = list(posed_pairs(walk([0.12] * len(turns), turns)))
    assert len(views) >= 10
    for a, b in zip(views[::2], views[1::2], strict=True):
        T = np.linalg.inv(a.T_world_camera) @ b.T_world_camera
        assert np.linalg.norm(T[:3, 3]) >= MIN_STEP
        assert np.trace(T[:3, :3]) >= 1 + 2 * math.cos(MAX_TURN)


@pytest.mark.parametrize(
    ('frames', 'reason', 'message'),
    [
        (list(walk([0.001] * 40)), 'recording_too_short', 'do not move: they stay within 0.039 m'),
        (list(walk([0.1] * 8)), 'recording_too_short', 'only 2 pairs .* record longer'),
        (
            [replace(frame, T_world_camera=None) for frame in walk([0.3] * 40)],
            'no_depth',
            'neither depth nor poses',
        ),
    ],
)
def test_recordings_without_metres_are_refused(
    frames: list[Frame], reason: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        write_recording(posed_pairs(frames), tmp_path / 'shards')
    assert caught.value.reason == reason
    assert not (tmp_path / 'shards').exists()


# --- losses and validation ------------------------------------------------------------------


def test_images_without_depth_add_nothing_to_the_depth_terms_of_a_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    depth = torch.rand(2, 48, 64, generator=rng) + 1
    depth[1] = 0
    k = torch.tensor([[60.0, 60.0, 32.0, 24.0]]).expand(2, -1)
    batch = Batch(torch.rand(2, 3, 48, 64, generator=rng), k, depth, torch.zeros_like(depth))
    prediction = torch.zeros(2, 4, 48, 64)
    prediction[:, NONE] = -3
    prediction.requires_grad_()
    both = depth_loss(prediction, batch)
    alone = depth_loss(prediction[:1], Batch(*(column[:1] for column in batch[:4])))
    for name, term in both.items():
        assert term.item() == pytest.approx(alone[name].item() / 2, abs=1e-6), name
    (gradient,) = torch.autograd.grad(both['total'], prediction)
    assert torch.isfinite(gradient).all()
    assert gradient[0].any()
    assert not gradient[1].any()


def test_without_depth_the_second_view_is_what_validation_compares(
    drive: list[Frame], tmp_path: Path
) -> None:
    posed, blind = tmp_path / 'posed', tmp_path / 'blind'
    write_recording((replace(f, depth=None) for f in drive[:10]), posed)
    write_recording((replace(f, depth=None, T_world_camera=None) for f in drive[:10]), blind)
    network = load_weights(WEIGHTS_FOLDER / 'nano.safetensors')
    with ThreadPoolExecutor(1) as pool:
        metrics = validate(network, Shards(sorted(posed.iterdir())), 2, pool)
        assert set(metrics) == {'photometric', 'loss', 'frames'}
        assert 0 < metrics['photometric'] == metrics['loss'] < 0.3
        with pytest.raises(InputError, match='another view'):
            validate(network, Shards(sorted(blind.iterdir())), 2, pool)


# --- the command ----------------------------------------------------------------------------


def test_posed_video_alone_teaches_the_metres(
    config: TrainingConfig,
    drive: list[Frame],
    video: Path,
    disturbed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The metres come near the truth on views held out."""
    network = load_weights(disturbed)
    file = settings(tmp_path / 'a.yaml', replace(config, steps=25, init=str(disturbed)))
    out = tmp_path / 'out'
    assert main(['train', file, '--finetune', str(video), '--out', str(out)]) == 0
    printed = capsys.readouterr()
    assert 'in pairs, without depth' in printed.err
    final = json.loads(printed.out.splitlines()[0])
    assert set(final) == {'photometric', 'loss', 'frames'}

    write_recording(posed_pairs(drive), tmp_path / 'truth')  # the same images, with depth
    shards = tmp_path / 'truth', out / 'recording'
    truth, seen = (Shards([min(folder.iterdir())]) for folder in shards)
    assert np.array_equal(truth[3].rgb, seen[3].rgb)
    with ThreadPoolExecutor(1) as pool:
        before = {**validate(network, seen, 8, pool), **validate(network, truth, 8, pool)}
        trained = load_weights(out / 'nano.safetensors')
        after = validate(trained, truth, 8, pool)
    assert final['photometric'] < 0.95 * before['photometric']
    assert before['scale_median'] < 0.8  # true metres a predicted one
    assert abs(math.log(after['scale_median'])) < 0.5 * abs(math.log(before['scale_median']))
    assert after['abs_rel'] < 0.6 * before['abs_rel']


def test_a_run_on_posed_video_goes_on_from_its_shards(
    config: TrainingConfig, video: Path, disturbed: Path, tmp_path: Path
) -> None:
    moved = tmp_path / 'video'
    shutil.copytree(video, moved)
    for steps, code in ((1, 3), (2, 0)):  # the first step of a warm-up changes no weight
        file = settings(tmp_path / 'a.yaml', replace(config, steps=steps, init=str(disturbed)))
        assert main(['train', file, '--finetune', str(moved)]) == code
        shutil.rmtree(moved, ignore_errors=True)
    out = Path(config.out) / 'finetuned'
    rows = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    trained = [row for row in rows if 'total' in row]
    assert [row['step'] for row in trained] == [1, 2]
    assert all(row['photometric'] > 0 and row['l1'] == 0 for row in trained)
    assert cv2.imread(str(out / 'curve.png')) is not None
