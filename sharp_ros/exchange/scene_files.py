"""Scenes in the formats of other programs, one per suffix: what each holds, which way it is up."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
import gzip
import html
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sharp_ros.errors import ConfigError, InputError
from sharp_ros.exchange.clouds import write_las, write_pcd, write_xyz
from sharp_ros.exchange.gltf import write_glb
from sharp_ros.exchange.scene import Cloud, Mesh, Scene, Splats, Up, What
from sharp_ros.exchange.spz import write_spz
from sharp_ros.exchange.usdz import write_usdz
from sharp_ros.files import replacing
from sharp_ros.gaussians import photo_elements, plain_header
from sharp_ros.ply import write_ply

MOST_IN_HTML = 1_000_000  # Gaussians; browsers sort them while one looks around
_INVISIBLE = np.log(1 / 254)  # logit of 1/255, below which renderers draw nothing
_OPAQUE = np.log(254.2 / 0.8)  # logit of what 8 bits round to 254: 255 is read as infinite

Writer = Callable[[BinaryIO, Scene], int]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        wanted: what it can hold, the first of which is taken from a map.
        up: the axis that programs which open it take for up.
        write: writes a scene, whose content is one of those wanted; how many points,
            vertices or Gaussians that were.
    """

    wanted: tuple[What, ...]
    up: Up
    write: Writer


def _write_ply(file: BinaryIO, scene: Scene) -> int:
    comments, content = scene.all_comments(), scene.content
    if isinstance(content, Splats):
        file.write(plain_header(len(content), comments))
        file.write(content.rows.data)
        return len(content)
    write_ply(
        file,
        content.positions,
        content.colors,
        content.normals if isinstance(content, Cloud) else None,
        content.triangles if isinstance(content, Mesh) else None,
        comments=comments,
    )
    return len(content)


def _write_sharp_layout(file: BinaryIO, scene: Scene) -> int:
    rows = _splats(scene).rows
    more, tail = photo_elements(scene.photo, rows[:, 2])
    file.write(plain_header(len(rows), scene.comments, more))
    file.write(rows.data)
    file.write(tail)
    return len(rows)


def _visible(scene: Scene) -> Splats:
    """Those that formats of 8-bit opacity can show, none so opaque that it is read as infinite."""
    rows = _splats(scene).rows
    rows = rows[rows[:, 6] >= _INVISIBLE]
    if not len(rows):
        raise InputError(
            'the scene holds no Gaussians that can be seen: nothing to write', 'bad_ply'
        )
    rows[:, 6] = np.minimum(rows[:, 6], _OPAQUE)
    return Splats(rows)


def _splats(scene: Scene) -> Splats:
    assert isinstance(scene.content, Splats)
    return scene.content


def _by_gaussforge(name: str) -> Writer:
    def write(file: BinaryIO, scene: Scene) -> int:
        splats = _visible(scene)
        file.write(_converted(splats, name))
        return len(splats)

    return write


def _converted(splats: Splats, name: str) -> bytes:
    """The bytes of a file that gaussforge makes of them."""
    try:
        import gaussforge
    except ImportError as error:
        raise ConfigError(
            f'gaussforge, which writes .{name}, is missing: pip install gaussforge'
        ) from error
    plain = plain_header(len(splats)) + splats.rows.tobytes()
    made = gaussforge.GaussForge().convert(plain, 'ply', name)
    if 'error' in made:
        raise InputError(f'gaussforge cannot write .{name}: {made["error"]}', 'bad_ply')
    return made['data']


def _write_splat(file: BinaryIO, scene: Scene) -> int:
    """The largest and most opaque come first, since viewers show what has arrived so far."""
    splats = _visible(scene)
    size = splats.rows[:, 7:10].sum(1) + np.log(splats.opacities)
    splats = Splats(splats.rows[np.argsort(-size, kind='stable')])
    file.write(_converted(splats, 'splat'))
    return len(splats)


def _write_html(file: BinaryIO, scene: Scene) -> int:
    splats = _visible(scene)
    if len(splats) > MOST_IN_HTML:
        raise InputError(
            f'a page of {len(splats):,} Gaussians would be slow to look around in, at most '
            f'{MOST_IN_HTML:,} are written; give --most {MOST_IN_HTML}',
            'too_many',
        )
    packed = gzip.compress(_converted(splats, 'compressed.ply'), mtime=0)
    page = Path(__file__).with_name('viewer.html').read_text('utf-8')
    filled = {
        '{{title}}': f'{len(splats):,} Gaussians',
        '{{start}}': 'inside' if scene.from_camera else 'outside',
        '{{data}}': base64.b64encode(packed).decode(),
    }
    for word, text in filled.items():
        page = page.replace(word, html.escape(text), 1)
    file.write(page.encode())
    return len(splats)


def _write_spz(file: BinaryIO, scene: Scene) -> int:
    splats = _visible(scene)
    write_spz(file, splats)
    return len(splats)


def _of_points(write: Callable[[BinaryIO, Cloud], None]) -> Writer:
    def write_points(file: BinaryIO, scene: Scene) -> int:
        content = scene.content
        cloud = content if isinstance(content, Cloud) else content.cloud()
        if not len(cloud):
            raise InputError('no Gaussian of the scene is solid: no points to write', 'bad_ply')
        write(file, cloud)
        return len(cloud)

    return write_points


def _of_content(write: Callable[[BinaryIO, Any], None]) -> Writer:
    def write_content(file: BinaryIO, scene: Scene) -> int:
        content = _visible(scene) if isinstance(scene.content, Splats) else scene.content
        write(file, content)
        return len(content)

    return write_content


_GAUSSIANS: tuple[What, ...] = ('gaussians',)
_SURFACE: tuple[What, ...] = ('mesh', 'gaussians', 'cloud')
_POINTS: tuple[What, ...] = ('cloud', 'mesh', 'gaussians')
FORMATS: dict[str, Format] = {
    '.compressed.ply': Format(_GAUSSIANS, '-y', _by_gaussforge('compressed.ply')),
    '.ply': Format(('gaussians', 'mesh', 'cloud'), '-y', _write_ply),
    '.splat': Format(_GAUSSIANS, '-y', _write_splat),
    '.spz': Format(_GAUSSIANS, '-y', _write_spz),
    '.sog': Format(_GAUSSIANS, '-y', _by_gaussforge('sog')),
    '.ksplat': Format(_GAUSSIANS, '-y', _by_gaussforge('ksplat')),
    '.glb': Format(_SURFACE, 'y', _of_content(write_glb)),
    '.usdz': Format(_SURFACE, 'y', _of_content(write_usdz)),
    '.html': Format(_GAUSSIANS, 'y', _write_html),
    '.xyz': Format(_POINTS, 'z', _of_points(write_xyz)),
    '.las': Format(_POINTS, 'z', _of_points(write_las)),
    '.pcd': Format(_POINTS, 'z', _of_points(write_pcd)),
}


def suffix_of(path: Path) -> str:
    """The key of `FORMATS` that a name ends in, or ''."""
    return next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), '')


def format_of(path: Path) -> Format:
    """The format that a name stands for.

    Raises:
        ConfigError: if it stands for none.
    """
    suffix = suffix_of(path)
    if not suffix:
        raise ConfigError(f'{path} must end in one of {", ".join(FORMATS)}')
    return FORMATS[suffix]


def write_scene(
    path: Path, scene: Scene, up: Up | None = None, *, sharp_layout: bool = False
) -> str:
    """Write a scene as its suffix says; a file of that name is replaced by a whole one.

    Args:
        path: whose suffix is one of `FORMATS`.
        scene: whose content the format can hold.
        up: the axis to point up in the file; None for what is usual in the format.
        sharp_layout: whether a .ply of Gaussians gets SHARP's elements about the photo.

    Returns:
        A line about the file.

    Raises:
        ConfigError: if a library is missing, or the suffix does not fit.
        InputError: if the format cannot hold the scene.
        OSError: if the file cannot be written.
    """
    made = format_of(path)
    write, up = made.write, up or made.up
    if sharp_layout:
        if suffix_of(path) != '.ply' or not isinstance(scene.content, Splats):
            raise ConfigError("SHARP's layout is one of Gaussians in a .ply; choose such a name")
        write = _write_sharp_layout
    if write is _write_html and up != made.up:
        raise ConfigError('a page turns the scene itself; leave --up away')
    scene = scene.with_up(up)
    with replacing(path) as file:
        count = write(file, scene)
    if made.wanted[0] == 'cloud':
        kind = 'points'
    else:
        kind = {Splats: 'Gaussians', Cloud: 'points', Mesh: 'vertices'}[type(scene.content)]
    left = len(scene.content) - count
    out = f' ({left:,} too transparent for it left out)' if left else ''
    return f'{path}: {count:,} {kind}{out}, {up} up, {path.stat().st_size / 1e6:.1f} MB'
