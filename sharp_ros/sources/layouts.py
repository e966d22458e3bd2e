"""Layouts in which folders with depth and poses come: TUM and its relatives, scanners, phones.

Each function looks whether a folder is of its layout and lists what it holds; `LAYOUTS` is the
table. What all layouts share, such as reading an image, is in `rgbd.py`. One module, since each
layout is a dozen lines over the same few helpers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.files import natural, regular_file
from sharp_ros.images import IMAGE_SUFFIXES
from sharp_ros.rectification import CameraModel
from sharp_ros.se3 import inverse, is_rotation
from sharp_ros.sources.colmap import model_folder, read_cameras, read_images
from sharp_ros.sources.lists import pose_of_words, read_list, read_poses, read_text
from sharp_ros.sources.rgbd import Listing
from sharp_ros.sources.stock import Part

_TUM_SCALE = 5000.0  # of depth images, per metre, where nothing says otherwise
_RATE_HZ = 30.0  # of layouts without stamps
_FROM_GRAPHICS = np.diag([1.0, -1.0, -1.0, 1.0])  # camera with y up and z backwards to optical
_Z_UP_FROM_Y_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
_COLMAP_DISTORTION = {
    0: '',
    1: 'plumb_bob',
    2: 'plumb_bob',
    4: 'plumb_bob',
    8: 'rational_polynomial',
}
_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


# --- TUM -----------------------------------------------------------------------------------------


def is_tum(path: Path) -> bool:
    """Whether a folder has one of the lists of TUM's benchmark."""
    names = ('rgb.txt', 'depth.txt', 'groundtruth.txt', 'camera.yaml')
    return path.is_dir() and any((path / name).is_file() for name in names)


def read_tum(path: Path) -> Listing:
    """rgb.txt, and where present depth.txt, groundtruth.txt, camera.yaml.

    Format: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats. `camera.yaml` adds
    width, height, fx, fy, cx, cy and depth_scale (PNG value per metre; 5000 without).

    Raises:
        InputError: `no_rgb_list`, `bad_tum_list`, `bad_camera_yaml`.
    """
    if not (path / 'rgb.txt').is_file():
        raise InputError(
            f'{path} looks like an RGB-D folder but has no rgb.txt; add it with lines '
            '"timestamp filename"',
            'no_rgb_list',
        )
    parts = {'image': Part('rgb.txt', 'image')}
    rgb = read_list(path / 'rgb.txt', 1, parts['image'])
    if not rgb.rows:
        raise InputError(f'{path / "rgb.txt"} lists no images; fill it', 'no_rgb_list')
    found = Listing('RGB-D folder in TUM layout', _files(path, rgb.rows), parts=parts)
    units = {'rgb.txt': rgb.unit}
    if (path / 'depth.txt').is_file():
        parts['depth'] = Part('depth.txt', 'depth')
        depth = read_list(path / 'depth.txt', 1, parts['depth'], rgb.stamps)
        found.depths = _files(path, depth.rows)
        units['depth.txt'] = depth.unit
    if (path / 'groundtruth.txt').is_file():
        parts['poses'] = Part('groundtruth.txt', 'poses')
        found.poses = read_poses(path / 'groundtruth.txt', parts['poses'], rgb.stamps)
        if parts['poses'].detail:
            found.notes.append(f'groundtruth.txt: {parts["poses"].detail}')
    for name, unit in units.items():
        if unit != 's':
            found.notes.append(f'the stamps of {name} are in {unit}')
    found.depth_scale = _TUM_SCALE
    if (path / 'camera.yaml').is_file():
        parts['calibration'] = Part('camera.yaml', 'calibration', 1)
        _read_camera_yaml(path / 'camera.yaml', found)
    return found


def _files(path: Path, rows: Iterable[tuple[int, list[str], int]]) -> list[tuple[int, Path]]:
    """A name may hold blanks; then all words behind the stamp are one."""
    return [
        (stamp, path / (words[0] if (path / words[0]).exists() else ' '.join(words)))
        for stamp, words, _ in rows
    ]


def _read_camera_yaml(path: Path, found: Listing) -> None:
    hint = 'expected numbers width, height, fx, fy, cx, cy and depth_scale'
    try:
        values = yaml.safe_load(read_text(path))
        width, height = (int(values[k]) for k in ('width', 'height'))
        fx, fy, cx, cy = (float(values[k]) for k in ('fx', 'fy', 'cx', 'cy'))
        if fy < 0:  # ICL-NUIM: y of its camera and of its world is up, so both are mirrored
            fy = -fy
            found.poses = [(stamp, _MIRROR @ pose @ _MIRROR) for stamp, pose in found.poses]
            found.notes.append('negative fy in camera.yaml: camera and world mirrored in y')
        found.cameras[None] = _pinhole(Intrinsics(fx, fy, cx, cy, width, height))
        if 'depth_scale' not in values and found.depths:
            found.notes.append(f'camera.yaml has no depth_scale; {_TUM_SCALE:.0f} taken, as TUM')
        scale = float(values.get('depth_scale', _TUM_SCALE))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f'{path} cannot be used ({error}); {hint}', 'bad_camera_yaml') from error
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f'{path}: depth_scale is {scale}; {hint}', 'bad_camera_yaml')
    found.depth_scale = scale


# --- frames numbered, a matrix for each ----------------------------------------------------------


def _is_seven_scenes(path: Path) -> bool:
    return next(path.glob('frame-*.color.*'), None) is not None


def _read_seven_scenes(path: Path) -> Listing:
    """https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/."""
    colours = sorted(path.glob('frame-*.color.*'), key=natural)
    stems = [file.name.partition('.')[0] for file in colours]
    found = _numbered('7-Scenes', colours, [path / f'{stem}.depth.png' for stem in stems])
    _add_matrices(found, [path / f'{stem}.pose.txt' for stem in stems])
    found.cameras[None] = _pinhole(Intrinsics(585.0, 585.0, 320.0, 240.0, 640, 480))
    found.notes.append(
        'nominal calibration of 7-Scenes (585 px); its depth is registered by that only roughly'
    )
    return found


def _is_scannet(path: Path) -> bool:
    return (path / 'color').is_dir() and (path / 'pose').is_dir()


def _read_scannet(path: Path) -> Listing:
    """As exported by ScanNet's SensReader: color/, depth/, pose/, intrinsic/."""
    colours = sorted(_images(path / 'color'), key=natural)
    found = _numbered(
        'ScanNet export', colours, [path / 'depth' / f'{c.stem}.png' for c in colours]
    )
    found.to_depth = True
    _add_matrices(found, [path / 'pose' / f'{colour.stem}.txt' for colour in colours])
    file = path / 'intrinsic' / 'intrinsic_color.txt'
    if file.is_file():
        with _calibrating(found, file):
            matrix = np.reshape([float(v) for v in read_text(file).split()], (-1, 4))
            found.cameras[None] = _from_matrix(matrix, _size(colours[0]))
    return found


def _is_replica(path: Path) -> bool:
    return (path / 'traj.txt').is_file() and (path / 'results').is_dir()


def _read_replica(path: Path) -> Listing:
    """Replica as rendered for iMAP and NICE-SLAM: results/frame*, results/depth*, traj.txt."""
    colours = sorted((path / 'results').glob('frame*'), key=natural)
    names = [colour.stem.removeprefix('frame') for colour in colours]
    found = _numbered('Replica', colours, [path / 'results' / f'depth{n}.png' for n in names])
    part = found.parts['poses'] = Part('traj.txt', 'poses')
    for number, line in enumerate(read_text(path / 'traj.txt').splitlines()[: len(colours)]):
        _add_pose(found, part, number, line.split(), f'traj.txt:{number + 1}')
    for file in (path / 'cam_params.json', path.parent / 'cam_params.json'):
        if file.is_file():
            with _calibrating(found, file):
                camera = _json(file)
                camera = camera.get('camera', camera)
                found.cameras[None] = _from_fields(camera, 'w', 'h')
                found.depth_scale = float(camera['scale'])
            break
    if not found.cameras:
        found.depth_scale = 6553.5
        found.notes.append('no usable cam_params.json: depth scale 6553.5 taken, as NICE-SLAM')
    return found


# --- transforms.json, phones ---------------------------------------------------------------------


def _is_nerfstudio(path: Path) -> bool:
    return (path / 'transforms.json').is_file()


def _read_nerfstudio(path: Path) -> Listing:
    """transforms.json of nerfstudio, instant-ngp and COLMAP converters.

    https://docs.nerf.studio/quickstart/data_conventions.html: cameras look along -z, pixels count
    from the corner of the image, depth is in millimetres, masks are 0 where nothing is to be used.
    """
    file = path / 'transforms.json'
    about = _json(file)
    listed = about.get('frames')
    named = [
        f for f in listed or [] if isinstance(f, dict) and isinstance(f.get('file_path'), str)
    ]
    frames = sorted(named, key=lambda f: natural(Path(f['file_path'])))
    files = [_image_file(path, frame['file_path']) for frame in frames]
    depths = [path / str(f['depth_file_path']) if 'depth_file_path' in f else None for f in frames]
    found = _numbered('transforms.json', files, depths, named=True)
    for _ in range(len(listed or []) - len(named)):
        found.parts['image'].skip('bad_line', 'transforms.json: a frame without file_path')
    part = found.parts['poses'] = Part('transforms.json', 'poses')
    for i, (frame, image) in enumerate(zip(frames, files, strict=True)):
        where = f'transforms.json: {frame["file_path"]}'
        _add_pose(found, part, i, frame.get('transform_matrix', []), where, camera=_FROM_GRAPHICS)
        if 'mask_path' in frame:
            found.masks[image] = path / str(frame['mask_path'])
        if image.is_file():
            with _calibrating(found, file):
                camera = _nerf_camera({**about, **frame}, _size(image))
                if camera is not None:
                    found.cameras[image] = camera
    found.z_up = True
    found.notes.append('the world of transforms.json has z up, but maybe another unit than metres')
    return found


def _nerf_camera(about: Mapping[str, Any], size: tuple[int, int]) -> CameraModel | None:
    width, height = int(about.get('w', size[0])), int(about.get('h', size[1]))
    fx = about.get('fl_x')
    if fx is None and 'camera_angle_x' in about:
        fx = width / 2 / math.tan(float(about['camera_angle_x']) / 2)
    if fx is None:
        return None
    fy = float(about.get('fl_y', fx))
    cx, cy = float(about.get('cx', width / 2)) - 0.5, float(about.get('cy', height / 2)) - 0.5
    pinhole = Intrinsics(float(fx), fy, cx, cy, width, height)
    k1, k2, k3, k4, p1, p2 = (float(about.get(k, 0)) for k in ('k1', 'k2', 'k3', 'k4', 'p1', 'p2'))
    if 'FISHEYE' in str(about.get('camera_model', '')):
        return _pinhole(pinhole, 'equidistant', (k1, k2, k3, k4))
    return _pinhole(pinhole, 'plumb_bob', (k1, k2, p1, p2, k3))


def _is_colmap(path: Path) -> bool:
    return model_folder(path) is not None


def _read_colmap(path: Path) -> Listing:
    """A sparse model of COLMAP beside images/; its world has any unit and direction."""
    model = model_folder(path)
    assert model is not None
    placed = sorted(read_images(model), key=lambda image: natural(Path(image.name)))
    files = [path / 'images' / image.name for image in placed]
    found = _numbered('COLMAP', files, ())
    part = found.parts['poses'] = Part('images', 'poses')
    for number, image in enumerate(placed):
        part.count += 1
        w, *vector = map(str, image.rotation)
        try:
            T_camera_world = pose_of_words([*map(str, image.translation), *vector, w])
        except (ValueError, InputError):
            part.skip('bad_pose', image.name)
            continue
        found.poses.append((_stamp(number), inverse(T_camera_world)))
    with _calibrating(found, model / 'cameras'):
        cameras = read_cameras(model)
        for image, file in zip(placed, files, strict=True):
            c = cameras.get(image.camera)
            if c is None:  # of a model without an equal here
                found.parts['calibration'].skip('bad_camera_info', f'camera {image.camera}')
                continue
            centre = (c.corner[0] - 0.5, c.corner[1] - 0.5)
            pinhole = Intrinsics(*c.focal, *centre, c.width, c.height)
            name = 'equidistant' if c.fisheye else _COLMAP_DISTORTION[len(c.distortion)]
            padded = c.distortion + (0.0,) * (4 - len(c.distortion))
            found.cameras[file] = _pinhole(pinhole, name, padded)
    found.notes.append('the world of COLMAP has a unit of its own, which need not be metres')
    return found


def _is_polycam(path: Path) -> bool:
    return (path / 'keyframes').is_dir()


def _read_polycam(path: Path) -> Listing:
    """Polycam's raw data: keyframes/ with (corrected_)images, (corrected_)cameras and depth."""
    folder = path / 'keyframes'
    kind = 'corrected_' if (folder / 'corrected_cameras').is_dir() else ''
    files = sorted(_images(folder / f'{kind}images'), key=natural)
    found = _numbered('Polycam', files, [folder / 'depth' / f'{f.stem}.png' for f in files])
    found.to_depth = True
    part = found.parts['poses'] = Part(f'keyframes/{kind}cameras', 'poses')
    for i, file in enumerate(files):
        where = folder / f'{kind}cameras' / f'{file.stem}.json'
        if not where.is_file():
            part.skip('missing_file', where.name)
            continue
        about: Any = {}
        with _calibrating(found, where):
            about = _json(where)
            found.cameras[file] = _from_fields(about, 'width', 'height')
        rows = [[about.get(f't_{r}{c}') for c in range(4)] for r in range(3)]
        _add_pose(found, part, i, rows, where.name, camera=_FROM_GRAPHICS, y_up=True)
    found.z_up = True
    return found


def _is_record3d(path: Path) -> bool:
    return (path / 'metadata.json').is_file() and (path / 'rgb').is_dir()


def _read_record3d(path: Path) -> Listing:
    """Record3D's export of RGB-D frames, `EXR_RGBD`: metadata.json, rgb/, depth/."""
    file = path / 'metadata.json'
    about = _json(file)
    files = sorted(_images(path / 'rgb'), key=natural)
    kinds = ('.png', '.tiff', '.exr')
    depths = [
        next((d for k in kinds if (d := path / 'depth' / f'{f.stem}{k}').is_file()), None)
        for f in files
    ]
    found = _numbered('Record3D', files, depths)
    found.to_depth = True
    part = found.parts['poses'] = Part('metadata.json', 'poses')
    for i, pose in enumerate((about.get('poses') or [])[: len(files)]):
        where, matrix = f'metadata.json: pose {i}', None
        with suppress(ValueError, TypeError, InputError):
            matrix = pose_of_words([*pose[4:7], *pose[:4]])
        _add_pose(found, part, i, matrix, where, camera=_FROM_GRAPHICS, y_up=True)
    if 'K' in about:
        with _calibrating(found, file):
            K = np.reshape(about['K'], (3, 3)).T  # written column by column
            found.cameras[None] = _from_matrix(K, (int(about['w']), int(about['h'])))
    found.z_up = True
    with suppress(TypeError, ValueError, ArithmeticError):  # else they stay numbered
        rate = float(about.get('fps', _RATE_HZ))
        stamps = about.get('frameTimestamps') or [i / rate for i in range(len(files))]
        _retime(found, [round(float(stamp) * 1e9) for stamp in stamps])
    return found


# --- EuRoC ---------------------------------------------------------------------------------------


def _is_euroc(path: Path) -> bool:
    return (_euroc(path) / 'cam0' / 'data.csv').is_file()


def _euroc(path: Path) -> Path:
    return path / 'mav0' if (path / 'mav0').is_dir() else path


def _read_euroc(path: Path) -> Listing:
    """https://projects.asl.ethz.ch/datasets/doku.php?id=kmavvisualinertialdatasets, cam0."""
    root = _euroc(path)
    parts = {'image': Part('cam0/data.csv', 'image')}
    rows = read_list(root / 'cam0' / 'data.csv', 1, parts['image'])
    found = Listing(
        'EuRoC', [(t, root / 'cam0' / 'data' / w[0]) for t, w, _ in rows.rows], parts=parts
    )
    T_body_camera = np.eye(4)
    sensor = root / 'cam0' / 'sensor.yaml'
    if sensor.is_file():
        with _calibrating(found, sensor):
            about = yaml.safe_load(read_text(sensor).replace('%YAML:1.0', ''))
            T_body_camera = _rigid(about['T_BS']['data'])
            (fx, fy, cx, cy), (width, height) = about['intrinsics'], about['resolution']
            k = Intrinsics(float(fx), float(fy), float(cx), float(cy), int(width), int(height))
            name = str(about.get('distortion_model', ''))
            model = {'radial-tangential': 'plumb_bob'}.get(name, name)
            distortion = tuple(map(float, about['distortion_coefficients']))
            found.cameras[None] = _pinhole(k, model, distortion)
    truth = root / 'state_groundtruth_estimate0' / 'data.csv'
    if truth.is_file():
        part = parts['poses'] = Part('state_groundtruth_estimate0/data.csv', 'poses')
        for stamp, words, number in read_list(truth, 7, part, rows.stamps).rows:
            x, y, z, qw, *vector = words[:7]
            try:
                T_world_body = pose_of_words([x, y, z, *vector, qw])
            except (ValueError, InputError):
                part.skip('bad_pose', f'line {number}')
                continue
            found.poses.append((stamp, T_world_body @ T_body_camera))
        found.z_up = True
    return found


# --- shared --------------------------------------------------------------------------------------


def _stamp(number: int) -> int:
    return round(number * 1e9 / _RATE_HZ)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]


def _numbered(
    what: str, images: list[Path], depths: Iterable[Path | None], *, named: bool = False
) -> Listing:
    """Images in their order, 30 a second, each with the depth image that belongs to it.

    Depth that is not there is missing if it was named, or if some of the others are there.
    """
    part = Part(f'{images[0].parent.name}/' if images else 'images', 'image', len(images))
    part.clock = 'order'
    found = Listing(what, [(_stamp(i), file) for i, file in enumerate(images)], stamped=False)
    part.timed([stamp for stamp, _ in found.images])
    found.parts['image'] = part
    listed = [(i, file) for i, file in enumerate(depths) if file is not None]
    found.depths = [(_stamp(i), file) for i, file in listed if file.is_file()]
    if found.depths or (named and listed):
        part = found.parts['depth'] = Part('depth', 'depth', len(found.depths), clock='order')
        part.timed([stamp for stamp, _ in found.depths])
        for _, file in listed:
            if not file.is_file():
                part.skip('missing_file', file.name)
    return found


def _retime(found: Listing, stamps: Sequence[int]) -> None:
    """Take recorded stamps in place of those by number, if there is a later one for each image."""
    if len(stamps) < len(found.images) or any(b <= a for a, b in pairwise(stamps)):
        return
    recorded = {_stamp(i): stamp for i, stamp in enumerate(stamps)}
    found.images = [(recorded[stamp], file) for stamp, file in found.images]
    found.depths = [(recorded[stamp], file) for stamp, file in found.depths]
    found.poses = [(recorded[stamp], pose) for stamp, pose in found.poses]
    for part, rows in (
        (found.parts['image'], found.images),
        (found.parts.get('depth'), found.depths),
    ):
        if part is not None:
            part.clock = 'list'
            part.timed([stamp for stamp, _ in rows])


@contextmanager
def _calibrating(found: Listing, file: Path) -> Iterator[None]:
    """Accounts for a calibration that the block reads from a file, or that is of no use."""
    part = found.parts.setdefault('calibration', Part(file.name, 'calibration'))
    part.count += 1
    try:
        yield
    except (
        *(KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError),
        *(OSError, yaml.YAMLError, InputError),
    ) as error:
        part.skip('bad_camera_info', f'{file.name}: {error}')


def _from_fields(about: Mapping[str, Any], width: str, height: str) -> CameraModel:
    fx, fy, cx, cy = (float(about[k]) for k in ('fx', 'fy', 'cx', 'cy'))
    return _pinhole(Intrinsics(fx, fy, cx, cy, int(about[width]), int(about[height])))


def _from_matrix(K: np.ndarray, size: tuple[int, int]) -> CameraModel:
    fx, fy, cx, cy = (float(K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return _pinhole(Intrinsics(fx, fy, cx, cy, *size))


def _rigid(numbers: Any) -> np.ndarray:  # -> [4, 4]
    """A transform of 12 or 16 numbers, row by row, flat or nested.

    Raises:
        ValueError, TypeError: if it is none.
    """
    values = np.array(numbers, np.float64).ravel()[:12]
    if not np.isfinite(values).all():
        raise ValueError('a number is not finite')
    matrix = np.eye(4)
    matrix[:3] = values.reshape(3, 4)
    matrix[:3, :3] /= np.cbrt(np.linalg.det(matrix[:3, :3])) or np.nan
    if not is_rotation(matrix[:3, :3]):
        raise ValueError('it does not turn')
    return matrix


def _add_matrices(found: Listing, files: Iterable[Path]) -> None:
    part = found.parts['poses'] = Part('pose files', 'poses')
    for number, file in enumerate(files):
        if not file.is_file():
            part.skip('missing_file', file.name)
            continue
        _add_pose(found, part, number, read_text(file).split(), file.name)


def _add_pose(
    found: Listing,
    part: Part,
    number: int,
    numbers: Any,
    where: str,
    camera: np.ndarray | None = None,
    y_up: bool = False,
) -> None:
    """Take the pose of image `number`: 12 or 16 numbers of a matrix, row by row."""
    part.count += 1
    try:
        matrix = _rigid(numbers)
    except (ValueError, TypeError):
        part.skip('bad_pose', where)
        return
    pose = matrix if camera is None else matrix @ camera
    found.poses.append((_stamp(number), _Z_UP_FROM_Y_UP @ pose if y_up else pose))


def _json(file: Path) -> Any:
    """The object that a file holds."""
    try:
        about = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f'{file} is no JSON: {error}', 'bad_json') from error
    if not isinstance(about, dict):
        raise InputError(f'{file} holds no object, but {type(about).__name__}', 'bad_json')
    return about


def _size(file: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(regular_file(file)) as image:
        return image.size


def _image_file(path: Path, name: str) -> Path:
    """As transforms.json names it, in old files without its suffix."""
    file = path / name
    known = [file.with_name(file.name + suffix) for suffix in IMAGE_SUFFIXES]
    return file if file.is_file() else next((f for f in known if f.is_file()), file)


def _pinhole(
    intrinsics: Intrinsics, model: str = '', distortion: tuple[float, ...] = ()
) -> CameraModel:
    return CameraModel(
        intrinsics.width,
        intrinsics.height,
        K=tuple(map(float, intrinsics.matrix.ravel())),
        D=distortion if any(distortion) else (),
        distortion_model=model if any(distortion) else '',
    )


LAYOUTS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Listing]], ...] = (
    ('TUM: rgb.txt, depth.txt, groundtruth.txt, camera.yaml', is_tum, read_tum),
    ('7-Scenes: frame-*.color.png', _is_seven_scenes, _read_seven_scenes),
    ('ScanNet export: color/, depth/, pose/', _is_scannet, _read_scannet),
    ('Replica: results/, traj.txt, cam_params.json', _is_replica, _read_replica),
    ('nerfstudio: transforms.json', _is_nerfstudio, _read_nerfstudio),
    ('COLMAP: images/, sparse/0', _is_colmap, _read_colmap),
    ('Polycam: keyframes/', _is_polycam, _read_polycam),
    ('Record3D: metadata.json, rgb/, depth/', _is_record3d, _read_record3d),
    ('EuRoC: mav0/cam0', _is_euroc, _read_euroc),
)


def layout_of(path: Path) -> Callable[[Path], Listing] | None:
    """What lists a folder of a known layout; None for others."""
    if not path.is_dir():
        return None
    return next((read for _, accepts, read in LAYOUTS if accepts(path)), None)
