"""Finer detail of generated surfaces, what a version draws, and what a folder of shards holds."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path

import numpy as np
import pytest

from sharp_ros.errors import InputError
from sharp_ros.procedural.detail import detailed, grain_mips
from sharp_ros.procedural.raycast import cast, render
from sharp_ros.procedural.recipes import RECIPES
from sharp_ros.procedural.rooms import build_scene, claim, main, scene_views
from sharp_ros.procedural.scene import Detail, Scene, SceneBuilder, Sky
from sharp_ros.procedural.texture_kernels import albedo, DARKEST, ONE
from sharp_ros.procedural.textures import (
    COUNTS,
    LEVEL_OFFSET,
    LEVELS,
    LINEAR,
    make_textures,
    SIZE,
    Textures,
)

IMAGE = (64, 48)
SKY = Sky(np.ones(3), np.ones(3), 0, 0.5)


@pytest.fixture(scope='module')
def textures() -> Textures:
    return make_textures(dict.fromkeys(COUNTS, 1))


def a_table(textures: Textures, seed: int = 0) -> Scene:
    """A board at z = 0.7 and a few small boxes on it."""
    builder = SceneBuilder(np.random.default_rng(seed), textures)
    builder.box((1.2, 0.8, 0.7), (0, 0, 0), 0, builder.material('plain'))
    for x in (-0.3, 0.0, 0.3):
        builder.box((0.1, 0.1, 0.1), (x, 0, 0.7), 0.3, builder.material('plain'))
    return builder.finish(np.full(3, 0.5, np.float32))


# --- the kernel ----------------------------------------------------------------------------------


def looked_up(mips, texture, uv, blur, jitter):
    """Bytes [N, 3] of the texels at coordinates, of the level whose texels are 2^blur large."""
    level = np.clip(np.floor(blur), 0, LEVELS - 1).astype(int)
    side = (SIZE >> level)[:, None]
    texel = np.floor((uv - np.floor(uv)) * side + jitter).astype(int) % side
    return mips[texture, LEVEL_OFFSET[level] + texel[:, 1] * side[:, 0] + texel[:, 0]]


def test_colours_are_those_of_the_texels_times_the_finer_ones(textures):
    rng = np.random.default_rng(0)
    scene = detailed(a_table(textures), textures, rng)
    count, detail = 3000, scene.detail
    hit = rng.integers(0, len(scene.texture), count)
    barycentric = rng.dirichlet(np.ones(3), count)[:, 1:].astype(np.float32)
    footprint = np.exp(rng.uniform(*np.log((1e-4, 0.2)), count)).astype(np.float32)
    jitter = rng.uniform(-0.5, 0.5, (count, 2)).astype(np.float32)
    surfaces = (scene.uv, scene.texture, scene.tint, scene.texel)
    result = albedo(
        (hit, barycentric, footprint),
        jitter,
        surfaces,
        detail,
        textures.mips,
        (LEVEL_OFFSET, LINEAR),
    )
    first = 1 - barycentric.sum(1, keepdims=True)
    uv = (scene.uv[hit] * np.concatenate([first, barycentric], 1)[..., None]).sum(1)
    blur = np.log2(footprint / scene.texel[hit]) + 0.3
    base = LINEAR[looked_up(textures.mips, scene.texture[hit], uv, blur, jitter)]
    base = np.clip(base * scene.tint[hit], 0, 1.2)
    repeats, strength = detail.repeats[hit], detail.strength[hit]
    finer_blur = blur + np.log2(repeats)
    finer = looked_up(detail.mips, detail.texture[hit], uv * repeats[:, None], finer_blur, jitter)
    factor = np.maximum(1 + strength[:, None] * (finer / ONE - 1), DARKEST)
    factor[finer_blur >= LEVELS - 1] = 1
    differs = np.abs(result - np.minimum(base * factor, 1.2)).max(1) > 1e-4
    assert differs.mean() < 0.005, 'but for what rounding moves to the next texel'
    assert (np.abs(factor - 1).max(1) > 0.1).mean() > 0.3


# --- detail --------------------------------------------------------------------------------------


def test_grain_keeps_mean_colours_and_repeats_without_blotches():
    mips = grain_mips()
    sides = [SIZE >> level for level in range(LEVELS)]
    for level in (0, 5, LEVELS - 1):
        start = LEVEL_OFFSET[level]
        part = mips[:, start : start + sides[level] ** 2].astype(float) / ONE
        assert np.abs(part.mean((1, 2)) - 1).max() < 0.06
        spread = part.std((1, 2)).mean()
        assert spread > 0.15 if level == 0 else spread < 0.06


def test_detail_changes_colours_but_no_shape_and_no_mean(textures):
    scene = a_table(textures)
    finer = detailed(scene, textures, np.random.default_rng(3))
    assert finer.caster is scene.caster
    assert (finer.detail.strength >= 0).all()
    assert len(finer.detail.texture) == len(scene.texture)
    board = scene.part == 1
    np.testing.assert_allclose(finer.mean_albedo[board], scene.mean_albedo[board], rtol=1e-5)
    np.testing.assert_allclose(  # metres that a repeat of the texture takes
        finer.uv * finer.texel[:, None, None], scene.uv * scene.texel[:, None, None], rtol=1e-4
    )


def test_what_is_near_shows_grain_where_it_was_smooth(textures):
    scene = a_table(textures)
    finer = detailed(scene, textures, np.random.default_rng(3))
    smooth = finer.detail._replace(strength=np.zeros_like(finer.detail.strength))
    grained = finer.detail._replace(strength=np.ones_like(finer.detail.strength))
    pose = np.diag([1.0, -1, -1, 1])

    def steps(height: float, detail: Detail) -> float:
        """Of the log colour, from pixel to pixel of the board, from so far above it."""
        pose[:3, 3] = (0.2, 0.25, 0.7 + height)
        seen = replace(finer, detail=detail, sky=SKY)
        image = render(seen, textures, pose, 160.0, IMAGE, np.random.default_rng(0))
        assert image is not None
        assert np.median(image.depth) == pytest.approx(height, rel=1e-3)
        board = np.abs(image.depth - height) < 0.01
        change = np.abs(np.diff(np.log(np.maximum(image.colour, 1e-3)), axis=1)).mean(-1)
        return float(change[board[:, 1:] & board[:, :-1]].mean())

    near, far = (steps(height, grained) / steps(height, smooth) for height in (0.2, 2.0))
    assert near > 3
    assert near > 1.5 * far


# --- versions ------------------------------------------------------------------------------------


def test_version_4_is_nearer_narrower_and_steeper():
    recipe, rng = RECIPES[4], np.random.default_rng(0)
    focal = np.array([recipe.focal(256, rng) for _ in range(3000)])
    field = np.degrees(2 * np.arctan(128 / focal))
    assert 28 <= field.min() < 30
    assert 105 < field.max() <= 110
    middle = np.sqrt(focal.min() * focal.max())
    assert (focal < middle).mean() == pytest.approx(0.5, abs=0.03)
    pitch = np.degrees([recipe.pitch(1.0, rng) for _ in range(3000)])
    assert (pitch < -45).mean() == pytest.approx(0.15 + 0.85 * 0.05, abs=0.03)
    assert np.median(pitch) == pytest.approx(-15.6, abs=2)


def test_views_of_version_4_follow_their_seed_and_differ_from_version_3(textures):
    first, second = (scene_views(5, textures, 1, IMAGE, RECIPES[4]) for _ in range(2))
    assert len(first) == 2
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        assert np.isfinite(a.depth).all()
        assert (a.second_depth >= a.depth).all()
    assert not np.array_equal(first[0].rgb, scene_views(5, textures, 1, IMAGE)[0].rgb)


def test_a_scene_of_version_4_has_totes_to_look_into(textures):
    totes = [t for t in build_scene(5, textures, RECIPES[4])[0].targets if t.tote]
    assert totes
    assert not any(t.tote for t in build_scene(5, textures)[0].targets)
    scene = build_scene(5, textures, RECIPES[4])[0]
    for target in totes:  # open: what is above it sees its inside
        x, y, z = target.position
        down = cast(scene, np.array([[x, y, z + 0.25]]), np.array([[0.0, 0, -1]]))
        assert down['t_hit'][0] > 0.02


# --- folders of shards ---------------------------------------------------------------------------


def test_a_folder_holds_images_of_one_version_and_one_set_of_furniture(tmp_path: Path) -> None:
    claim(tmp_path, 4, None)
    claim(tmp_path, 4, None)
    assert json.loads((tmp_path / 'manifest.json').read_text())['version'] == 4
    for version, furniture in ((3, None), (4, tmp_path)):
        if furniture:
            (furniture / 'some.sh3f').touch()
        with pytest.raises(InputError, match='use another folder'):
            claim(tmp_path, version, furniture)


def test_shards_without_a_manifest_are_of_version_3(tmp_path: Path) -> None:
    (tmp_path / 'rooms_00000000.npz').touch()
    with pytest.raises(InputError, match="'version': 3"):
        claim(tmp_path, 4, None)
    claim(tmp_path, 3, None)


def test_a_damaged_manifest_is_no_manifest_of_these_images(tmp_path: Path) -> None:
    (tmp_path / 'manifest.json').write_text('{')
    with pytest.raises(InputError, match='cannot read'):
        claim(tmp_path, 4, None)


def test_the_command_refuses_a_folder_of_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim(tmp_path, 3, None)
    with pytest.raises(SystemExit):
        main(['--out', str(tmp_path), '--scenes', '1'])
    assert 'use another folder' in capsys.readouterr().err
