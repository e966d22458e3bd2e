"""How far views are from images; depth is in test_evaluate.py."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sharp_ros.errors import InputError
from sharp_ros.metrics import image_metrics

pytest.importorskip('skimage')
EVERYWHERE = np.ones((40, 60), bool)


def texture(seed=0):
    """Smooth colours [40, 60, 3] in 0.2..0.8."""
    coarse = np.random.default_rng(seed).uniform(0.2, 0.8, (10, 15, 3))
    return cv2.resize(coarse, (60, 40), interpolation=cv2.INTER_LINEAR)


def test_equal_images_are_perfect():
    metrics = image_metrics(texture(), texture(), EVERYWHERE)
    assert metrics == {'psnr': math.inf, 'ssim': pytest.approx(1), 'pixels': 2400}


def test_psnr_of_a_constant_error_is_that_of_the_formula():
    # an error of 0.1 of the range everywhere: 20 log10(1 / 0.1)
    metrics = image_metrics(texture() + 0.1, texture(), EVERYWHERE)
    assert metrics['psnr'] == pytest.approx(20)


def test_bytes_and_floats_mean_the_same():
    view, truth = (np.rint(texture(seed) * 255).astype(np.uint8) for seed in (0, 1))
    assert image_metrics(view, truth, EVERYWHERE) == image_metrics(
        view / 255, truth / 255, EVERYWHERE
    )


def test_the_further_an_image_is_shifted_the_worse_it_is():
    rows = [image_metrics(np.roll(texture(), n, 1), texture(), EVERYWHERE) for n in (0, 1, 2, 3)]
    for name in ('psnr', 'ssim'):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 4


@pytest.mark.parametrize('outside', [0.0, 1.0, np.nan])
def test_nothing_outside_of_the_mask_matters(outside):
    mask = EVERYWHERE.copy()
    mask[:, 25:30] = mask[7, 3] = False
    view, spoilt = texture(1), texture(1)
    spoilt[~mask] = outside
    assert image_metrics(spoilt, texture(), mask) == image_metrics(view, texture(), mask)


def test_pixels_inside_of_the_mask_are_judged_alone():
    view = texture()
    view[:, 30:] += 0.1
    left = np.arange(60) < 30
    assert image_metrics(view, texture(), EVERYWHERE & left)['psnr'] == math.inf
    assert image_metrics(view, texture(), EVERYWHERE & ~left)['psnr'] == pytest.approx(20)


def test_similarity_of_a_negative_is_negative_however_little_of_it_is_judged():
    for columns in (60, 30, 10):
        mask = EVERYWHERE & (np.arange(60) < columns)
        assert image_metrics(1 - texture(), texture(), mask)['ssim'] < -0.2


def test_views_that_cannot_be_judged_are_refused():
    few = np.zeros((40, 60), bool)
    few[0, :50] = True
    with pytest.raises(InputError, match='only 50 pixels') as caught:
        image_metrics(texture(), texture(), few)
    assert caught.value.reason == 'no_truth'
    with pytest.raises(InputError, match='differ in size'):
        image_metrics(texture()[:30], texture(), EVERYWHERE)
    with pytest.raises(InputError, match='differ in size'):
        image_metrics(texture(), texture(), EVERYWHERE[:30])
