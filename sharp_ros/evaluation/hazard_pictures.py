"""Pictures of hazards, for people: what is there, what a frame shows of it, what the map says."""

from __future__ import annotations

import cv2
import numpy as np

from sharp_ros.evaluation.hazard_worlds import Hazard, solid_columns
from sharp_ros.evaluation.hazards import CAMERA, HazardRun
from sharp_ros.mapping.occupancy import FREE, OCCUPIED
from sharp_ros.se3 import apply

_LOW, _HIGH = np.array([-2.2, -3.2]), np.array([6.7, 3.2])  # what is shown, metres
_SCALE = 3  # pixels of a cell
_PAPER, _WALL, _HAZARD, _HOLE, _CAMERA = (
    (255, 255, 255),
    (60, 60, 60),
    (235, 120, 20),
    (200, 60, 160),
    (25, 105, 230),
)
_UNKNOWN, _NIGHT = (190, 190, 190), (24, 24, 24)
_BOTTOM, _TOP = -0.5, 2.0  # metres, blue and red in the cloud
_EVERY = 3  # pixels from one point to the next


def draw_hazard(
    hazard: Hazard, run: HazardRun, band: tuple[float, float]
) -> np.ndarray:  # -> [H, W, 3] uint8 RGB
    """Truth, one frame's cloud and the grid from above, side by side; +x right, +y up.

    Truth: dark is solid in the `band` of heights, orange the hazard, purple where floor is
    missing. Cloud: by height, blue 0.5 m below the floor, red 2 m above. Grid: white free, black
    occupied. The blue dot is the camera.
    """
    side = run.grid.resolution
    columns, rows = np.rint((_HIGH - _LOW) / side).astype(int)
    x = _LOW[0] + (np.arange(columns) + 0.5) * side
    y = _LOW[1] + (np.arange(rows) + 0.5) * side

    truth = np.full((rows, columns, 3), _PAPER, np.uint8)
    truth[solid_columns(run.boxes, x, y, side, *band)] = _WALL
    truth[solid_columns(run.boxes[len(hazard.room) :], x, y, side, *band)] = _HAZARD
    if hazard.gap is not None:
        x0, y0, x1, y1 = hazard.gap
        truth[((y > y0) & (y < y1))[:, None] & (x > x0) & (x < x1)] = _HOLE

    points = _cloud(run.depth, run.T_world_camera)
    places = np.floor((points[:, :2] - _LOW) / side * _SCALE).astype(int)
    shown = ((places >= 0) & (places < (columns * _SCALE, rows * _SCALE))).all(1)
    order = np.argsort(points[shown, 2])  # what is above hides what is below
    places, heights = places[shown][order], points[shown, 2][order]
    shade = np.clip((heights - _BOTTOM) / (_TOP - _BOTTOM) * 255, 0, 255).astype(np.uint8)
    cloud = np.full((rows * _SCALE, columns * _SCALE, 3), _NIGHT, np.uint8)
    if len(shade):
        coloured = cv2.applyColorMap(shade[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
        cloud[places[:, 1], places[:, 0]] = coloured

    j, i = (
        np.floor((at - origin) / side).astype(int)
        for at, origin in zip((y, x), run.grid.origin[::-1], strict=True)
    )
    cells = run.grid.cells[np.ix_(j, i)]
    grid = np.full((rows, columns, 3), _UNKNOWN, np.uint8)
    grid[cells == FREE], grid[cells == OCCUPIED] = _PAPER, (0, 0, 0)

    eye = np.floor((run.T_world_camera[:2, 3] - _LOW) / side * _SCALE).astype(int)
    panels = []
    for panel in (truth, cloud, grid):
        large = cv2.resize(
            panel, (columns * _SCALE, rows * _SCALE), interpolation=cv2.INTER_NEAREST
        )
        cv2.circle(large, eye.tolist(), 2 * _SCALE, _CAMERA, -1, cv2.LINE_AA)
        panels += [large[::-1], np.full((rows * _SCALE, 2 * _SCALE, 3), _NIGHT, np.uint8)]
    return np.ascontiguousarray(np.hstack(panels[:-1]))


def _cloud(depth: np.ndarray, T_world_camera: np.ndarray) -> np.ndarray:  # -> [N, 3]
    """Points in the world of every third pixel of every third row, metres."""
    thin = depth[::_EVERY, ::_EVERY]
    known = np.isfinite(thin) & (thin > 0)
    rays = CAMERA.rays()[::_EVERY, ::_EVERY][known]
    points = np.concatenate([rays, np.ones((len(rays), 1))], 1) * thin[known, None]
    return apply(T_world_camera, points)
