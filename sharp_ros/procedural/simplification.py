"""Meshes with fewer triangles that look alike, without holes of their pictures, turned outwards.

Lengths in metres, z up; a mesh stands on the floor above the origin.
"""

from __future__ import annotations

import math

import numpy as np
import open3d as o3d

from sharp_ros.procedural.textures import SIZE

FAR_TOO_MANY = 4  # times as many triangles: a model that cannot be simplified is left out
MAX_CHANGE = 0.07  # share of a simplified model's views that may look different
LEAF = 40  # triangles in a patch: meshes of smaller patches are thinned instead of simplified
VIEW = 40  # rays along a side of the views that models are judged by
HASH = np.array([3, 5, 7, 11, 13], np.int64) ** 17  # make one number of five
OPAQUE = 0.5  # share of light stopped from which a surface is solid
TOP_SHARE = 0.7  # of width and depth, over which a top must be flat and free

Mesh = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # vertices, faces, uv, material


def cut_out(mesh: Mesh, which: int, alpha: np.ndarray, budget: int) -> Mesh:
    """Remove the holes of a picture from the triangles of one material, cut finer for that."""
    vertices, faces, uv, material = mesh
    chosen = material == which
    corners, look = vertices[faces[chosen]], uv[chosen]

    def opacity(look: np.ndarray) -> np.ndarray:  # [F, 3, 2] -> [F]
        middle = look.mean(1)
        texel = np.floor((middle - np.floor(middle)) * SIZE).astype(int) % SIZE
        return alpha[SIZE - 1 - texel[:, 1], texel[:, 0]]

    while 0 < len(corners) <= budget // 2:
        corners, look = _quartered(corners), _quartered(look)
    solid = opacity(look) >= OPAQUE
    corners, look = corners[solid], look[solid]
    new = np.arange(3 * len(corners)).reshape(-1, 3) + len(vertices)
    return (
        np.concatenate([vertices, corners.reshape(-1, 3)]),
        np.concatenate([faces[~chosen], new]),
        np.concatenate([uv[~chosen], look]),
        np.concatenate([material[~chosen], np.full(len(new), which)]),
    )


def _quartered(corners: np.ndarray) -> np.ndarray:  # [F, 3, K] -> [4 F, 3, K]
    """Triangles split at the middles of their edges."""
    a, b, c = corners.transpose(1, 0, 2)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    parts = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    return np.concatenate([np.stack(part, 1) for part in parts])


def alike(mesh: Mesh, budget: int, size: np.ndarray) -> Mesh | None:
    """One with fewer triangles that looks alike from all sides; None if none does.

    Args:
        mesh: to be simplified.
        budget: number of triangles; up to `FAR_TOO_MANY` times as many if fewer will not do.
        size: [3] of the mesh.
    """
    before = _distances(mesh, size)[0]
    for factor in (1, FAR_TOO_MANY / 2, FAR_TOO_MANY):
        if len(mesh[1]) <= factor * budget:
            return mesh
        simple = simplified(mesh, round(factor * budget))
        if len(simple[1]) > FAR_TOO_MANY * budget:
            continue
        after = _distances(simple, size)[0]
        same = np.isclose(before, after, rtol=0, atol=0.03 * float(np.linalg.norm(size)))
        seen = np.isfinite(before) | np.isfinite(after)
        changed = (seen & ~same).sum(1) / np.maximum(seen.sum(1), 1)
        if changed.mean() < MAX_CHANGE and changed.max() < 3 * MAX_CHANGE:
            return simple
    return None


def simplified(mesh: Mesh, budget: int) -> Mesh:
    """About `budget` triangles (quadric error metrics, Garland and Heckbert 1997), per material.

    The seams of a texture are borders, which are kept; texture coordinates come from the nearest
    place on the original. Of leaves some are left out and the others are enlarged.
    """
    vertices, faces, uv, material = mesh
    pieces: list[Mesh] = []
    count = 0
    for which in np.unique(material):
        chosen = material == which
        target = max(12, math.ceil(budget * chosen.mean()))
        key = np.concatenate([vertices[faces[chosen]], uv[chosen]], 2).reshape(-1, 5)
        code = np.round(key * 1e5).astype(np.int64) @ HASH  # far faster than comparing rows
        _, first, index = np.unique(code, return_index=True, return_inverse=True)
        points, triangles, look = key[first, :3], index.reshape(-1, 3), uv[chosen]
        shape = o3d.geometry.TriangleMesh(
            o3d.utility.Vector3dVector(points), o3d.utility.Vector3iVector(triangles)
        )
        patch = np.asarray(shape.cluster_connected_triangles()[0])
        if len(triangles) > target and len(triangles) < LEAF * (patch.max() + 1):
            points, triangles, look = _thinned(points, triangles, look, patch, target)
        elif len(triangles) > target:
            shape.remove_degenerate_triangles()
            shape = shape.simplify_quadric_decimation(target, boundary_weight=3.0)
            shape.remove_degenerate_triangles()
            shape.remove_unreferenced_vertices()
            simple = np.asarray(shape.vertices), np.asarray(shape.triangles)
            if len(simple[1]):
                look = _nearest_uv(points, triangles, look, simple[0][simple[1]])
                points, triangles = simple
        pieces.append((points, triangles + count, look, np.full(len(triangles), which)))
        count += len(points)
    vertices, faces, uv, material = (np.concatenate(c) for c in zip(*pieces, strict=True))
    return vertices, faces, uv, material


def _thinned(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, patch: np.ndarray, budget: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every so many-th of the patches [F] that do not touch, enlarged to cover as much.

    Patches much larger than most, of a trunk and branches, all stay as they are.
    """
    number = np.arange(patch.max() + 1)
    low, high = np.full((len(number), 3), np.inf), np.full((len(number), 3), -np.inf)
    np.minimum.at(low, patch, vertices[faces].min(1))
    np.maximum.at(high, patch, vertices[faces].max(1))
    extent = np.linalg.norm(high - low, axis=1)
    large = (extent > 3 * np.median(extent))[patch]
    share = min(1.0, max(budget - large.sum(), budget / 2) / max((~large).sum(), 1))
    chosen = number[np.floor((number + 1) * share) > np.floor(number * share)]
    kept = large | np.isin(patch, chosen)
    corners, of = vertices[faces[kept]], patch[kept]
    total = np.zeros((len(number), 3))
    np.add.at(total, of, corners.mean(1))
    middle = (total / np.maximum(np.bincount(of, minlength=len(number)), 1)[:, None])[of, None]
    grown = np.where(large[kept], 1.0, min(share**-0.5, 1.8))[:, None, None]
    corners = middle + (corners - middle) * grown
    return corners.reshape(-1, 3), np.arange(3 * kept.sum()).reshape(-1, 3), uv[kept]


def _nearest_uv(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, corners: np.ndarray
) -> np.ndarray:  # -> [N, 3, 2]
    """Texture coordinates of a mesh at the corners [N, 3, 3] of other triangles near it."""
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(vertices.astype(np.float32)),
        o3d.core.Tensor.from_numpy(faces.astype(np.uint32)),
    )

    def look_up(points: np.ndarray) -> np.ndarray:
        query = o3d.core.Tensor.from_numpy(points.astype(np.float32).reshape(-1, 3))
        found = scene.compute_closest_points(query, nthreads=1)
        second, third = found['primitive_uvs'].numpy().T[..., None]
        a, b, c = uv[found['primitive_ids'].numpy().astype(int)].transpose(1, 0, 2)
        return a * (1 - second - third) + b * second + c * third

    # From a little inside, where the triangle next door on another patch is not the nearest.
    middle = corners.mean(1, keepdims=True)
    look = look_up(corners + 0.1 * (middle - corners)).reshape(-1, 3, 2)
    centre = look_up(middle).reshape(-1, 1, 2)
    astray = np.abs(look.mean(1, keepdims=True) - centre).max((1, 2)) > 0.1
    look[astray] = centre[astray]
    return look


def _distances(mesh: Mesh, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What rays from many sides meet, first those from above, over the footprint exactly.

    Returns:
        Distances [S, N], inf for nothing; face hit [S, N]; whether from its front [S, N].
    """
    vertices, faces = mesh[0].astype(np.float32), mesh[1].astype(np.uint32)
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(o3d.core.Tensor.from_numpy(vertices), o3d.core.Tensor.from_numpy(faces))
    grid = (np.arange(VIEW) + 0.5) / VIEW * 2 - 1
    u, v = (axis.ravel()[:, None] for axis in np.meshgrid(grid, grid))
    reach, middle = float(np.linalg.norm(size)) / 2, np.array([0, 0, size[2] / 2])
    above = np.concatenate([u * size[0] / 2, v * size[1] / 2, u * 0 + size[2] + 1], 1)
    rays = [np.concatenate([above, np.broadcast_to([0, 0, -1.0], above.shape)], 1)]
    angles = [(a, e) for e in (0.05, 0.8) for a in range(6)] + [(a, -0.5) for a in (0.5, 2.6, 4.7)]
    for azimuth, elevation in angles:
        away = np.array([math.cos(azimuth), math.sin(azimuth), elevation])
        away /= np.linalg.norm(away)
        right = np.cross([0, 0, 1], away)
        right /= np.linalg.norm(right)
        origins = middle + away * 2 * reach + reach * (u * right + v * np.cross(away, right))
        rays.append(np.concatenate([origins, np.broadcast_to(-away, origins.shape)], 1))
    bundle = np.stack(rays).astype(np.float32)
    hits = scene.cast_rays(o3d.core.Tensor.from_numpy(bundle), nthreads=1)
    towards = (hits['primitive_normals'].numpy() * bundle[..., 3:]).sum(-1) < 0
    return hits['t_hit'].numpy(), hits['primitive_ids'].numpy(), towards


def seen_from_outside(mesh: Mesh, size: np.ndarray) -> tuple[Mesh, float | None]:
    """Faces turned to where most rays see them from, and the height of a free flat top if any."""
    vertices, faces, uv, material = mesh
    distance, face, front = _distances(mesh, size)
    hit = np.isfinite(distance)
    votes = np.zeros(len(faces))
    np.add.at(votes, face[hit].astype(int), np.where(front[hit], 1, -1))
    wrong = (votes < 0)[:, None]
    faces = np.where(wrong, faces[:, ::-1], faces)
    uv = np.where(wrong[..., None], uv[:, ::-1], uv)
    heights = np.where(hit[0], size[2] + 1 - distance[0], 0).reshape(VIEW, VIEW)
    return (vertices, faces, uv, material), _free_top(heights)


def _free_top(heights: np.ndarray) -> float | None:
    """The height most of the middle of a map of heights has, if nearly all of it has it."""
    border = round(len(heights) * (1 - TOP_SHARE) / 2)
    inner = heights[border:-border, border:-border]
    level = float(np.median(inner))
    flat = np.abs(inner - level) < 0.006
    return float(inner[flat].max()) if level > 0.2 and flat.mean() > 0.98 else None
