"""Binary glTF (.glb): meshes and points with vertex colours, Gaussians as KHR_gaussian_splatting.

Own code, since no Python library writes that extension, and trimesh writes sRGB bytes where glTF
has linear colours. Sources: glTF 2.0, and the extension's page in github.com/KhronosGroup/glTF.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

import numpy as np

from sharp_ros import __version__
from sharp_ros.errors import InputError
from sharp_ros.exchange.scene import Cloud, Mesh, Splats

_TYPES = {'<f4': 5126, '<u4': 5125, '<u2': 5123}  # numbers of OpenGL
_ARRAY, _INDICES = 34962, 34963  # what a buffer is for, likewise
_POINTS, _TRIANGLES = 0, 4
_LARGEST = 2**32 - 1  # bytes, which the header counts in 32 bits
_SPLATS = 'KHR_gaussian_splatting'
_UNLIT = 'KHR_materials_unlit'


class _Buffer:
    """The one buffer of the file, and what says where everything lies in it."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []
        self.size = 0

    def add(self, values: np.ndarray, target: int = _ARRAY, **about: Any) -> int:
        """Append [N] or [N, K] of a multiple of four bytes a row; its number."""
        values = np.ascontiguousarray(values)
        view = {'buffer': 0, 'byteOffset': self.size, 'byteLength': values.nbytes}
        self.accessors.append(
            {
                'bufferView': len(self.views),
                'componentType': _TYPES[values.dtype.newbyteorder('<').str],
                'count': len(values),
                'type': 'SCALAR' if values.ndim == 1 else f'VEC{values.shape[1]}',
                **about,
            }
        )
        self.views.append(view | {'target': target})
        self.parts.append(values)
        self.size += values.nbytes
        return len(self.accessors) - 1


def write_glb(file: BinaryIO, content: Splats | Cloud | Mesh) -> None:
    """Write a scene whose y axis points up and z to the viewer."""
    buffer = _Buffer()
    positions = content.positions.astype('<f4')
    bounds = {'min': positions.min(0).tolist(), 'max': positions.max(0).tolist()}
    attributes = {'POSITION': buffer.add(positions, **bounds)}
    primitive: dict[str, Any] = {'attributes': attributes, 'mode': _POINTS}
    extensions: list[str] = []
    more: dict[str, Any] = {}
    if isinstance(content, Splats):
        extensions.append(_SPLATS)
        srgb = content.srgb
        # readers that do not know the extension show points of these colours
        alpha = content.opacities[:, None]
        attributes['COLOR_0'] = buffer.add(
            _normalized(linear_from_srgb(srgb), alpha), normalized=True
        )
        for name, values in {
            'ROTATION': content.quats[:, [1, 2, 3, 0]],
            'SCALE': content.scales,
            'OPACITY': content.opacities,
            'SH_DEGREE_0_COEF_0': content.rows[:, 3:6],
        }.items():
            attributes[f'{_SPLATS}:{name}'] = buffer.add(values.astype('<f4'))
        about = {'kernel': 'ellipse', 'colorSpace': 'srgb_rec709_display'}
        about |= {'projection': 'perspective', 'sortingMethod': 'cameraDistance'}
        primitive['extensions'] = {_SPLATS: about}
    else:
        extensions.append(_UNLIT)  # colours as photographed hold their light already
        rough = {'metallicFactor': 0, 'roughnessFactor': 1}
        material = {'pbrMetallicRoughness': rough, 'extensions': {_UNLIT: {}}}
        more['materials'] = [material | {'doubleSided': True}]
        primitive['material'] = 0
        if content.colors is not None:
            colors = _normalized(linear_from_srgb(content.colors / np.float32(255)))
            attributes['COLOR_0'] = buffer.add(colors, normalized=True)
        if isinstance(content, Mesh):
            primitive['mode'] = _TRIANGLES
            indices = content.triangles.reshape(-1).astype('<u4')
            primitive['indices'] = buffer.add(indices, _INDICES)
    _write(
        file,
        buffer,
        {
            'asset': {'version': '2.0', 'generator': f'sharp_ros {__version__}'},
            'extensionsUsed': extensions,
            'scene': 0,
            'scenes': [{'nodes': [0]}],
            'nodes': [{'mesh': 0}],
            'meshes': [{'primitives': [primitive]}],
            **more,
        },
    )


def _write(file: BinaryIO, buffer: _Buffer, tree: dict[str, Any]) -> None:
    """The two chunks of the container; all that lies in the buffer has sizes divisible by four.

    Raises:
        InputError: if they are larger than the container can be.
    """
    parts = {'buffers': [{'byteLength': buffer.size}], 'bufferViews': buffer.views}
    text = json.dumps(tree | parts | {'accessors': buffer.accessors}).encode()
    text += b' ' * (-len(text) % 4)
    if 28 + len(text) + buffer.size > _LARGEST:
        raise InputError(
            f'{buffer.size / 1e9:.1f} GB are more than the 4.3 GB of a .glb; export to another '
            'format, or part of it'
        )
    file.write(struct.pack('<4s2I', b'glTF', 2, 28 + len(text) + buffer.size))
    file.write(struct.pack('<I4s', len(text), b'JSON') + text)
    file.write(struct.pack('<I4s', buffer.size, b'BIN\0'))
    file.writelines(part.data for part in buffer.parts)


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """Of sRGB in 0..1, IEC 61966-2-1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _normalized(rgb: np.ndarray, alpha: np.ndarray | float = 1.0) -> np.ndarray:  # -> [N, 4]
    """As 16 bits, of which linear colours need more than 8."""
    rgba = np.empty((len(rgb), 4), '<u2')
    rgba[:, :3], rgba[:, 3:] = rgb * 65535 + 0.5, np.multiply(alpha, 65535) + 0.5
    return rgba
