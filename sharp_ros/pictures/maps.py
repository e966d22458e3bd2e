"""Pictures of a map, for people: grid with path, surface, path against the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import math

import cv2
import numpy as np

from sharp_ros.mapping.occupancy import FREE, OccupancyGrid2D, OCCUPIED, UNKNOWN

Colour = tuple[int, int, int]

_CELLS = {UNKNOWN: (205, 205, 205), FREE: (255, 255, 255), OCCUPIED: (0, 0, 0)}  # as in RViz
_PATH, _TRUTH, _START, _END = (25, 105, 230), (240, 150, 30), (20, 160, 60), (215, 40, 40)
_LOOK = (130, 180, 250)
_PAPER, _INK, _FAINT, _NIGHT = (255, 255, 255), (45, 45, 45), (225, 225, 225), (24, 24, 24)
_MAP_SIDE = 1000  # pixels, about, of the longer side of a grid
_LOOKS, _LOOK_PX = 15, 34  # strokes along the path, towards where the camera looks
_FOOTER = 52  # pixels below it
_MARGIN = 0.3  # metres around what is known
_GAP = 5.0  # times the usual step between poses; the path in between is not known
_SURFACE_SIZE = (960, 720)  # width, height
_SUPERSAMPLING = 2.0
_POINT_PX = 5.0  # at most, of a point as it is drawn
_ELEVATION = math.radians(42)  # of the viewpoint of the oblique view
_CEILING = 2.2  # metres over the lowest points; what is higher hides the room
_OVER_CAMERA = 0.3  # metres; but the camera's own surroundings are never cut off
_SHADE = 0.35  # of the light that a surface seen edgewise lacks


@dataclass(frozen=True)
class Trajectory:
    """Where the camera has been, in the world frame of the map (z up).

    Attributes:
        stamps_ns: [N] int64, rising.
        path: [N, 4, 4] `T_world_camera`.
        truth: [N, 3] true positions, moved as a whole to where they fit best; NaN where unknown.
    """

    stamps_ns: np.ndarray
    path: np.ndarray
    truth: np.ndarray | None = None

    @property
    def positions(self) -> np.ndarray:
        """[N, 3] metres."""
        return self.path[:, :3, 3]

    def pieces(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        """Stretches of these positions [N, ...] that were seen without a gap."""
        steps = np.diff(self.stamps_ns)
        breaks = np.flatnonzero(steps > _GAP * np.median(steps)) + 1 if len(steps) else []
        for piece in np.split(positions, breaks):
            known = piece[np.isfinite(piece).all(-1)]
            if len(known):
                yield known


def draw_map(
    grid: OccupancyGrid2D, trajectory: Trajectory
) -> np.ndarray:  # -> [H, W, 3] uint8 RGB
    """The known part of a grid with the camera's path, a scale bar and a legend; +y is up."""
    cells, resolution = grid.cells, grid.resolution
    places = (
        trajectory.positions[:, :2] - grid.origin
    ) / resolution  # in cells, from the outer corner
    corners = [places[:, ::-1], np.argwhere(cells != UNKNOWN), np.argwhere(cells != UNKNOWN) + 1]
    around = np.concatenate(corners)
    margin = _MARGIN / resolution
    low = np.floor(around.min(0) - margin).astype(int)
    high = np.ceil(around.max(0) + margin).astype(int)
    # the path may have left the window that the grid shows
    shown = np.full(high - low, UNKNOWN, np.int8)
    first, last = np.maximum(low, 0), np.minimum(high, cells.shape)
    inside = tuple(slice(*ends) for ends in zip(first - low, last - low, strict=True))
    shown[inside] = cells[first[0] : last[0], first[1] : last[1]]
    scale = max(1, _MAP_SIDE // max(shown.shape))
    picture = np.empty((*shown.shape, 3), np.uint8)
    for value, colour in _CELLS.items():
        picture[shown == value] = colour
    picture = picture[::-1].repeat(scale, 0).repeat(scale, 1)
    height = len(picture)

    def to_px(xy: np.ndarray) -> np.ndarray:
        at = ((xy[:, :2] - grid.origin) / resolution - low[::-1]) * scale
        return np.stack([at[:, 0], height - at[:, 1]], -1)

    looks = trajectory.path[np.linspace(0, len(trajectory.path) - 1, _LOOKS).astype(int)]
    reach = _LOOK_PX / scale * resolution
    for eye, ahead in zip(looks[:, :2, 3], looks[:, :2, 2], strict=True):
        _line(picture, to_px(np.stack([eye, eye + reach * ahead])), _LOOK, 2)
    for piece in trajectory.pieces(trajectory.positions):
        _line(picture, to_px(piece), _PATH, 3)
    ends = to_px(trajectory.positions[[0, -1]])
    _start_and_end(picture, ends, 9)
    return _with_footer(picture, scale / resolution)


def draw_surface(
    points: np.ndarray,
    colours: np.ndarray,
    normals: np.ndarray,
    spacing: float,
    trajectory: Trajectory,
    *,
    oblique: bool,
) -> np.ndarray:  # -> [H, W, 3] uint8 RGB
    """A coloured surface without its ceiling, from above or from the side that shows most of it.

    The projection is parallel. Surfaces seen from behind are left out, so that no wall hides the
    room.

    Args:
        points: [N, 3] in the world frame (z up), metres.
        colours: [N, 3] uint8 RGB.
        normals: [N, 3] unit, towards where they were seen from.
        spacing: of the points, metres.
        trajectory: of the camera, drawn over it.
        oblique: from the side rather than from above, where +y is up in the picture.
    """
    if len(points):
        floor = np.percentile(points[:, 2], 1)
        cut = max(floor + _CEILING, trajectory.positions[:, 2].max() + _OVER_CAMERA)
        low = points[:, 2] <= cut
        points, colours, normals = points[low], colours[low], normals[low]
    view = _oblique_view(normals) if oblique else np.eye(3)
    facing = normals @ view[2]
    seen = facing > 0
    places = points[seen] @ view.T  # right, up, towards the eye
    shown = [(trajectory.positions @ view.T)[:, :2]]
    if len(places):
        shown.append(np.percentile(places[:, :2], [0.5, 99.5], axis=0))  # stray points may go
    low, high = np.concatenate(shown).min(0), np.concatenate(shown).max(0)
    size, middle = np.array(_SURFACE_SIZE), (low + high) / 2
    scale = 0.9 * float(np.min(size / np.maximum(high - low, 0.1)))

    def to_px(right_up: np.ndarray) -> np.ndarray:
        return size / 2 + (right_up[:, :2] - middle) * scale * (1, -1)

    # finer than the picture, unless that would leave points as large as tiles
    finer = min(_SUPERSAMPLING, _POINT_PX / (scale * spacing))
    width, height = np.maximum(np.rint(finer * size), 1).astype(int)
    fine = np.full((height, width, 3), _NIGHT, np.uint8)
    shade = 1 - _SHADE * (1 - facing[seen, None])
    order = np.argsort(places[:, 2])  # painter's algorithm: what is nearest is drawn last
    at = np.floor(finer * to_px(places[order])).astype(int)
    shaded = (colours[seen] * shade)[order].astype(np.uint8)
    _splat(fine, at, shaded, finer * scale * spacing)
    how = cv2.INTER_AREA if finer > 1 else cv2.INTER_LINEAR
    picture = cv2.resize(fine, _SURFACE_SIZE, interpolation=how)
    for piece in trajectory.pieces(trajectory.positions):
        _line(picture, to_px(piece @ view.T), _PATH, 2)
    _start_and_end(picture, to_px(trajectory.positions[[0, -1]] @ view.T), 7)
    if not oblique:  # lengths are true
        _scale_bar(picture, (20, len(picture) - 24), _bar(picture, scale), scale)
    return picture


def draw_trajectory(trajectory: Trajectory, title: str) -> np.ndarray:  # -> [H, W, 3] uint8 RGB
    """The path from above and its height over time, beside the truth where there is one."""
    picture = np.full((860, 1280, 3), _PAPER, np.uint8)
    lines = [(trajectory.positions, _PATH, 2)]
    _text(picture, title, (20, 32), _INK, 0.7)
    if trajectory.truth is not None:
        lines.insert(0, (trajectory.truth, _TRUTH, 3))
        for x, (name, colour) in zip(
            (940, 1110), (('estimate', _PATH), ('truth', _TRUTH)), strict=True
        ):
            _line(picture, np.array([[x, 26], [x + 40, 26]]), colour, 3)
            _text(picture, name, (x + 50, 32), _INK, 0.6)
    flat = [positions[:, :2] for positions, _, _ in lines]
    rising = [
        np.column_stack([_seconds(trajectory), positions[:, 2]]) for positions, _, _ in lines
    ]
    above = _Axes(picture, (80, 60, 640, 800), flat, 'x, m', 'y, m', equal=True)
    over_time = _Axes(picture, (730, 60, 1250, 800), rising, 'time, s', 'height, m')
    for axes, curves in ((above, flat), (over_time, rising)):
        for curve, (_, colour, thickness) in zip(curves, lines, strict=True):
            for piece in trajectory.pieces(curve):
                _line(picture, axes.to_px(piece), colour, thickness)
    _start_and_end(picture, above.to_px(trajectory.positions[[0, -1], :2]), 7)
    return picture


class _Axes:
    """A frame with ticks in a picture, and the mapping from numbers to its pixels.

    Args:
        picture: [H, W, 3], drawn on.
        box: left, top, right and bottom pixel.
        curves: [N, 2] each, all of which shall fit; NaN is left out.
        x_label: below it.
        y_label: above it, at the left.
        equal: one unit takes as many pixels along x as along y.
    """

    def __init__(
        self,
        picture: np.ndarray,
        box: tuple[int, int, int, int],
        curves: Sequence[np.ndarray],
        x_label: str,
        y_label: str,
        *,
        equal: bool = False,
    ) -> None:
        left, top, right, bottom = box
        size = np.array([right - left, bottom - top])
        points = np.concatenate(curves)
        low, high = np.nanmin(points, 0), np.nanmax(points, 0)
        middle, span = (low + high) / 2, np.maximum(high - low, 0.2) * 1.1
        self._scale = size / span
        if equal:
            self._scale = np.full(2, self._scale.min())
        span = size / self._scale
        self._low, self._corner = middle - span / 2, np.array([left, bottom])
        cv2.rectangle(picture, (left, top), (right, bottom), _INK, 1)
        for tick in _ticks(self._low[0], span[0]):
            x = round(left + (tick - self._low[0]) * self._scale[0])
            cv2.line(picture, (x, top + 1), (x, bottom - 1), _FAINT, 1)
            _text(picture, f'{tick:.12g}', (x, bottom + 20), _INK, 0.45, centred=True)
        for tick in _ticks(self._low[1], span[1]):
            y = round(bottom - (tick - self._low[1]) * self._scale[1])
            cv2.line(picture, (left + 1, y), (right - 1, y), _FAINT, 1)
            _text(picture, f'{tick:.12g}', (left - 26, y + 5), _INK, 0.45, centred=True)
        _text(picture, x_label, ((left + right) // 2, bottom + 42), _INK, 0.5, centred=True)
        _text(picture, y_label, (left + 8, top + 18), _INK, 0.5)

    def to_px(self, points: np.ndarray) -> np.ndarray:  # [N, 2] -> [N, 2]
        return self._corner + (points - self._low) * self._scale * (1, -1)


def _seconds(trajectory: Trajectory) -> np.ndarray:  # -> [N]
    return (trajectory.stamps_ns - trajectory.stamps_ns[0]) / 1e9


def _ticks(low: float, span: float) -> list[float]:
    """Round numbers, some six of them."""
    step = _round_length(span / 6)
    first = math.ceil(low / step)
    count = math.floor((low + span) / step) - first + 1
    return [float(f'{(first + i) * step:.12g}') + 0.0 for i in range(count)]


def _round_length(about: float) -> float:
    """The largest of 1, 2, 5, 10, ... that is not above."""
    decade = 10.0 ** math.floor(math.log10(about))
    return max(digit for digit in (1, 2, 5) if digit * decade <= about * (1 + 1e-9)) * decade


def _oblique_view(normals: np.ndarray) -> np.ndarray:  # [N, 3] -> [3, 3]
    """Rows right, up and towards the eye, of the direction that the most surface faces."""
    views = []
    for azimuth in np.arange(8) * math.pi / 4 + math.pi / 8:
        c, s = math.cos(azimuth), math.sin(azimuth)
        ce, se = math.cos(_ELEVATION), math.sin(_ELEVATION)
        views.append(np.array([[-s, c, 0], [-c * se, -s * se, ce], [c * ce, s * ce, se]]))
    return max(views, key=lambda view: float(np.clip(normals @ view[2], 0, None).sum()))


def _splat(picture: np.ndarray, at: np.ndarray, colours: np.ndarray, side: float) -> None:
    """Squares around pixels [N, 2], of which later ones cover earlier ones."""
    height, width = picture.shape[:2]
    reach = max(0, math.ceil((side - 1) / 2))
    nearest = np.full((height, width), -1)
    rank = np.arange(len(at))
    for dv in range(-reach, reach + 1):
        for du in range(-reach, reach + 1):
            u, v = at[:, 0] + du, at[:, 1] + dv
            inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
            layer = np.full_like(nearest, -1)
            layer[v[inside], u[inside]] = rank[inside]
            np.maximum(nearest, layer, out=nearest)
    covered = nearest >= 0
    picture[covered] = colours[nearest[covered]]


def _with_footer(picture: np.ndarray, px_per_metre: float) -> np.ndarray:
    """A picture of the grid with a scale bar and what its colours mean below it."""
    bar = _bar(picture, px_per_metre)
    width = max(picture.shape[1], round(bar * px_per_metre) + 660)
    out = np.full((len(picture) + _FOOTER, width, 3), _CELLS[UNKNOWN], np.uint8)
    left = (width - picture.shape[1]) // 2
    out[: len(picture), left : left + picture.shape[1]] = picture
    out[len(picture) :] = _PAPER
    y = len(picture) + _FOOTER // 2
    _scale_bar(out, (20, y), bar, px_per_metre, _INK)
    x = width - 540
    _start_and_end(out, np.array([[x, y], [x + 85, y]]), 7)
    _text(out, 'start', (x + 16, y + 6), _INK, 0.55)
    _text(out, 'end', (x + 101, y + 6), _INK, 0.55)
    _line(out, np.array([[x + 155, y], [x + 185, y]]), _PATH, 3)
    _text(out, 'path', (x + 193, y + 6), _INK, 0.55)
    for i, (name, value) in enumerate(
        {'free': FREE, 'occupied': OCCUPIED, 'unknown': UNKNOWN}.items()
    ):
        corner = (x + (255, 320, 425)[i] - 12, y - 8)
        cv2.rectangle(out, corner, (corner[0] + 16, corner[1] + 16), _CELLS[value], -1)
        cv2.rectangle(out, corner, (corner[0] + 16, corner[1] + 16), _INK, 1)
        _text(out, name, (corner[0] + 22, y + 6), _INK, 0.5)
    return out


def _bar(picture: np.ndarray, px_per_metre: float) -> float:
    """Metres of a scale bar that fits."""
    return _round_length(0.25 * max(picture.shape[1], 400) / px_per_metre)


def _scale_bar(
    picture: np.ndarray,
    at: tuple[int, int],
    metres: float,
    px_per_metre: float,
    colour: Colour = _PAPER,
) -> None:
    (x, y), length = at, round(metres * px_per_metre)
    cv2.rectangle(picture, (x, y - 4), (x + length - 1, y + 4), colour, -1)
    _text(picture, f'{metres:g} m', (x + length + 10, y + 6), colour, 0.6)


def _line(picture: np.ndarray, points: np.ndarray, colour: Colour, thickness: int) -> None:
    """A line through pixels [N, 2], placed to a sixteenth of one."""
    fixed = np.rint(points * 16).astype(np.int32)
    cv2.polylines(picture, [fixed], False, colour, thickness, cv2.LINE_AA, 4)


def _start_and_end(picture: np.ndarray, ends: np.ndarray, radius: int) -> None:
    """A green disc and a red square at two pixels [2, 2]."""
    start, end = np.rint(ends).astype(int).tolist()
    x, y = start
    cv2.circle(picture, (x, y), radius + 2, _PAPER, -1, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius, _START, -1, cv2.LINE_AA)
    x, y = end
    for side, colour in ((radius + 1, _PAPER), (radius - 1, _END)):
        cv2.rectangle(picture, (x - side, y - side), (x + side, y + side), colour, -1)


def _text(
    picture: np.ndarray,
    text: str,
    at: tuple[int, int],
    colour: Colour,
    size: float,
    *,
    centred: bool = False,
) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    x, y = at
    if centred:
        x -= cv2.getTextSize(text, font, size, 1)[0][0] // 2
    cv2.putText(picture, text, (x, y), font, size, colour, 1, cv2.LINE_AA)
