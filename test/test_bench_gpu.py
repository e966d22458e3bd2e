"""`bench/gpu.py` takes all its steps on the CPU, with tiny sizes."""

from __future__ import annotations

from collections.abc import Iterator
import gc
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor

from sharp_ros import self_check
from sharp_ros.network import sessions
from sharp_ros.training import losses
from sharp_ros.training.dataset import Batch

pytestmark = pytest.mark.usefixtures('one_thread')

BENCH = Path(__file__).parents[1] / 'bench'


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setenv('COMMIT', '0123abc')
    module = importlib.import_module('gpu')
    monkeypatch.setattr(module, 'WARM_UP', 1)
    gc.freeze()  # it is collected often, and what was there before takes the time
    yield module
    gc.unfreeze()


def test_dry_run_measures_all_that_needs_no_gpu(
    gpu: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered, render = [], losses.render_second_view

    def note(prediction: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        rendered.append(prediction.requires_grad)
        return render(prediction, batch)

    monkeypatch.setattr(losses, 'render_second_view', note)
    tolerance = self_check.TOLERANCE
    assert gpu.main(['--dry-run', str(tmp_path)]) == 0
    assert tolerance == self_check.TOLERANCE
    report = json.loads((tmp_path / 'gpu.json').read_text(), parse_constant=pytest.fail)
    assert list(report) == [*gpu.sections(gpu.DRY), 'summary']
    measured = {name for name, part in report.items() if 'not_measured' not in part}
    assert measured == {
        *('machine', 'ceilings', 'operations', 'parity.golden_tiny', 'summary'),
        'unprojection.eager',
        *('forward.fp32_eager', 'forward.bf16_eager', 'nano.fp32_eager', 'nano.bf16_eager'),
        *('patch_batch.12', 'patch_batch.5', 'patch_batch.1', 'long_stream'),
        *('stages.bf16_eager', 'kernels.bf16_eager', 'rasterizer.reference_16x12'),
        *('rasterizer.gsplat', 'rasterizer.cuda_16x12', 'rasterizer.cuda_20x12'),
        *('providers', 'runtimes', 'refinement'),
        *('training.drawn', 'training.rate', 'training.second_view', 'training.nano'),
    }
    assert report['machine']['commit'] == '0123abc'
    assert report['parity.golden_tiny']['passed']
    forward = report['forward.bf16_eager']
    assert 0 < forward['forward']['median_ms'] <= forward['forward']['p95_ms']
    assert forward['gaussians']['runs'] == forward['points']['runs'] == gpu.DRY.runs
    assert forward['stream']['fps'] > 0
    assert 0 < forward['self_check_difference'] < 0.1
    parts = report['stages.bf16_eager']['ms']
    assert 0 < parts['patch_encoder']['median_ms'] < parts['forward']['median_ms']
    rates = report['training.drawn'], report['training.rate']
    assert min(rates[0]['pairs_per_s'], rates[1]['learnt_per_s']) > 0
    assert report['training.second_view']['learnt_per_s'] > 0
    assert all(rendered)
    assert rendered  # with gradients: in steps of training
    assert report['training.nano']['held_out']['abs_rel'] > 0
    left = {path.suffix for path in (tmp_path / 'nano').iterdir()}
    assert {'.safetensors', '.jsonl', '.png'} <= left
    assert '.pt' not in left
    assert report['summary']['stage_tflops']['encoder'] > 0
    assert report['rasterizer.gsplat']['passed']
    assert report['rasterizer.cuda_16x12']['color_difference'] < 0.01
    assert report['refinement']['passed']
    assert report['refinement']['abs_rel']['network'] > 0
    ways = report['runtimes']['median_ms']
    assert report['runtimes']['choice'] in ways
    assert 'onnx CPU fp32' in ways
    assert report['runtimes']['difference']['onnx CPU fp32'] == 0
    assert report['runtimes']['passed']
    assert report['kernels.bf16_eager']['kernels'][0]['ms'] > 0
    assert report['summary']['times_fp32']['fp32_eager'] == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in report)


def test_a_section_that_fails_or_hangs_is_reported_and_the_rest_measured(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(setup: object) -> dict:
        raise ValueError('no such luck')

    def hang(setup: object) -> dict:
        while True:
            pass

    chosen = {
        'fails': (fail, 9),
        'hangs': (hang, 0.2),
        'differs': (lambda _: {'passed': False}, 9),
        'works': (lambda _: {'number': float('nan'), 'error_mm': 1.0}, 9),
    }
    monkeypatch.setattr(gpu, 'sections', lambda setup: chosen)
    assert gpu.main(['--dry-run', str(tmp_path)]) == 1
    report = json.loads((tmp_path / 'gpu.json').read_text(), parse_constant=pytest.fail)
    assert report['fails']['error'] == 'ValueError: no such luck'
    assert 'took longer' in report['hangs']['error']
    assert report['works']['number'] == 'nan'
    assert report['summary']['failed'] == ['fails', 'hangs', 'differs']


def test_a_lost_device_ends_the_process_and_the_next_one_goes_on(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def crash(setup: object) -> dict:
        ran.append('crash')
        raise RuntimeError('an illegal memory access was encountered')

    def work(setup: object) -> dict:
        ran.append('work')
        return {}

    chosen = {'crashes': (crash, 9), 'works': (work, 9)}
    monkeypatch.setattr(gpu, 'sections', lambda setup: chosen)
    monkeypatch.setattr(gpu, '_usable', lambda setup: False)
    assert gpu.main(['--dry-run', str(tmp_path)]) == gpu.TRY_AGAIN
    assert gpu.main(['--dry-run', '--resume', str(tmp_path)]) == 1
    assert ran == ['crash', 'work']
    report = json.loads((tmp_path / 'gpu.json').read_text())
    assert report['summary']['failed'] == ['crashes']


def test_operations_of_the_released_network_are_counted(gpu: ModuleType) -> None:
    tflop = gpu.operations(gpu.FULL)['tflop']
    # 36 windows of 577 tokens through 24 blocks of a transformer 1024 wide
    products = 24 * (2 * 12 * 1024**2 * 577 + 4 * 577**2 * 1024) * 36
    embedding = 2 * 3 * 16**2 * 1024 * 576 * 36
    encoders = tflop['patch_encoder'] + tflop['image_encoder']
    assert encoders == pytest.approx((products + embedding) / 1e12, rel=1e-6)
    assert encoders < tflop['encoder'] < tflop['forward']


def test_tensorrt_is_asked_for_before_cuda_and_cuda_before_the_cpu(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = gpu.gpu_frame.choices()
    assert report['passed']
    assert report['chosen']['Tensorrt'][:2] == [
        'TensorrtExecutionProvider',
        'CUDAExecutionProvider',
    ]
    assert report['chosen']['CUDA'][0] == 'CUDAExecutionProvider'
    assert report['chosen']['CPU'] == ['CPUExecutionProvider']
    assert report['engines_kept']
    monkeypatch.setitem(sessions._PROVIDERS, 'cuda', sessions._PROVIDERS['cuda'][::-1])
    assert not gpu.gpu_frame.choices()['passed']  # the slowest would be taken
