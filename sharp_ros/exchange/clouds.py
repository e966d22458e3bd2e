"""Point clouds as files of surveying and robotics: text, PCD, LAS."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from sharp_ros.errors import ConfigError, InputError
from sharp_ros.exchange.scene import Cloud

LAS_STEP = 1e-4  # metres
_ROWS = 1 << 14  # points turned into text at a time


def write_xyz(file: BinaryIO, cloud: Cloud) -> None:
    """Lines of x y z in metres to 0.1 mm, and r g b in 0..255 where there are colours."""
    line = '%.4f %.4f %.4f'
    columns = cloud.positions
    if cloud.colors is not None:
        line += ' %d %d %d'
        columns = np.concatenate((columns, cloud.colors), 1)
    line += '\n'
    for start in range(0, len(columns), _ROWS):
        block = columns[start : start + _ROWS]
        file.write((line * len(block) % tuple(block.ravel().tolist())).encode('ascii'))


def write_pcd(file: BinaryIO, cloud: Cloud) -> None:
    """Binary PCD 0.7, with colours packed as PCL does, and normals."""
    fields = [(name, '<f4') for name in 'xyz']
    if cloud.colors is not None:
        fields.append(('rgb', '<u4'))
    if cloud.normals is not None:
        fields += [(name, '<f4') for name in ('normal_x', 'normal_y', 'normal_z')]
    points = np.empty(len(cloud), fields)
    for i, name in enumerate('xyz'):
        points[name] = cloud.positions[:, i]
        if cloud.normals is not None:
            points[f'normal_{name}'] = cloud.normals[:, i]
    if cloud.colors is not None:
        red, green, blue = cloud.colors.astype(np.uint32).T
        points['rgb'] = red << 16 | green << 8 | blue
    names, n = [name for name, _ in fields], len(cloud)
    # PCL reads the packed colour as a float, whose bits are the three bytes
    header = f"""# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS {' '.join(names)}
SIZE {' '.join('4' for _ in names)}
TYPE {' '.join('F' for _ in names)}
COUNT {' '.join('1' for _ in names)}
WIDTH {n}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {n}
DATA binary
"""
    file.write(header.encode('ascii'))
    file.write(points.data)


def write_las(file: BinaryIO, cloud: Cloud) -> None:
    """LAS 1.2, in steps of `LAS_STEP`, colours in 16 bits; no coordinate system is named.

    Raises:
        ConfigError: if laspy is missing.
        InputError: `out_of_range` if the cloud is larger than 32 bits of such steps hold.
    """
    try:
        import laspy
    except ImportError as error:
        raise ConfigError('laspy, which writes .las, is missing: pip install laspy') from error
    positions = cloud.positions.astype(np.float64)
    low, high = positions.min(0), positions.max(0)
    if (high - low).max() > LAS_STEP * (2**31 - 2):
        raise InputError(
            f'LAS in steps of {LAS_STEP * 1e3:g} mm holds 214 km, and the cloud spans '
            f'{(high - low).max() / 1e3:.0f} km; choose another format',
            'out_of_range',
        )
    header = laspy.LasHeader(point_format=0 if cloud.colors is None else 2, version='1.2')
    header.scales = np.full(3, LAS_STEP)
    header.offsets = np.floor(low)
    las = laspy.LasData(header)
    las.x, las.y, las.z = positions.T
    if cloud.colors is not None:
        las.red, las.green, las.blue = cloud.colors.T.astype(np.uint16) * 257
    las.write(file)
