"""Furniture from libraries: read at its true size, placed in rooms, and its makers named."""

from __future__ import annotations

from collections.abc import Mapping
import io
from pathlib import Path
import zipfile

import cv2
import numpy as np
import pytest

from sharp_ros.errors import InputError
from sharp_ros.procedural.cameras import Camera
from sharp_ros.procedural.layout import build_storey
from sharp_ros.procedural.meshes import attribution, load_models, Model, Models, with_models
from sharp_ros.procedural.raycast import render
from sharp_ros.procedural.rooms import build_scene, scene_views
from sharp_ros.procedural.scene import Piece, SceneBuilder, Sky
from sharp_ros.procedural.textures import COUNTS, make_textures, Textures

# A box from the corner (0, 0, 0) to (2, 4, 1) in the file's units; its second side along the
# file's y is the height, the face with z = 1 is the front and shows the picture.
BOX = """
mtllib box.mtl
v 0 0 0
v 2 0 0
v 2 4 0
v 0 4 0
v 0 0 1
v 2 0 1
v 2 4 1
v 0 4 1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl picture
f 5/1 6/2 7/3 8/4
usemtl plain
f 2 1 4 3
f 1 5 8 4
f 6 2 3 7
f 8 7 3 4
f 1 2 6 5
"""
MATERIALS = """
newmtl picture
Kd 0.5 0.5 0.5
map_Kd sides.png
newmtl plain
Kd 1 0.5 0
"""
GLASS = MATERIALS.replace('newmtl plain', 'newmtl plain\nd 0.2')
LYING = '1 0 0 0 0 -1 0 1 0'  # rows: takes the file's y to z and z to -y, which is down
COLOURS = {'left': (255, 0, 0), 'right': (0, 0, 255)}  # of the picture's halves, RGB


def picture() -> bytes:
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, :45], image[:, 45:] = COLOURS['left'], COLOURS['right']
    image[:10] = (0, 255, 0)  # at the top
    return bytes(cv2.imencode('.png', image[..., ::-1])[1])


def entry(number: int, model: str, **values: object) -> str:
    given = {
        'name': 'Table',
        'category': 'Living room',
        'model': f'/models/{model}',
        'width': 90.0,
        'depth': 60.0,
        'height': 75.0,
        'doorOrWindow': 'false',
        'creator': 'A. Author',
    } | values
    return ''.join(f'{key}#{number}={value}\n' for key, value in given.items())


def library(path: Path, catalogue: str, files: Mapping[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, 'w') as archive:
        header = 'name=Tiny library\nlicense=CC0 \\u00a9\nprovider=example.org\n'
        archive.writestr('PluginFurnitureCatalog.properties', header + catalogue)
        for name, data in files.items():
            archive.writestr(f'models/{name}', data)
    return path


FILES = {'box.obj': BOX, 'box.mtl': MATERIALS, 'sides.png': picture()}


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp('furniture')
    catalogue = ''.join(
        (
            entry(1, 'box.obj'),
            entry(2, 'box.obj', modelRotation=LYING, name='Chair', width=50, depth=40, height=90),
            entry(3, 'glass.obj'),
            entry(4, 'broken.obj'),
            entry(5, 'missing.obj'),
            entry(6, 'box.obj', name='Parking slot'),
            entry(7, 'box.obj', width='wide'),
            entry(8, 'box.obj', name='Cup', category='Kitchen', width=8, depth=8, height=10),
            entry(9, 'box.obj', name='Sofa', width=180, depth=80, creator='B. Author'),
            entry(10, 'box.obj', name='Upper cabinet', category='Kitchen', elevation=140),
            entry(11, 'box.obj', name='Male', category='Characters', height=180),
            entry(12, '../../../etc/passwd'),
            entry(13, 'box.obj', name='Lower cabinet', category='Kitchen', height=88),
            entry(14, 'box.obj', name='Sedan', category='Vehicles', width=180, depth=420),
            entry(15, 'box.obj', name='Pine', category='Exterior', width=200, height=400),
        )
    )
    files = FILES | {
        'glass.obj': BOX.replace('box.mtl', 'glass.mtl'),
        'glass.mtl': GLASS,
        'broken.obj': BOX.replace('v 2 4 1', 'v 2 nonsense'),
    }
    library(folder / 'tiny.sh3f', catalogue, files)
    (folder / 'torn.sh3f').write_bytes((folder / 'tiny.sh3f').read_bytes()[:300])
    return load_models(folder, cache=folder / 'cache')


@pytest.fixture(scope='module')
def own() -> Textures:
    return make_textures(dict.fromkeys(COUNTS, 1))


@pytest.fixture(scope='module')
def furnished(own: Textures, models: Models) -> Textures:
    return with_models(own, models)


def named(models: Models, name: str) -> Model:
    return next(model for model in models.models if model.name == name)


def front(model: Model) -> np.ndarray:
    """Centre of the triangles with the picture."""
    chosen = ~model.plain[model.material]
    return model.vertices[model.faces[chosen]].mean((0, 1))


def test_models_have_their_true_size_stand_on_the_floor_and_look_towards_the_viewer(
    models: Models,
) -> None:
    table = named(models, 'Table')
    low, high = table.vertices.min(0), table.vertices.max(0)
    np.testing.assert_allclose(low, [-0.45, -0.3, 0], atol=1e-3)
    np.testing.assert_allclose(high, [0.45, 0.3, 0.75], atol=1e-3)
    np.testing.assert_allclose(front(table)[1], -0.3, atol=1e-3)
    assert table.top == pytest.approx(0.75, abs=1e-3)


def test_the_rotation_of_the_catalogue_comes_before_the_size(models: Models) -> None:
    chair = named(models, 'Chair')
    np.testing.assert_allclose(np.ptp(chair.vertices, axis=0), [0.5, 0.4, 0.9], atol=1e-3)
    np.testing.assert_allclose(front(chair)[2], 0.0, atol=1e-3)  # the picture looks down


def test_faces_look_outwards_whichever_way_the_file_has_them(models: Models) -> None:
    for model in models.models:
        points = model.vertices[model.faces]
        normal = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
        outwards = points.mean(1) - [0, 0, model.size[2] / 2]
        assert ((normal * outwards).sum(1) > 0).all(), model.name


def test_what_is_of_no_use_or_broken_is_left_out_and_counted(models: Models) -> None:
    assert sorted(m.name for m in models.models) == sorted(
        [
            *('Table', 'Chair', 'Cup', 'Sofa', 'Upper cabinet', 'Male'),
            *('Lower cabinet', 'Sedan', 'Pine'),
        ]
    )
    assert models.skipped == {
        'glass': 1,
        'broken_model': 4,  # nonsense, two that are not there, no size
        'out_of_place': 1,
        'broken_library': 1,
    }


def test_roles_follow_from_category_name_and_size(models: Models) -> None:
    roles = {model.name: model.role for model in models.models}
    assert roles == {
        'Table': 'table',
        'Chair': 'chair',
        'Cup': 'small',
        'Sofa': 'sofa',
        'Upper cabinet': 'hung',
        'Male': 'person',
        'Lower cabinet': 'kitchen',
        'Sedan': 'car',
        'Pine': 'tree',
    }
    assert models.of_role('sofa', largest=(1.0, 1.0, 1.0)) == []
    assert models.of_role('hung', categories=('Bathroom',)) == []


def test_pictures_appear_the_right_way_round_and_colours_as_in_the_file(
    models: Models, furnished: Textures
) -> None:
    builder = SceneBuilder(np.random.default_rng(0), furnished)
    builder.rng = _Dull()
    builder.model(Piece(named(models, 'Table'), 1.0), (0, 2.3, 0), 0.0)
    white = np.ones(3)
    scene = builder.finish(np.ones(3, np.float32), Sky(white, white, 0, 0.0))
    camera = Camera(np.pi / 2, 0.0, 0.0, np.array([0, 0, 0.375]))  # 2 m before the front
    seen = render(scene, furnished, camera.pose(), 100.0, (64, 48), np.random.default_rng(0))
    assert seen is not None
    assert seen.depth[24, 32] == pytest.approx(2.0, abs=1e-3)
    left, right, top = (seen.colour[y, x] for y, x in ((30, 20), (30, 44), (7, 32)))
    assert [int(c.argmax()) for c in (left, right, top)] == [0, 2, 1]
    orange = named(models, 'Table').colour[-1]
    np.testing.assert_allclose(orange[:2], [1.0, 0.5**2.2], atol=1e-4)


class _Dull:
    """A generator without chance: no new paint and no change of colour."""

    def uniform(self, *limits: float, size: int | None = None) -> float | np.ndarray:
        return 1.0 if size is None else np.ones(size)

    def normal(self, mean: float, spread: float, size: int) -> np.ndarray:
        return np.zeros(size)


def test_polygons_that_are_not_convex_keep_their_area(tmp_path: Path) -> None:
    l_shape = [(0, 0), (4, 0), (4, 1), (1, 1), (1, 3), (0, 3)]  # area 6
    lines = [f'v {x} {y} {z}' for y in (0, 2) for x, z in l_shape]
    lines += ['f 1 2 3 4 5 6', 'f 12 11 10 9 8 7']
    lines += [f'f {i} {i % 6 + 1} {i % 6 + 7} {i + 6}' for i in range(1, 7)]
    size = {'width': 320, 'depth': 240, 'height': 50, 'name': 'Corner sofa'}
    path = library(tmp_path / 'l.sh3f', entry(1, 'l.obj', **size), {'l.obj': '\n'.join(lines)})
    model = load_models(path.parent, cache=tmp_path).models[0]
    points = model.vertices[model.faces]
    normal = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]) / 2
    assert np.abs(normal[:, 2]).sum() == pytest.approx(12 * 0.8**2, rel=1e-4)


def test_detail_goes_but_shape_and_picture_stay(tmp_path: Path) -> None:
    count = 120  # a wavy sheet of 28 800 triangles with a picture across
    x, y = (a.ravel() for a in np.meshgrid(*2 * [np.arange(count + 1) / count]))
    z = 0.05 * np.sin(6 * x) * np.sin(5 * y) + 1.0 - 1.0 * ((x < 0.01) & (y < 0.01))
    lines = ['mtllib box.mtl', 'usemtl picture']
    lines += [f'v {a:.5f} {c:.5f} {b:.5f}' for a, b, c in zip(x, y, z, strict=True)]
    lines += [f'vt {a:.5f} {b:.5f}' for a, b in zip(x, y, strict=True)]
    first = np.arange(count)[:, None] * (count + 1) + np.arange(count) + 1
    for i in first.ravel():
        a, b, c, d = i, i + 1, i + count + 2, i + count + 1
        lines.append(f'f {a}/{a} {b}/{b} {c}/{c} {d}/{d}')
    files = FILES | {'sheet.obj': '\n'.join(lines)}
    library(tmp_path / 's.sh3f', entry(1, 'sheet.obj', name='Sofa', width=200), files)
    model = load_models(tmp_path, cache=tmp_path).models[0]
    assert len(model.faces) < 4000
    points = model.vertices[model.faces]
    np.testing.assert_allclose(model.uv[..., 0], points[..., 0] / 2.0 + 0.5, atol=0.03)


def test_a_folder_without_use_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='fetch_furniture') as none:
        load_models(tmp_path, cache=tmp_path)
    assert none.value.reason == 'no_furniture'
    (tmp_path / 'torn.sh3f').write_bytes(b'PK not a zip')
    with pytest.raises(InputError, match='broken_library'):
        load_models(tmp_path, cache=tmp_path)


def test_what_was_read_once_comes_back_the_same_from_the_cache(tmp_path: Path) -> None:
    library(tmp_path / 'a.sh3f', entry(1, 'box.obj'), FILES)
    first = load_models(tmp_path, cache=tmp_path / 'cache')
    assert len(list((tmp_path / 'cache').glob('*.npz'))) == 1
    second = load_models(tmp_path, cache=tmp_path / 'cache')
    np.testing.assert_array_equal(first.mips, second.mips)
    for name in vars(first.models[0]):
        np.testing.assert_array_equal(
            getattr(first.models[0], name), getattr(second.models[0], name)
        )
    assert (second.libraries, second.skipped) == (first.libraries, first.skipped)


def test_without_models_nothing_is_picked_and_no_random_number_is_drawn(own: Textures) -> None:
    builder = SceneBuilder(np.random.default_rng(0), own)
    assert builder.pick('table', share=1.0) is None
    assert builder.rng.uniform() == np.random.default_rng(0).uniform()


def test_scenes_with_models_follow_the_seed(own: Textures, furnished: Textures) -> None:
    for seed in (3, 4):
        plain = build_scene(seed, own)[0]
        twice = [build_scene(seed, furnished)[0] for _ in range(2)]
        np.testing.assert_array_equal(twice[0].uv, twice[1].uv)
        np.testing.assert_array_equal(twice[0].tint, twice[1].tint)
        assert twice[0].texture.max() >= len(own.mips) > plain.texture.max()
    first, second = (scene_views(3, furnished, pairs=1, size=(64, 48)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.depth, b.depth)


def test_models_stay_in_their_rooms_under_the_ceiling_and_apart(
    furnished: Textures, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[tuple[str, np.ndarray]] = []
    model = SceneBuilder.model

    def note(self: SceneBuilder, piece: Piece, position: tuple, turn: float, part=None) -> None:
        c, s = np.cos(turn), np.sin(turn)
        x, y, z = (piece.model.vertices * piece.scale).T
        points = np.stack([c * x - s * y, s * x + c * y, z], -1) + position
        placed.append((piece.model.role, np.stack([points.min(0), points.max(0)])))
        model(self, piece, position, turn, part)

    monkeypatch.setattr(SceneBuilder, 'model', note)
    count = 0
    for seed in range(25):
        placed.clear()
        _, rooms = build_storey(np.random.default_rng(seed), furnished)
        boxes = [box for role, box in placed if role != 'small']
        count += len(boxes)
        for (x0, y0, z0), (x1, y1, z1) in boxes:
            assert z0 >= -1e-6
            assert z1 < rooms[0].height
            assert any(
                a - 0.011 <= x0 and b - 0.011 <= y0 and x1 <= c + 0.011 and y1 <= d + 0.011
                for a, b, c, d in (room.bounds for room in rooms)
            )
        for i, (low, high) in enumerate(boxes):
            for other_low, other_high in boxes[:i]:
                overlap = np.minimum(high, other_high) - np.maximum(low, other_low)
                assert overlap.min() < 1e-6, (seed, overlap)
    assert count > 60


def test_every_library_in_use_is_named_with_licence_source_and_authors(
    tmp_path: Path, models: Models
) -> None:
    text = attribution(models)
    row = '| Tiny library | CC0 \u00a9 | example.org | A. Author, B. Author |'
    assert row in text.splitlines()
    for i in range(3):
        path = library(tmp_path / f'{i}.sh3f', entry(1, 'box.obj', creator=f'Author {i}'), FILES)
        _rename(path, f'Library {i}')
    text = attribution(load_models(tmp_path, cache=tmp_path))
    for i in range(3):
        assert f'| Library {i} | CC0 \u00a9 | example.org | Author {i} |' in text.splitlines()


def _rename(path: Path, name: str) -> None:
    data = path.read_bytes()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w') as new:
        for item in old.namelist():
            new.writestr(item, old.read(item).replace(b'Tiny library', name.encode()))
    path.write_bytes(out.getvalue())
