"""What shows nothing is refused, by name; what shows something is not."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.image_content import content_of, ContentCheck
from sharp_ros.se3 import transform
from sharp_ros.synthetic import Room

K = Intrinsics.from_hfov(1.2, 640, 480)
SHAPE = (480, 640, 3)


@pytest.fixture(scope='module')
def scene():
    room = Room(3)
    return room.render(K, room.pose(2.0))[0].astype(np.float64)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def frame(image, x=0.0, turned=0.0, depth=None):
    k = Intrinsics.from_hfov(1.2, image.shape[1], image.shape[0])
    rotation = cv2.Rodrigues(np.array([0, turned, 0]))[0]
    return Frame(image, k, 0, 'camera', transform(rotation, np.array([x, 0, 0])), 'odom', depth)


def verdict(image, check=None):
    """Reason, and whether depth is withheld, too."""
    try:
        doubt = (check or ContentCheck(measured=False))(frame(image))
    except InputError as error:
        return error.reason, True
    return (doubt.reason, False) if doubt else ('', False)


def noisy(image, rng, sigma):
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def fall_off():
    y, x = np.mgrid[-1:1:480j, -1:1:640j]
    return (1 - 0.15 * (x**2 + y**2))[..., None].repeat(3, 2)


SCENES = {
    'day': lambda scene, rng: noisy(scene, rng, 1),
    'night': lambda scene, rng: noisy(0.08 * scene, rng, 1.5),
    'night with gain': lambda scene, rng: noisy(0.35 * scene, rng, 12),
    'fog': lambda scene, rng: noisy(0.25 * scene + 150, rng, 2),
    'thermal': lambda scene, rng: noisy(100 + 0.12 * cv2.GaussianBlur(scene, None, 2.5), rng, 1.5),
    'smeared': lambda scene, rng: noisy(cv2.blur(scene, (40, 1)), rng, 2),
    'small': lambda scene, rng: cv2.resize(scene, (96, 72), None, 0, 0, 3).astype(np.uint8),
    'upright': lambda scene, rng: noisy(scene, rng, 1).transpose(1, 0, 2).copy(),
    'large': lambda scene, rng: noisy(scene, rng, 1).repeat(3, 0).repeat(3, 1),
    'two thirds covered': lambda scene, rng: noisy(
        scene * (np.arange(640) > 420)[:, None], rng, 2
    ),
}
NOTHING = {
    'grey': (lambda scene, rng: np.full(SHAPE, 127, np.uint8), 'image_uniform', True),
    'cap': (lambda scene, rng: noisy(np.full(SHAPE, 3.0), rng, 2), 'image_dark', True),
    'cap, gain': (lambda scene, rng: noisy(np.full(SHAPE, 40.0), rng, 18), 'image_uniform', True),
    'too bright': (lambda scene, rng: noisy(30 * scene + 150, rng, 2), 'image_overexposed', True),
    'too dark': (lambda scene, rng: noisy(0.006 * scene, rng, 0.7), 'image_dark', True),
    'bare wall': (lambda scene, rng: noisy(200 * fall_off(), rng, 2), 'image_featureless', False),
    'blur': (
        lambda scene, rng: noisy(cv2.GaussianBlur(scene, None, 25), rng, 2),
        'image_featureless',
        False,
    ),
}


@pytest.mark.parametrize('name', SCENES)
def test_what_shows_something_is_used(scene, rng, name):
    image = SCENES[name](scene, rng)
    assert verdict(image) == ('', False), content_of(image).share


@pytest.mark.parametrize('name', NOTHING)
def test_what_shows_nothing_is_not_and_says_what_to_do(scene, rng, name):
    make, reason, withheld = NOTHING[name]
    image = make(scene, rng)
    assert verdict(image) == (reason, withheld), content_of(image)


@pytest.mark.parametrize('size', [(120, 163), (481, 643), (727, 1283)])
def test_an_image_in_gray_shows_the_same(rng, size):
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    content = content_of(image)
    gray = content_of(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    np.testing.assert_array_equal(gray.cells, content.cells)
    assert replace(gray, cells=content.cells) == content


def test_a_sensor_measures_in_the_dark_too():
    black = np.zeros(SHAPE, np.uint8)
    assert ContentCheck(measured=True)(frame(black, depth=np.ones(SHAPE[:2], np.float32))) is None


def test_the_edge_of_what_no_ray_reached_is_no_structure(rng):
    image, unseen = noisy(np.full(SHAPE, 140.0), rng, 2), np.zeros(SHAPE[:2], bool)
    unseen[:, :130] = unseen[:60] = True
    image[unseen] = 0
    assert content_of(image).share >= 0.1  # without being told
    assert content_of(image, unseen).share == 0
    assert content_of(image, unseen).plain
    assert not content_of(image, np.ones_like(unseen)).enough


def test_the_same_image_is_refused_once_the_camera_has_moved(scene, rng):
    check, image = ContentCheck(measured=False), scene.astype(np.uint8)
    standing = [frame(image, x) for x in (0.0, 0.01, 0.03, 0.0)]  # the poses jitter
    assert [check(f) for f in standing] == [None] * 4
    for moved in (frame(image, 0.2), frame(image, 0.0, turned=0.1)):
        with pytest.raises(InputError, match='restart the camera driver') as error:
            check(moved)
        assert error.value.reason == 'image_repeated'
    other = np.roll(image, 3, axis=1)
    assert check(frame(other, 0.3)) is None  # it goes on
    assert check(replace(frame(other, 0.9), T_world_camera=None)) is None  # nobody knows
    assert check(frame(other, 0.9)) is None


def test_an_image_that_only_its_codec_changed_is_the_same(scene):
    check, image = ContentCheck(measured=False), scene.astype(np.uint8)
    watermarked = image.copy()
    watermarked[5:9, 5:25] ^= 64
    check(frame(image))
    with pytest.raises(InputError, match='the same after'):
        check(frame(watermarked, 0.2))


def test_a_depth_camera_stands_still_only_if_its_depth_does_too(scene):
    check, image = ContentCheck(measured=True), scene.astype(np.uint8)
    depth = np.random.default_rng(1).uniform(1, 2, SHAPE[:2]).astype(np.float32)
    depth[::16] = np.nan
    assert check(frame(image, 0.0, depth=depth)) is None
    assert check(frame(image, 0.2, depth=depth + 0.1)) is None
    with pytest.raises(InputError, match='the same after'):
        check(frame(image, 0.4, depth=depth + 0.1))
