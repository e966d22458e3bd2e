"""Fine-tuning keeps the weights best on held-out images, or says that it was for nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sharp_ros.apps.cli import main
from sharp_ros.camera import Intrinsics
from sharp_ros.files import write_atomically
from sharp_ros.models import WEIGHTS_FOLDER
from sharp_ros.network.nano import load_weights, NanoNetwork
from sharp_ros.training import fine_tuning, trainer
from sharp_ros.training.progress import training_curve
from sharp_ros.training.recordings import StereoView, write_recording
from sharp_ros.training.selection import gain, Selection, state_of
from sharp_ros.training.settings import to_yaml, TrainingConfig
from sharp_ros.training.trainer import Run

pytestmark = pytest.mark.usefixtures('one_thread')


def test_the_best_weights_are_kept_and_later_ones_counted() -> None:
    network = nn.Linear(1, 1)
    selection = Selection({}, 0.3, state_of(network))
    for step, error in enumerate((0.4, 0.2, 0.25, 0.2), 1):
        nn.init.constant_(network.weight, step)
        selection.consider({'abs_rel': error, 'loss': -error}, network, step, 10 * step)
    assert selection.weights['weight'].item() == 2
    assert (selection.error, selection.step, selection.seen, selection.stale) == (0.2, 2, 20, 2)


def test_a_run_on_rendered_images_gains_nothing_on_a_recording() -> None:
    assert gain([{'step': 9, 'seen': 9, 'final': {'abs_rel': 0.2}}]) is None
    assert gain([]) is None


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fine-tuning in steps of two tiny images, judged after each."""
    monkeypatch.setattr(Run, 'plan', lambda run, step: (2, 48, 64))
    monkeypatch.setattr(trainer, 'VALIDATION_SIZE', (48, 64))
    k, rng = Intrinsics.from_hfov(1.0, 64, 48), np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    view = StereoView(image, k, np.full((48, 64), 2.0, np.float32), np.eye(4))
    out, folder = tmp_path / 'run', tmp_path / 'recording'
    write_recording([view] * 16, out / 'recording')
    write_atomically(out / 'recording.txt', str(folder))
    config = TrainingConfig(
        data=(),
        out=str(out),
        steps=8,
        validations=8,
        threads=1,
        precision='float32',
        device='cpu',
        learning_rate=1e-3,
        averaging=0.0,
    )
    (tmp_path / 'a.yaml').write_text(to_yaml(config))
    monkeypatch.setattr(fine_tuning, 'FINE_TUNING', 1.0)
    return ['train', str(tmp_path / 'a.yaml'), '--finetune', str(folder), '--out', str(out)]


def judged(errors: list[float], weights: list[torch.Tensor], monkeypatch) -> None:
    """Let the validations of a run find these errors, and remember what they looked at."""
    left = iter(errors)

    def validate(network: NanoNetwork, *_: object) -> dict[str, float]:
        assert network.head.bias is not None
        weights.append(network.head.bias.detach().clone())
        error = next(left)
        return {'abs_rel': error, 'abs_rel_median_scaled': 0.1, 'loss': error, 'frames': 8.0}

    monkeypatch.setattr(trainer, 'validate', validate)
    monkeypatch.setattr(trainer, '_picture', lambda *_: b'')


def test_the_weights_best_on_held_out_images_are_written(
    command: list[str], tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[torch.Tensor] = []
    # before, on some and on all; steps 1 to 5, of which the second is best; those kept, on all
    judged([0.2, 0.212, 0.3, 0.1, 0.11, 0.12, 0.13, 0.141], seen, monkeypatch)
    assert main(command) == 0
    weights = tmp_path / 'run' / 'nano.safetensors'
    words = f'held-out AbsRel 0.212 -> 0.141; use it with --model {weights}'
    assert words in capsys.readouterr().out
    assert torch.equal(seen[3], seen[7])
    assert not torch.equal(seen[6], seen[7])
    load_weights(weights)


def test_a_run_that_makes_nothing_better_fails_and_writes_no_weights(
    command: list[str], tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[torch.Tensor] = []
    judged([0.2, 0.212, 0.3, 0.25, 0.27, 0.212], seen, monkeypatch)
    assert main(command) == 3
    shown = capsys.readouterr()
    assert 'held-out AbsRel 0.200 -> 0.250 at best: no better than before' in shown.err
    assert str(WEIGHTS_FOLDER / 'nano.safetensors') in shown.err
    assert 'use it' not in shown.out
    assert not (tmp_path / 'run' / 'nano.safetensors').exists()


def test_a_resumed_run_keeps_the_weights_that_were_best_before(
    command: list[str], tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(command[1])
    whole = file.read_text()
    seen: list[torch.Tensor] = []
    file.write_text(
        whole.replace('steps: 8', 'steps: 2').replace('validations: 8', 'validations: 2')
    )
    judged([0.2, 0.212, 0.3, 0.1, 0.12], seen, monkeypatch)
    assert main(command) == 0
    file.write_text(whole)
    judged([0.3, 0.3, 0.3, 0.12], seen, monkeypatch)
    assert main(command) == 0
    assert torch.equal(seen[3], seen[-1])
    assert '0.212 -> 0.120' in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize('loss', [0.5, -0.5])
def test_a_curve_shows_both_losses_whatever_their_sign(loss: float) -> None:
    import cv2

    rows = [
        {'seen': 0, 'validation': {'loss': loss + 0.2, 'abs_rel': 0.3}},
        {'seen': 100, 'total': loss + 0.15},
        {'seen': 200, 'total': loss + 0.1},
        {'seen': 200, 'validation': {'loss': loss, 'abs_rel': 0.2}},
        {'seen': 200, 'kept': 200, 'final': {}},
    ]
    picture = cv2.imdecode(np.frombuffer(training_curve(rows), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    below = picture[40:, :, ::-1]  # the legend
    for colour in ((220, 60, 40), (40, 110, 220), (40, 150, 60)):
        near = np.abs(below.astype(int) - colour).max(-1) < 90  # of smoothed lines
        columns = np.flatnonzero(near.any(0))
        assert np.ptp(columns) > 300


def test_images_after_a_clock_was_set_back_are_taken_too():
    stamps = [0, 10**8, 2 * 10**8, 5 * 10**9, 10**9, 11 * 10**8, 12 * 10**8]
    frames = [SimpleNamespace(stamp_ns=stamp) for stamp in stamps]
    taken = [frame.stamp_ns for frame in fine_tuning._thinned(frames)]
    assert taken == [0, 2 * 10**8, 5 * 10**9, 10**9, 12 * 10**8]


def test_what_was_tried_is_no_gain_if_it_was_not_kept():
    """All held-out images are harder than those that validations look at."""
    rows = [
        {'validation': {'abs_rel': 0.10}, 'seen': 0},
        {'validation': {'abs_rel': 0.12}, 'seen': 64},
        {'final': {'abs_rel': 0.2}, 'before': {'abs_rel': 0.2, 'frames': 300}, 'kept': False},
    ]
    result = gain(rows)
    assert (result.before, result.after, result.better) == (0.10, 0.12, False)
    assert gain([rows[0], rows[2]]).better is False  # ended before its first validation
