from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
import math
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
import pytest

from sharp_ros.camera import (
    CameraModel,
    Frame,
    Intrinsics,
    Rectifier,
    decode_image,
    project,
    read_image,
    unproject,
)
from sharp_ros.errors import InputError

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
        ('RGB', '.jpg', 6),
        ('CMYK', '.jpg', 12),
        ('RGB', '.tiff', 0),
    ],
)
def test_photograph_is_read_as_rgb(
    photo: np.ndarray, tmp_path: Path, mode: str, suffix: str, tolerance: int
) -> None:
    path = tmp_path / f'photo{suffix}'
    Image.fromarray(photo).convert(mode).save(
        path, **({'quality': 95} if suffix == '.jpg' else {})
    )
    image, focal = read_image(path)
    assert image.dtype == np.uint8
    assert worst(image, photo) <= tolerance
    assert focal is None


@pytest.mark.parametrize('bits', [8, 16])
def test_grey_photograph_gets_three_channels(tmp_path: Path, bits: int) -> None:
    grey = np.linspace(0, 2**bits - 1, 48 * 80).reshape(48, 80).astype(f'u{bits // 8}')
    cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    image, _ = read_image(tmp_path / 'grey.png')
    assert image.shape == (48, 80, 3)
    assert np.abs(image - grey[..., None] / (257.0 if bits == 16 else 1.0)).max() <= 1


def test_colour_of_16_bits_is_scaled_to_8(photo: np.ndarray, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'deep.png'), photo[..., ::-1].astype(np.uint16) * 257)
    assert worst(read_image(tmp_path / 'deep.png')[0], photo) <= 1


def exif(**tags: int) -> bytes:
    """EXIF with an orientation and a focal length on 35 mm film."""
    data = Image.Exif()
    if 'orientation' in tags:
        data[0x0112] = tags['orientation']
    if 'focal' in tags:
        data.get_ifd(0x8769)[0xA405] = tags['focal']
    return data.tobytes()


def test_exif_turns_the_photograph_upright_and_gives_its_focal_length(
    photo: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / 'phone.jpg'
    sideways = np.ascontiguousarray(np.rot90(photo))  # orientation 6: turn clockwise to see
    Image.fromarray(sideways).save(path, quality=95, exif=exif(orientation=6, focal=26))
    image, focal = read_image(path)
    assert image.shape == photo.shape
    assert worst(image, photo) <= 6
    # A 26 mm lens on 36 x 24 mm film sees 79.5 degrees along the diagonal.
    half_diagonal = math.atan(math.hypot(80, 48) / 2 / focal)
    assert math.degrees(2 * half_diagonal) == pytest.approx(79.5, abs=0.1)


def test_unknown_focal_length_stays_unknown(photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / 'zero.jpg'
    Image.fromarray(photo).save(path, exif=exif(focal=0))
    assert read_image(path)[1] is None


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


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('kept', [0, 1, 20, 0.5, 0.9, -4])
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


def test_missing_file_and_other_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'notes.png').write_text('not a picture')
    for path in (tmp_path / 'missing.png', tmp_path, tmp_path / 'notes.png'):
        with pytest.raises(InputError, match='cannot read') as caught:
            read_image(path)
        assert caught.value.reason == 'unreadable_image'


def test_picture_too_large_for_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / 'huge.png'
    Image.new('1', (20_000, 6_000)).save(path)
    path.write_bytes(path.read_bytes()[:1000])  # the header suffices
    with pytest.raises(InputError, match='120 million pixels') as caught:
        read_image(path)
    assert caught.value.reason == 'unreadable_image'
