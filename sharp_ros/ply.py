"""PLY files, the binary ones: points with colours and triangles, and whatever others put there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import mmap
import os
import re
from typing import BinaryIO

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.files import regular_file

PLY_TYPES = {
    **dict.fromkeys(('char', 'int8'), 'i1'),
    **dict.fromkeys(('uchar', 'uint8'), 'u1'),
    **dict.fromkeys(('short', 'int16'), 'i2'),
    **dict.fromkeys(('ushort', 'uint16'), 'u2'),
    **dict.fromkeys(('int', 'int32'), 'i4'),
    **dict.fromkeys(('uint', 'uint32'), 'u4'),
    **dict.fromkeys(('float', 'float32'), 'f4'),
    **dict.fromkeys(('double', 'float64'), 'f8'),
}
_HEADER = re.compile(rb'ply\r?\n(.*?)\nend_header\r?\n', re.DOTALL)
_HEADER_LIMIT = 1 << 16  # bytes; the header of a 3DGS file with all harmonics has 2 kB


@dataclass(frozen=True)
class PlyFile:
    """What a PLY file holds.

    Attributes:
        elements: structured arrays, mapped from the file, not read; those with lists, such as
            faces, and all behind them are missing.
        comments: lines of its header.
        has_faces: whether it holds a mesh.
    """

    elements: dict[str, np.ndarray]
    comments: tuple[str, ...]
    has_faces: bool


def read_ply(path: str | os.PathLike[str]) -> PlyFile:
    """Map a binary PLY file, of any kind, into memory.

    Raises:
        InputError: `bad_ply` if it cannot be read, is no such file or ends early.
    """

    def bad(what: str) -> InputError:
        return InputError(f'{path} is not a readable PLY file: {what}', 'bad_ply')

    try:
        with regular_file(path).open('rb') as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # a ValueError says that the file is empty
        raise bad(str(error)) from error
    header = _HEADER.match(data, 0, _HEADER_LIMIT)
    if header is None:
        raise bad(_what_it_is(data[:4]))
    lines = [line.split() for line in header[1].decode('ascii', 'replace').split('\n')]
    orders = {'binary_little_endian': '<', 'binary_big_endian': '>'}
    byte_order = next((line[1] for line in lines if line[:1] == ['format'] and line[1:]), 'none')
    if byte_order not in orders:
        raise bad(f'format {byte_order}; write it as binary_little_endian instead')

    layout: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in lines:
        if line[:1] == ['element']:
            if len(line) != 3 or not re.fullmatch(r'\d{1,20}', line[2]):
                raise bad(f'header line "{" ".join(line)}"')
            layout.append((line[1], int(line[2]), []))
        elif line[:1] == ['property']:
            if line[1:2] == ['list']:
                layout[-1:] = layout[-1:] and [(*layout[-1][:2], [])]
                break  # of unknown length: nothing behind it can be found, nor is it needed
            if len(line) != 3 or line[1] not in PLY_TYPES or not layout:
                raise bad(f'header line "{" ".join(line)}"')
            layout[-1][2].append((line[2], orders[byte_order] + PLY_TYPES[line[1]]))

    elements, offset = {}, header.end()
    for name, count, fields in layout:
        if len({field for field, _ in fields}) != len(fields):
            raise bad(f'element {name} names a property twice')
        dtype = np.dtype(fields)
        if offset + count * dtype.itemsize > len(data):
            raise bad(f'it ends within element {name}; it was not written completely')
        if fields:
            elements[name] = np.frombuffer(data, dtype, count, offset)
        offset += count * dtype.itemsize
    comments = tuple(' '.join(line[1:]) for line in lines if line[:1] == ['comment'])
    has_faces = any(name == 'face' and count for name, count, _ in layout)
    return PlyFile(elements, comments, has_faces)


def _what_it_is(begin: bytes) -> str:
    """Of a file that is no PLY file."""
    known = {b'PK': 'a ZIP archive, perhaps .sog', b'\x1f\x8b': 'compressed by gzip, perhaps .spz'}
    kinds = (kind for magic, kind in known.items() if begin.startswith(magic))
    return f'it is {kind}' if (kind := next(kinds, '')) else 'it has no PLY header'


def write_ply(
    file: BinaryIO,
    points: np.ndarray,
    colors: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    triangles: np.ndarray | None = None,
    comments: Sequence[str] = (),
) -> None:
    """Points [N, 3] in metres, RGB [N, 3] uint8, normals [N, 3]; triangles [F, 3] of points."""
    columns = [('x y z', 'float', '<f4', points)]
    if normals is not None:
        columns.append(('nx ny nz', 'float', '<f4', normals))
    if colors is not None:
        columns.append(('red green blue', 'uchar', 'u1', colors))
    header = ['ply', 'format binary_little_endian 1.0', *(f'comment {c}' for c in comments)]
    header.append(f'element vertex {len(points)}')
    header += [f'property {kind} {n}' for names, kind, _, _ in columns for n in names.split()]
    vertices = np.empty(len(points), [(names, dtype, 3) for names, _, dtype, _ in columns])
    for names, _, _, values in columns:
        vertices[names] = values
    faces = np.empty(0 if triangles is None else len(triangles), [('n', 'u1'), ('v', '<i4', 3)])
    if triangles is not None:
        header += [f'element face {len(faces)}', 'property list uchar int vertex_indices']
        faces['n'], faces['v'] = 3, triangles
    file.write('\n'.join([*header, 'end_header\n']).encode('ascii', 'replace'))
    file.writelines((vertices.tobytes(), faces.tobytes()))
