"""What does not change: Gaussians of a PLY file, or a map that was saved."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from sharp_ros.config import WebConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.gaussians import Gaussians
from sharp_ros.mapping.map_files import MapState
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.web.live import open_gate
from sharp_ros.web.page import behind, CLOUD, Page, VOXELS
from sharp_ros.web.splats import splats

# 16 MB, and the points 9 MB; a browser without a graphics card draws few of them a second
_MOST_SPLATS, _MOST_POINTS = 500_000, 600_000
_IN_FRONT = 0.95  # share of Gaussians in front of the origin that makes it the camera of a photo
_VOXEL_COLOUR = (200, 60, 40)
_HERE = np.eye(4)


class StillView:
    """Serves a page with a scene.

    Args:
        web: where.
        up: axis of the scene that points up, such as `+z`.

    Attributes:
        url: to be opened in a browser.
        said: what there is to see.

    Raises:
        ConfigError: if viser is not installed, or the address or port cannot be had.
    """

    def __init__(self, web: WebConfig, up: str) -> None:
        self._page = Page(up, {}, may_look=False)
        self._gate = open_gate(web, self._page)
        self.url = self._gate.url
        self.said = ''

    def close(self) -> None:
        """End the page."""
        self._gate.close()
        self._page.close()

    def show(self, content: Gaussians | MapState) -> None:
        """Show Gaussians or a map.

        Raises:
            InputError: if no Gaussian can be seen; `bad_map` if the parts of a map do not fit.
        """
        if isinstance(content, Gaussians):
            self._show_gaussians(content)
        else:
            self._show_map(content)

    def _show_gaussians(self, gaussians: Gaussians) -> None:
        """Seen from the origin if that is where their photo was taken."""
        centres = self._show_splats(gaussians)
        low, middle, high = np.quantile(centres, (0.05, 0.5, 0.95), axis=0)
        if (centres[:, 2] > 0).mean() >= _IN_FRONT:
            self._page.look_at(np.zeros(3), np.array([0, 0, middle[2]]))
        else:
            self._page.look_at(middle + 1.5 * (high - low), middle)

    def _show_map(self, state: MapState) -> None:
        page = self._page
        world = WorldMap.restored(state.config, state)
        origin = world.origin.position
        path = state.path[:, :3, 3] - origin
        if len(path) > 1:
            page.show_path(path)
        page.show_grid(world.grid(), origin)
        said = [f'{len(path)} poses']
        (voxels,), told = _thinned((world.points(),), 'occupied voxels')
        said.append(told)
        if len(voxels):
            colours = np.broadcast_to(np.array(_VOXEL_COLOUR, np.uint8), voxels.shape)
            size = state.config.occupancy.voxel_size
            page.show_points('voxels', VOXELS, voxels, colours, _HERE, size=size, exact=True)
        surface = world.surface() if state.surface is not None else None
        if surface is not None and len(surface[0]):
            (points, colours), told = _thinned(surface[:2], 'points of the surface')
            size = state.config.surface_map.voxel_size
            page.show_points(
                'cloud', CLOUD, points - origin, colours, _HERE, size=size, exact=True
            )
            said.append(told)
        if state.gaussians is not None:
            with suppress(InputError, PoseUnavailableError):  # none are fused
                self._show_splats(world.fused()[0])
                said.append(self.said)
        if len(path):
            pose = state.path[0].copy()
            pose[:3, 3] -= origin
            page.look_at(*behind(pose))
        self._tell(', '.join(said))

    def _show_splats(self, gaussians: Gaussians) -> np.ndarray:
        """Show them; their centres [N, 3]."""
        buffer = splats(gaussians, _MOST_SPLATS)
        count = len(buffer)
        if not count:
            raise InputError('there are no Gaussians that could be seen', 'nothing_to_show')
        self._page.show_splats(buffer, _HERE)
        dropped = len(gaussians) - count
        left_out = f', {dropped} that show less left out' if dropped else ''
        self._tell(f'{count} Gaussians{left_out}')
        return buffer[:, :3].view(np.float32)

    def _tell(self, text: str) -> None:
        self.said = text
        self._page.say([text])


def _thinned(parts: Sequence[np.ndarray], what: str) -> tuple[list[np.ndarray], str]:
    """As many rows [N, ...] of each as are shown, evenly chosen, and a word about them."""
    count = len(parts[0])
    step = max(1, -(-count // _MOST_POINTS))
    shown = [part[::step] for part in parts]
    left_out = f', {count - len(shown[0])} of them left out' if step > 1 else ''
    return shown, f'{count} {what}{left_out}'
