"""USDZ by Pixar's library: meshes, points, and Gaussians as ParticleField3DGaussianSplat."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np

from sharp_ros.errors import ConfigError
from sharp_ros.exchange.gltf import linear_from_srgb
from sharp_ros.exchange.scene import Cloud, Mesh, Splats

_PLACE = '/scene'
_POINT_WIDTH = 0.01  # metres


def write_usdz(file: BinaryIO, content: Splats | Cloud | Mesh) -> None:
    """Write a scene whose y axis points up.

    Raises:
        ConfigError: if usd-core is missing, or is older than Gaussians in USD.
    """
    pxr = _library()
    if isinstance(content, Splats) and not hasattr(pxr.UsdVol, 'ParticleField3DGaussianSplat'):
        raise ConfigError('this usd-core knows no Gaussians: pip install "usd-core>=26.3"')
    with TemporaryDirectory() as folder:
        layer = Path(folder, 'scene.usdc')
        stage = pxr.Usd.Stage.CreateNew(str(layer))
        pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
        pxr.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        prim = _define(pxr, stage, content)
        stage.SetDefaultPrim(prim)
        stage.GetRootLayer().Save()
        package = Path(folder, 'scene.usdz')
        if not pxr.UsdUtils.CreateNewUsdzPackage(str(layer), str(package)):
            raise OSError(f'usd-core could not write {package}')
        file.write(package.read_bytes())


def _define(pxr: Any, stage: Any, content: Splats | Cloud | Mesh) -> Any:
    UsdGeom, Vt = pxr.UsdGeom, pxr.Vt

    def vectors(values: np.ndarray) -> Any:
        return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(values, np.float32))

    positions = vectors(content.positions)
    if isinstance(content, Splats):
        field = pxr.UsdVol.ParticleField3DGaussianSplat.Define(stage, _PLACE)
        scales, srgb = content.scales, content.srgb
        field.CreatePositionsAttr(positions)
        field.CreateScalesAttr(vectors(scales))
        quats = content.quats[:, [1, 2, 3, 0]]  # Vt holds the real part last
        field.CreateOrientationsAttr(Vt.QuatfArray.FromNumpy(np.ascontiguousarray(quats)))
        field.CreateOpacitiesAttr(Vt.FloatArray.FromNumpy(content.opacities))
        field.CreateRadianceSphericalHarmonicsDegreeAttr(0)
        field.CreateRadianceSphericalHarmonicsCoefficientsAttr(vectors(content.rows[:, 3:6]))
        reach = 3 * scales.max(1, keepdims=True)
        low, high = (content.positions - reach).min(0), (content.positions + reach).max(0)
    else:
        srgb = None if content.colors is None else content.colors / np.float32(255)
        low, high = content.positions.min(0), content.positions.max(0)
        if isinstance(content, Mesh):
            field = UsdGeom.Mesh.Define(stage, _PLACE)
            field.CreateFaceVertexCountsAttr([3] * len(content.triangles))
            corners = np.ascontiguousarray(content.triangles.ravel(), np.int32)
            field.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(corners))
            field.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)  # else it would be smoothed
            field.CreateDoubleSidedAttr(True)
        else:
            field = UsdGeom.Points.Define(stage, _PLACE)
            field.CreateWidthsAttr([_POINT_WIDTH])
            field.SetWidthsInterpolation(UsdGeom.Tokens.constant)
        field.CreatePointsAttr(positions)
    field.CreateExtentAttr([pxr.Gf.Vec3f(*map(float, bound)) for bound in (low, high)])
    if srgb is not None:
        colors = UsdGeom.PrimvarsAPI(field.GetPrim()).CreatePrimvar(
            'displayColor', pxr.Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex
        )
        colors.Set(vectors(linear_from_srgb(srgb)))
    return field.GetPrim()


def _library() -> Any:
    """The modules of usd-core, which have no types."""
    try:
        import pxr
        import pxr.Gf
        import pxr.Sdf
        import pxr.Usd
        import pxr.UsdGeom
        import pxr.UsdUtils
        import pxr.UsdVol
        import pxr.Vt
    except ImportError as error:
        raise ConfigError(
            'usd-core, which writes .usdz, is missing: pip install usd-core'
        ) from error
    return pxr
