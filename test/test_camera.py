from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
import io
import math
from pathlib import Path
import sys
from types import SimpleNamespace
import zlib

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
import pytest

from sharp_ros import images
from sharp_ros.camera import Frame, Intrinsics, project, unproject
from sharp_ros.errors import InputError
from sharp_ros.images import decode_image, DEFAULT_FOCAL_35MM, focal_from_35mm, read_image
from sharp_ros.rectification import CameraModel, Rectifier

K = (500.0, 0.0, 331.0, 0.0, 510.0, 236.0, 0.0, 0.0, 1.0)
PLUMB_BOB = (-0.28, 0.09, 0.0012, -0.0008, -0.011)
RATIONAL = (0.42, -0.21, 0.0006, -0.0004, 0.013, 0.75, -0.17, 0.02)
EQUIDISTANT = (0.03, -0.012, 0.004, -0.0015)
DISTORTIONS = {
    'plumb_bob of four': ('plumb_bob', PLUMB_BOB[:4]),
    'plumb_bob': ('plumb_bob', PLUMB_BOB),
    'rational_polynomial': ('rational_polynomial', RATIONAL),
    'rational_polynomial of 12': ('rational_polynomial', (*RATIONAL, 1e-3, 0.0, -1e-3, 0.0)),
    'rational_polynomial of 14': ('rational_polynomial', (*RATIONAL, *(0.0,) * 6)),
    'equidistant': ('equidistant', EQUIDISTANT),
}


def test_gray_is_made_once_for_an_image_whatever_else_is_known_of_it() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    frame = Frame(images[0], Intrinsics.from_hfov(1.0, 64, 48), 0, 'camera')
    placed = frame.placed(np.eye(4), 'odom')
    np.testing.assert_array_equal(placed.gray, cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY))
    assert frame.gray is placed.gray
    other = replace(frame, image=images[1])
    for _ in range(2):
        for either, image in ((other, images[1]), (frame, images[0])):
            np.testing.assert_array_equal(either.gray, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


@pytest.fixture(params=DISTORTIONS)
def model(request: pytest.FixtureRequest) -> CameraModel:
    name, coefficients = DISTORTIONS[request.param]
    return CameraModel(640, 480, K=K, D=coefficients, distortion_model=name)


def distorted_pixels(points: np.ndarray, model: CameraModel) -> np.ndarray:
    """[N, 3] points to [N, 2] pixels of the raw full image, by OpenCV's own projection."""
    matrix, zero = np.reshape(model.K, (3, 3)), np.zeros(3)
    if model.distortion_model == 'equidistant':
        pixels, _ = cv2.fisheye.projectPoints(
            points[:, None], zero, zero, matrix, np.array(model.D)
        )
    else:
        pixels, _ = cv2.projectPoints(points, zero, zero, matrix, np.array(model.D))
    return pixels.reshape(-1, 2)


def ramps(width: int, height: int) -> np.ndarray:
    """[H, W, 2] float32 image whose value is the pixel's own coordinate."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.dstack([x, y]).astype(np.float32)


def inner_points(intrinsics: Intrinsics, margin: int) -> np.ndarray:
    """Points at 2 m on the rays of pixel centres at least `margin` from the border."""
    points = unproject(np.full((intrinsics.height, intrinsics.width), 2.0), intrinsics)
    return points[margin:-margin:7, margin:-margin:7].reshape(-1, 3).astype(np.float64)


def source_pixels(rectifier: Rectifier, pixels: np.ndarray) -> np.ndarray:
    """Where in the raw image `rectify` takes the given integer pixels of its output from."""
    size = rectifier.intrinsics.width, rectifier.intrinsics.height
    u, v = np.rint(pixels).astype(int).T
    return rectifier.rectify(ramps(*size))[v, u]


def test_rectified_point_lies_where_the_intrinsics_say(model: CameraModel) -> None:
    rectifier = Rectifier(model, False, 0.0, (640, 480))
    points = inner_points(rectifier.intrinsics, 60)
    found = source_pixels(rectifier, project(points, rectifier.intrinsics))
    assert np.abs(found - distorted_pixels(points, model)).max() < 0.1  # px


@pytest.mark.parametrize('size', [(400, 300), (200, 100), (133, 300)])
def test_window_and_binning_see_the_same_rays(model: CameraModel, size: tuple[int, int]) -> None:
    bin_x, bin_y = 400 // size[0], 300 // size[1]
    windowed = replace(model, roi=(120, 90, 400, 300), binning_x=bin_x, binning_y=bin_y)
    rectifier = Rectifier(windowed, False, 0.0, size)
    points = inner_points(rectifier.intrinsics, 20)
    found = source_pixels(rectifier, project(points, rectifier.intrinsics))
    full = distorted_pixels(points, model)
    # Centre of a super-pixel: the mean of the pixels it merges.
    expected = (full - (120, 90) - ((bin_x - 1) / 2, (bin_y - 1) / 2)) / (bin_x, bin_y)
    assert np.abs(found - expected).max() < 0.1  # px


def test_straight_line_of_a_distorted_picture_becomes_straight() -> None:
    model = CameraModel(640, 480, K=K, D=PLUMB_BOB, distortion_model='plumb_bob')
    matrix, row = np.reshape(K, (3, 3)), 400.0
    pixels = ramps(640, 480).reshape(-1, 1, 2)
    ideal = cv2.undistortPoints(pixels, matrix, np.array(PLUMB_BOB), P=matrix)
    profile = np.exp(-(((ideal[:, 0, 1] - row) / 2) ** 2)).reshape(480, 640, 1)
    picture = np.rint(255 * np.tile(profile, 3)).astype(np.uint8)
    rectifier = Rectifier(model, False, 0.0, (640, 480))

    def bend(image: np.ndarray) -> np.ndarray:
        columns = image[:, 120:540, 0].astype(float)
        return (columns * np.arange(480)[:, None]).sum(0) / columns.sum(0)

    assert np.ptp(bend(picture)) > 3.0  # px
    assert np.abs(bend(rectifier.rectify(picture)) - row).max() < 0.1  # px


def test_raw_image_keeps_its_camera_matrix() -> None:
    model = CameraModel(640, 480, K=K, D=PLUMB_BOB, distortion_model='plumb_bob')
    assert Rectifier(model, False, 0.0, (640, 480)).intrinsics == Intrinsics(
        500, 510, 331, 236, 640, 480
    )


def test_rectified_image_takes_p_and_stays_untouched() -> None:
    p = (450.0, 0, 300, -60, 0, 460, 250, 0, 0, 0, 1, 0)
    model = CameraModel(
        640, 480, K=K, D=PLUMB_BOB, P=p, distortion_model='plumb_bob', roi=(100, 40, 320, 240)
    )
    rectifier = Rectifier(model, True, 0.0, (320, 240))
    assert rectifier.intrinsics == Intrinsics(450, 460, 200, 210, 320, 240)
    image = np.zeros((240, 320, 3), np.uint8)
    assert rectifier.rectify(image) is image


@pytest.mark.parametrize(
    ('name', 'coefficients'), [('', PLUMB_BOB), ('plumb_bob', (0.0,) * 5), ('plumb_bob', ())]
)
def test_without_distortion_nothing_is_copied(name: str, coefficients: tuple[float, ...]) -> None:
    model = CameraModel(640, 480, K=K, D=coefficients, distortion_model=name)
    rectifier = Rectifier(model, False, 0.0, (640, 480))
    image, depth = np.zeros((480, 640, 3), np.uint8), np.ones((480, 640), np.float32)
    assert rectifier.rectify(image) is image
    assert rectifier.rectify_depth(depth) is depth


def far_from(edge: np.ndarray, pixels: int) -> np.ndarray:
    """[H, W] bool: what has the same value all around."""
    kernel, mask = np.ones((2 * pixels + 1,) * 2, np.uint8), edge.astype(np.uint8)
    return cv2.dilate(mask, kernel) == cv2.erode(mask, kernel)


def test_pixels_without_a_ray_are_marked() -> None:
    pincushion = (0.2, 0.05, 0.001, 0.001, 0.0)  # reaches beyond the raw image in the corners
    model = CameraModel(640, 480, K=K, D=pincushion, distortion_model='plumb_bob')
    rectifier = Rectifier(model, False, 0.0, (640, 480))
    points = unproject(np.full((480, 640), 2.0), rectifier.intrinsics).astype(np.float64)
    u, v = distorted_pixels(points.reshape(-1, 3), model).T.reshape(2, 480, 640)
    outside = (u < 0) | (u > 639) | (v < 0) | (v > 479)
    assert 0.02 < outside.mean() < 0.5
    certain = far_from(outside, 3)
    assert rectifier.unseen is not None
    np.testing.assert_array_equal(rectifier.unseen[certain], outside[certain])
    assert rectifier.unseen[outside].all()  # nothing in doubt is seen
    black = rectifier.rectify(np.full((480, 640, 3), 255, np.uint8)) < 255
    assert rectifier.unseen[black.any(-1)].all()


def test_a_lens_that_leaves_no_black_pixels_marks_none() -> None:
    barrel = CameraModel(640, 480, K=K, D=PLUMB_BOB, distortion_model='plumb_bob')
    assert Rectifier(barrel, False, 0.0, (640, 480)).unseen is None
    assert Rectifier(CameraModel(640, 480, K=K), False, 0.0, (640, 480)).unseen is None


@pytest.mark.parametrize(
    ('name', 'coefficients', 'fold'),
    [
        ('plumb_bob', (-0.5, 0.0, 0.0, 0.0, 0.0), math.sqrt(2 / 3)),  # 1 - 1.5 r^2 = 0
        ('rational_polynomial', (0.0,) * 5 + (-1.0, 0.0, 0.0), 1.0),  # its pole: 1 - r^2 = 0
        ('equidistant', (-0.5, 0.0, 0.0, 0.0), math.tan(math.sqrt(2 / 3))),
    ],
)
def test_pixels_beyond_the_fold_of_a_polynomial_are_unseen(
    name: str, coefficients: tuple[float, ...], fold: float
) -> None:
    matrix = (250.0, 0.0, 320.0, 0.0, 250.0, 240.0, 0.0, 0.0, 1.0)
    model = CameraModel(640, 480, K=matrix, D=coefficients, distortion_model=name)
    rectifier = Rectifier(model, False, 0.0, (640, 480))
    v, u = np.mgrid[0:480, 0:640]
    radius = np.hypot(u - 320, v - 240) / 250
    assert rectifier.unseen is not None
    assert rectifier.unseen[radius > fold + 0.01].all()
    white = rectifier.rectify(np.full((480, 640, 3), 255, np.uint8))
    assert (white[radius > fold + 0.01] == 0).all()
    if name != 'rational_polynomial':  # near its pole rays leave the raw image
        assert not rectifier.unseen[radius < fold - 0.02].any()


@pytest.mark.parametrize('name', ['equidistant', 'fisheye'])
def test_five_coefficients_of_a_fisheye_whose_last_is_0_are_four(name: str) -> None:
    four = CameraModel(640, 480, K=K, D=EQUIDISTANT, distortion_model='equidistant')
    five = replace(four, D=(*EQUIDISTANT, 0.0), distortion_model=name)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    expected = Rectifier(four, False, 0.0, (640, 480)).rectify(image)
    np.testing.assert_array_equal(Rectifier(five, False, 0.0, (640, 480)).rectify(image), expected)


@pytest.mark.parametrize('turned', [0.0, 0.05])
@pytest.mark.parametrize('shrink', [1, 2])
def test_black_pixels_of_images_rectified_elsewhere_are_marked(
    model: CameraModel, turned: float, shrink: int
) -> None:
    """As image_proc makes them from a calibration that keeps all pixels (alpha 1)."""
    R, p = cv2.Rodrigues(np.array([0.0, turned, 0.0]))[0], np.reshape(K, (3, 3)) * 0.8
    p[:2, 2], p[2, 2] = (320, 240), 1.0
    P = np.hstack([p, np.zeros((3, 1))])
    model = replace(model, R=tuple(R.ravel()), P=tuple(P.ravel()), binning_x=shrink)
    model = replace(model, binning_y=shrink)
    size = (640 // shrink, 480 // shrink)
    found = Rectifier(model, True, 0.0, size).unseen
    rays = np.concatenate(
        [Rectifier(model, True, 0.0, size).intrinsics.rays(), np.ones((*size[::-1], 1))], -1
    )
    points = rays.reshape(-1, 3).astype(np.float64) @ R  # of the raw camera: R.T @ ray
    full = distorted_pixels(points, model)  # centre of a super-pixel: the mean of what it merges
    u, v = ((full - (shrink - 1) / 2) / shrink).T.reshape(2, *size[::-1])
    outside = (u < 0) | (u > size[0] - 1) | (v < 0) | (v > size[1] - 1)
    certain = far_from(outside, 4)
    assert found is not None
    assert 0.02 < outside.mean() < 0.6
    np.testing.assert_array_equal(found[certain], outside[certain])


@pytest.mark.parametrize(
    'changes',
    [
        {'distortion_model': ''},
        {'distortion_model': 'of somebody'},
        {'D': PLUMB_BOB[:3]},
        {'D': (math.nan,) * 5},
        {'R': (0.0,) * 9},
        {'K': (math.inf, *K[1:])},
        {'K': (2000.0, 0.0, 1280.0, 0.0, 2000.0, 960.0, 0.0, 0.0, 1.0)},  # of a larger image
    ],
)
def test_images_rectified_in_ways_unknown_are_taken_as_they_are(changes: dict) -> None:
    p = (380.0, 0, 320, 0, 0, 380, 240, 0, 0, 0, 1, 0)
    model = CameraModel(640, 480, K=K, D=PLUMB_BOB, P=p, distortion_model='plumb_bob')
    assert Rectifier(model, True, 0.0, (640, 480)).unseen is not None
    assert Rectifier(replace(model, **changes), True, 0.0, (640, 480)).unseen is None


def test_depth_takes_the_nearest_pixel_and_invents_none() -> None:
    barrel = (0.2, 0.05, 0.001, 0.001, 0.0)  # reaches beyond the raw image in the corners
    model = CameraModel(640, 480, K=K, D=barrel, distortion_model='plumb_bob')
    rectifier = Rectifier(model, False, 0.0, (640, 480))
    number = np.arange(1, 640 * 480 + 1, dtype=np.float32).reshape(480, 640)
    depth = rectifier.rectify_depth(number)
    assert set(np.unique(depth)) <= {0.0, *number.ravel()}
    assert depth[0, 0] == 0.0
    points = unproject(np.full((480, 640), 2.0), rectifier.intrinsics).astype(np.float64)
    true = distorted_pixels(points.reshape(-1, 3), model).reshape(480, 640, 2)
    index = depth.astype(int) - 1
    taken = np.stack([index % 640, index // 640], -1)
    assert np.abs(taken - true)[depth > 0].max() < 0.5 + 0.05  # px; maps count in 1/32


def test_uncalibrated_camera_is_refused_unless_its_view_is_given() -> None:
    model = CameraModel(640, 480)
    with pytest.raises(InputError, match=r'camera\.fallback_hfov') as caught:
        Rectifier(model, False, 0.0, (640, 480))
    assert caught.value.reason == 'uncalibrated'
    intrinsics = Rectifier(model, False, math.radians(60), (320, 240)).intrinsics
    assert intrinsics == Intrinsics.from_hfov(math.radians(60), 320, 240)


def test_rectified_stream_without_p_is_refused() -> None:
    with pytest.raises(InputError, match=r'P\[0\] is 0') as caught:
        Rectifier(CameraModel(640, 480, K=K), True, 0.0, (640, 480))
    assert caught.value.reason == 'uncalibrated'


@pytest.mark.parametrize('index', [0, 2, 4, 5])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_impossible_camera_matrix_is_refused(index: int, value: float) -> None:
    matrix = (*K[:index], value, *K[index + 1 :])
    with pytest.raises(InputError, match='impossible') as caught:
        Rectifier(CameraModel(640, 480, K=matrix), False, 1.0, (640, 480))
    assert caught.value.reason == 'bad_camera_info'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'K': (-500.0, *K[1:])}, 'impossible'),
        ({'K': (*K[:4], 0.0, *K[5:])}, 'impossible'),
        ({'D': (math.nan, 0, 0, 0, 0)}, 'impossible'),
        ({'D': (0.1, 0.2, 0.3)}, '4 or 5 or 8'),
        ({'distortion_model': 'equidistant'}, '4 coefficients'),
        ({'distortion_model': 'mystery'}, 'supported are plumb_bob'),
        ({'distortion_model': 'kannala_brandt4'}, "'kannala_brandt4'"),
        ({'distortion_model': 'omni'}, "'omni'"),
    ],
)
def test_unusable_camera_info_is_refused(changes: dict, message: str) -> None:
    model = CameraModel(640, 480, K=K, D=PLUMB_BOB, distortion_model='plumb_bob')
    with pytest.raises(InputError, match=message) as caught:
        Rectifier(replace(model, **changes), False, 0.0, (640, 480))
    assert caught.value.reason == 'bad_camera_info'


def test_matrix_of_wrong_length_is_refused() -> None:
    with pytest.raises(InputError, match='9, 9 and 12') as caught:
        CameraModel(640, 480, K=K[:8])
    assert caught.value.reason == 'bad_camera_info'


def test_image_of_another_size_is_refused() -> None:
    model = CameraModel(640, 480, K=K, roi=(0, 0, 320, 240), binning_x=2, binning_y=2)
    for size in ((640, 480), (160, 120)):  # the full image, and what the window leaves of it
        Rectifier(model, False, 0.0, size)
    for size in ((320, 240), (480, 640), (641, 480), (1, 1)):
        with pytest.raises(InputError, match='belongs to the image') as caught:
            Rectifier(model, False, 0.0, size)
        assert caught.value.reason == 'size_mismatch'
    with pytest.raises(InputError, match='320x240') as caught:
        Rectifier(model, False, 0.0, (640, 480)).rectify(np.zeros((240, 320, 3), np.uint8))
    assert caught.value.reason == 'size_mismatch'


def test_equal_cameras_share_one_set_of_maps() -> None:
    def model() -> CameraModel:
        return CameraModel(640, 480, K=K, D=PLUMB_BOB, distortion_model='plumb_bob')

    cached = lru_cache(maxsize=2)(Rectifier)
    assert cached(model(), False, 0.0, (640, 480)) is cached(model(), False, 0.0, (640, 480))


def test_resize_and_crop_keep_the_rays() -> None:
    intrinsics = Intrinsics(500, 510, 331, 236, 640, 480)
    point = np.array([0.21, -0.13, 1.7])
    u, v = project(point, intrinsics)
    assert project(point, intrinsics.cropped(100, 50, 300, 200)) == pytest.approx(
        (u - 100, v - 50)
    )
    assert project(point, intrinsics.resized(320, 120)) == pytest.approx(
        ((u + 0.5) / 2 - 0.5, (v + 0.5) / 4 - 0.5)
    )
    resized = cv2.resize(ramps(640, 480), (160, 120), interpolation=cv2.INTER_AREA)
    back = intrinsics.resized(160, 120).resized(640, 480)
    assert back.cx == pytest.approx(intrinsics.cx)
    corner = (intrinsics.resized(160, 120).cx - 10) * 4 + resized[0, 10, 0]
    assert corner == pytest.approx(intrinsics.cx, abs=1e-3)


def test_single_points_are_those_of_the_image() -> None:
    k = Intrinsics(50.0, 60.0, 30.0, 20.0, 81, 61)
    x, y = np.meshgrid(np.arange(81), np.arange(61))
    pixels = np.stack([x, y], -1)
    points = k.unprojected(pixels)
    np.testing.assert_allclose(points[..., :2], k.rays(), atol=1e-6)
    np.testing.assert_allclose(k.pixels(3 * points), pixels, atol=1e-9)
    thin = k.subsampled(3)
    np.testing.assert_array_equal(thin.rays().shape, k.rays()[::3, ::3].shape)
    np.testing.assert_allclose(thin.rays(), k.rays()[::3, ::3], atol=1e-6)


def test_projection_inverts_unprojection() -> None:
    intrinsics = Intrinsics(50, 51, 30.5, 22.25, 64, 48)
    depth = np.random.default_rng(0).uniform(0.5, 9, (48, 64))
    depth[3, 4], depth[5, 6] = 0, np.inf
    points = unproject(depth, intrinsics)
    assert np.isnan(points[3, 4]).all()
    assert np.isnan(points[5, 6]).all()
    error = project(points, intrinsics) - ramps(64, 48)
    assert np.nanmax(np.abs(error)) < 1e-4  # px
    assert np.isnan(project(np.array([0.1, 0.1, -1.0]), intrinsics)).all()


def test_field_of_view_round_trip() -> None:
    assert Intrinsics.from_hfov(1.2, 640, 480).hfov == pytest.approx(1.2)
    with pytest.raises(InputError, match='field of view'):
        Intrinsics.from_hfov(3.2, 640, 480)


def test_frame_refuses_what_does_not_belong_together() -> None:
    intrinsics = Intrinsics.from_hfov(1.0, 8, 6)
    image = np.zeros((6, 8, 3), np.uint8)
    with pytest.raises(InputError, match='uint8'):
        Frame(image.astype(np.float32), intrinsics, 0, 'camera')
    with pytest.raises(InputError, match='not registered'):
        Frame(image, intrinsics, 0, 'camera', depth=np.zeros((3, 4), np.float32))


# --- image files ------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def photo() -> np.ndarray:
    """[48, 80, 3] RGB with four plain fields, so that JPEG and CMYK keep the colours."""
    image = np.zeros((48, 80, 3), np.uint8)
    image[:24, :40], image[:24, 40:] = (210, 40, 30), (40, 180, 60)
    image[24:, :40], image[24:, 40:] = (50, 60, 200), (220, 210, 200)
    return image


def worst(a: np.ndarray, b: np.ndarray) -> int:
    """Largest difference at the centres of the fields."""
    at = np.ix_((12, 36), (20, 60))
    return int(np.abs(a[at].astype(int) - b[at]).max())


@pytest.mark.parametrize(
    ('mode', 'suffix', 'tolerance'),
    [
        ('RGB', '.png', 0),
        ('RGBA', '.png', 0),
        ('P', '.png', 0),
        ('P', '.gif', 0),
        ('RGB', '.jpg', 6),
        ('CMYK', '.jpg', 12),
        ('CMYK', '.tiff', 0),
        ('RGB', '.tiff', 0),
        ('RGBA', '.webp', 12),
    ],
)
def test_photograph_is_read_as_rgb(
    photo: np.ndarray, tmp_path: Path, mode: str, suffix: str, tolerance: int
) -> None:
    path = tmp_path / f'photo{suffix}'
    options = {'quality': 95} if suffix in {'.jpg', '.webp'} else {}
    adaptive = {'palette': Image.Palette.ADAPTIVE} if mode == 'P' else {}
    Image.fromarray(photo).convert(mode, **adaptive).save(path, **options)
    image, focal = read_image(path)
    assert image.dtype == np.uint8
    assert worst(image, photo) <= tolerance
    assert focal is None


@pytest.mark.parametrize(('mode', 'levels'), [('L', 256), ('LA', 256), ('1', 2)])
def test_grey_photograph_gets_three_channels(tmp_path: Path, mode: str, levels: int) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    if levels == 2:
        ramp = np.where(ramp < 128, 0, 255).astype(np.uint8)
    Image.fromarray(ramp).convert(mode).save(tmp_path / 'grey.png')
    image, _ = read_image(tmp_path / 'grey.png')
    np.testing.assert_array_equal(image, np.repeat(ramp[..., None], 3, -1))


def test_what_lies_below_alpha_is_seen(photo: np.ndarray, tmp_path: Path) -> None:
    clear = np.dstack([photo, np.zeros(photo.shape[:2], np.uint8)])
    Image.fromarray(clear).save(tmp_path / 'clear.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'clear.png')[0], photo)


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_16_bits_are_scaled_to_8(
    photo: np.ndarray, tmp_path: Path, channels: int, suffix: str
) -> None:
    path = tmp_path / f'deep{suffix}'
    deep = np.dstack([photo[..., ::-1], photo[..., :1]]).astype(np.uint16) * 257
    cv2.imwrite(str(path), deep[..., 0] if channels == 1 else deep[..., :channels])
    assert worst(read_image(path)[0], photo[..., 2:] if channels == 1 else photo) <= 1


def test_numbers_of_unknown_range_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'depth.tiff'), np.full((4, 4), 2.5, np.float32))
    with pytest.raises(InputError, match='unknown range'):
        read_image(tmp_path / 'depth.tiff')


def test_inverted_ycck_of_adobe_is_read_as_rgb(photo: np.ndarray, tmp_path: Path) -> None:
    ycc = np.array(Image.fromarray(255 - photo).convert('YCbCr'))
    planes = np.dstack([ycc, np.full(photo.shape[:2], 255, np.uint8)])
    path = tmp_path / 'print.jpg'
    Image.fromarray(255 - planes, 'CMYK').save(path, quality=95)  # Pillow inverts what it writes
    data = bytearray(path.read_bytes())
    data[data.index(b'Adobe') + 11] = 2  # the planes are YCCK, says the marker of Adobe
    path.write_bytes(data)
    assert worst(read_image(path)[0], photo) <= 12


@pytest.mark.parametrize('suffix', ['.gif', '.tiff', '.webp', '.png'])
def test_first_frame_of_several_counts(photo: np.ndarray, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f'film{suffix}'
    others = [Image.fromarray(255 - photo), Image.new('RGB', (80, 48))]
    options = {'lossless': True} if suffix == '.webp' else {}
    Image.fromarray(photo).save(path, save_all=True, append_images=others, **options)
    assert worst(read_image(path)[0], photo) <= 1


def exif(**tags: float | IFDRational) -> bytes:
    """EXIF with an orientation and focal lengths: on 35 mm film, and the true one."""
    data = Image.Exif()
    if 'orientation' in tags:
        data[0x0112] = tags['orientation']
    for name, tag in (('focal', 0xA405), ('true', 0x920A)):
        if name in tags:
            data.get_ifd(0x8769)[tag] = tags[name]
    return data.tobytes()


# How a camera stores an upright picture under each orientation of EXIF.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: np.rot90,
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tiff', '.webp'])
@pytest.mark.parametrize('orientation', STORED)
def test_exif_turns_the_photograph_upright(
    photo: np.ndarray, tmp_path: Path, orientation: int, suffix: str
) -> None:
    path = tmp_path / f'phone{suffix}'
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](photo)))
    stored.save(path, quality=95, exif=exif(orientation=orientation, focal=26))
    image, focal = read_image(path)
    assert image.shape == photo.shape
    assert worst(image, photo) <= 12
    # A 26 mm lens on 36 x 24 mm film sees 79.5 degrees along the diagonal.
    half_diagonal = math.atan(math.hypot(80, 48) / 2 / focal)
    assert math.degrees(2 * half_diagonal) == pytest.approx(79.5, abs=0.1)


@pytest.mark.parametrize('orientation', [0, 9, 65535])
def test_unknown_orientation_is_ignored(
    photo: np.ndarray, tmp_path: Path, orientation: int
) -> None:
    Image.fromarray(photo).save(tmp_path / 'a.png', exif=exif(orientation=orientation))
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png')[0], photo)


@pytest.mark.parametrize(
    ('tags', 'film_mm'),
    [
        ({'focal': 26, 'true': IFDRational(42, 10)}, 26),
        ({'focal': 0, 'true': IFDRational(42, 10)}, 4.2 * 8.4),
        ({'true': IFDRational(999, 100)}, 9.99 * 8.4),
        ({'true': IFDRational(10)}, 10),
        ({'true': IFDRational(50)}, 50),
        ({'focal': 0}, None),
        ({'true': IFDRational(0, 5)}, None),
        ({'true': IFDRational(0, 0)}, None),
        ({'true': IFDRational(7, 0)}, None),
        ({'focal': 0, 'true': IFDRational(0, 0)}, None),
        ({}, None),
    ],
)
def test_focal_length_follows_the_rule_of_sharp(
    tmp_path: Path, tags: dict[str, float], film_mm: float | None
) -> None:
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (360, 240)).save(path, exif=exif(**tags))
    # On a sensor of the shape of film, 36 mm across, a millimetre is 10 pixels.
    assert read_image(path)[1] == (film_mm and pytest.approx(10 * film_mm, rel=1e-5))


def test_assumed_focal_length_is_that_of_the_reference() -> None:
    with np.load(Path(__file__).parent / 'data' / 'golden_tiny.npz') as expected:
        focal = focal_from_35mm(DEFAULT_FOCAL_35MM, 640, 480)
        assert focal == pytest.approx(float(expected['pre.f_px_30mm_640x480']), rel=1e-9)
        factor = float(expected['pre.disparity_factor'].item())  # float32
        assert focal / 640 == pytest.approx(factor, rel=1e-7)


@pytest.mark.parametrize('suffix', ['.png', '.webp'])
def test_other_formats_carry_the_focal_length_too(
    photo: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f'photo{suffix}'
    Image.fromarray(photo).save(path, exif=exif(focal=26))
    assert read_image(path)[1] == pytest.approx(26 * math.hypot(80, 48) / math.hypot(36, 24))


def test_damaged_exif_does_not_hide_the_photograph(photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / 'photo.jpg'
    Image.fromarray(photo).save(path, quality=95, exif=b'Exif\0\0MM\0*\xff\xff\xff\xff\0\7')
    image, focal = read_image(path)
    assert worst(image, photo) <= 6
    assert focal is None


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.tiff', '.bmp', '.gif'])
@pytest.mark.parametrize('kept', [0, 1, 20, 0.5, 0.9, -30])
def test_truncated_file_is_refused(
    photo: np.ndarray, tmp_path: Path, suffix: str, kept: float
) -> None:
    path = tmp_path / f'photo{suffix}'
    noisy = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noisy).save(path, exif=exif(focal=26))
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(InputError, match='give a complete JPEG') as caught:
        read_image(path)
    assert caught.value.reason == 'unreadable_image'


def test_end_marker_of_a_thumbnail_does_not_hide_a_truncation(photo: np.ndarray) -> None:
    thumbnail = cv2.imencode('.jpg', photo)[1].tobytes()
    picture = cv2.imencode('.jpg', np.tile(photo, (4, 4, 1)))[1].tobytes()
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    whole = picture[:2] + segment + picture[2:]
    assert decode_image(whole).shape == (192, 320, 3)
    with pytest.raises(InputError, match='truncated'):
        decode_image(whole[:-40])


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('missing.png', 'No such file'),
        ('folder', 'Is a directory'),
        ('notes.jpg', 'unknown format'),
        ('empty.jpg', 'is empty'),
    ],
)
def test_what_is_no_photograph_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'notes.jpg').write_text('not a picture')
    (tmp_path / 'empty.jpg').touch()
    with pytest.raises(InputError, match=f'cannot read .*{name}: .*{message}.*; give a') as caught:
        read_image(tmp_path / name)
    assert caught.value.reason == 'unreadable_image'


def test_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: object) -> None:  # for root, permissions would not
        raise PermissionError(13, 'Permission denied', path)

    (tmp_path / 'a.jpg').touch()
    monkeypatch.setattr('builtins.open', refuse)
    with pytest.raises(InputError, match=r'a\.jpg: Permission denied; give'):
        read_image(tmp_path / 'a.jpg')


def test_photograph_larger_than_memory_is_refused(
    photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, '_rgb', fail)
    Image.fromarray(photo).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match=r'a\.png: not enough memory; shrink it'):
        read_image(tmp_path / 'a.png')


def png_header(width: int, height: int) -> bytes:
    """A PNG file of any size that ends before its pixels."""
    chunk = b'IHDR' + width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([8, 2, 0, 0, 0])
    crc = zlib.crc32(chunk).to_bytes(4, 'big')
    return b'\x89PNG\r\n\x1a\n' + (13).to_bytes(4, 'big') + chunk + crc + b'\0\0\0\4IDAT'


@pytest.mark.parametrize('size', [(200_001, 1000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bomb_is_refused_by_its_header(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    before = Image.MAX_IMAGE_PIXELS
    (tmp_path / 'huge.png').write_bytes(png_header(*size))
    with pytest.raises(InputError, match='more than 200 million pixels; shrink it') as caught:
        read_image(tmp_path / 'huge.png')
    assert caught.value.reason == 'unreadable_image'
    assert before == Image.MAX_IMAGE_PIXELS


def test_as_many_pixels_as_the_limit_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, 'MAX_IMAGE_PIXELS', 400)
    for width, fits in ((20, True), (21, False)):
        Image.new('RGB', (width, 20)).save(tmp_path / 'a.png')
        if fits:
            assert read_image(tmp_path / 'a.png')[0].shape == (20, 20, 3)
        else:
            with pytest.raises(InputError, match='pixels; shrink it'):
                read_image(tmp_path / 'a.png')


HEIC = b'\0\0\0\x1cftypheic'  # how such a file starts


def test_heic_without_its_package_says_which_one_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    (tmp_path / 'phone.jpg').write_bytes(HEIC + bytes(100))  # phones like to name them so
    with pytest.raises(InputError, match='pip install pillow-heif'):
        read_image(tmp_path / 'phone.jpg')


def test_heic_is_read_once_its_package_is_installed(
    photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register() -> None:
        def read(file: io.BufferedIOBase, name: str) -> Image.Image:
            return Image.open(io.BytesIO(file.read()[len(HEIC) :]))

        monkeypatch.setitem(Image.OPEN, 'HEIF', (read, lambda start: start.startswith(HEIC)))
        monkeypatch.setattr(Image, 'ID', ['HEIF', *Image.ID])

    package = SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, 'pillow_heif', package)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, 'PNG')
    (tmp_path / 'a.heic').write_bytes(HEIC + buffer.getvalue())
    np.testing.assert_array_equal(read_image(tmp_path / 'a.heic')[0], photo)
