"""The web page: its scene, its panel, and what somebody sets there. All of viser is in here.

One module, since it is one object of viser with its nodes; viser is imported when it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
import math
import re
import secrets
import sys
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import ConfigError, SharpError
from sharp_ros.mapping.occupancy import FREE, OccupancyGrid2D, OCCUPIED, UNKNOWN
from sharp_ros.se3 import matrix_from_quat, quat_from_matrix, transform

if TYPE_CHECKING:
    import viser

CAMERA, PATH, CLOUD, SPLATS = 'camera', 'trajectory', 'cloud', 'Gaussians'
GRID, VOXELS, VIEWS, SNAPSHOT = 'occupancy grid', 'occupied voxels', 'virtual views', 'snapshot'
_LAYERS = (CAMERA, PATH, CLOUD, SPLATS, GRID, VOXELS, VIEWS, SNAPSHOT)
_THUMBNAIL = 320  # longest side of an image that is sent, pixels
_GRID_SIDE = 1024  # longest side of the grid's texture, texels
_COLOURS = {UNKNOWN: (0, 0, 0, 0), FREE: (214, 224, 236, 255), OCCUPIED: (20, 20, 20, 255)}
_BEHIND, _ABOVE, _AHEAD = 1.5, 0.8, 2.5  # metres, of the eye that follows the camera


class Page:
    """What browsers show; any thread may change it.

    Args:
        up: axis of the world that points up, such as `+z`.
        buttons: by label, what is done on a click; it returns what is said about it.
        may_look: whether a camera can be placed, see `placed`.
        off: layers that are not shown at first.

    Attributes:
        server: host and port that it is served on, without any protection.
        placed: [4, 4] pose in the scene of the camera that somebody has placed; None: of none.

    Raises:
        ConfigError: if viser is not installed.
    """

    def __init__(
        self,
        up: str,
        buttons: Mapping[str, Callable[[], str]],
        *,
        may_look: bool,
        off: Collection[str] = (),
    ) -> None:
        self._viser = _serve()
        self.server = self._viser.get_host(), self._viser.get_port()
        self.placed: np.ndarray | None = None
        self._nodes: dict[str, Any] = {}
        self._layer_of: dict[str, str] = {}
        self._images: dict[str, Any] = {}
        self._looked_at = False
        self._viser.scene.set_up_direction(up)  # pyright: ignore[reportArgumentType]
        gui = self._viser.gui
        gui.configure_theme(show_logo=False, show_share_button=False)
        self._words = gui.add_markdown('waiting for the first image')
        for label, action in buttons.items():
            self._add_button(label, action)
        self._said = gui.add_markdown('')
        self._images_folder = gui.add_folder('images')
        with gui.add_folder('show'):
            self._shown = {name: gui.add_checkbox(name, name not in off) for name in _LAYERS}
            self._follow = gui.add_checkbox('follow the camera', initial_value=True)
            self._range = gui.add_slider('range, m', 1.0, 50.0, 0.5, 20.0)
            self._point_size = gui.add_slider('point size, mm', 1.0, 100.0, 1.0, 15.0)
            self._frustum = gui.add_slider('camera size, m', 0.05, 2.0, 0.05, 0.3)
        for name, box in self._shown.items():
            box.on_update(lambda _, name=name: self._switch(name))
        self._point_size.on_update(lambda _: self._resize())
        self._frustum.on_update(lambda _: self._resize())
        if may_look:
            self._add_placing()

    def close(self) -> None:
        """End the server."""
        self._viser.stop()

    def atomic(self) -> AbstractContextManager[None]:
        """What is changed within appears at once."""
        return self._viser.atomic()

    def shows(self, layer: str) -> bool:
        """Whether a layer is switched on."""
        return bool(self._shown[layer].value)

    @property
    def range(self) -> float:
        """Largest distance of points of the cloud, metres."""
        return float(self._range.value)

    # panel -------------------------------------------------------------------------------------

    def say(self, lines: Sequence[str]) -> None:
        """Replace the text on top; Markdown."""
        self._words.content = '\n\n'.join(lines)

    def show_image(self, name: str, image: np.ndarray) -> None:
        """An image [H, W, 3] uint8 RGB in the panel."""
        image = _thumbnail(image)
        if name in self._images:
            self._images[name].image = image
            return
        with self._images_folder:
            self._images[name] = self._viser.gui.add_image(image, label=name, format='jpeg')

    def _add_button(self, label: str, action: Callable[[], str]) -> None:
        button = self._viser.gui.add_button(label)

        def press(_: object) -> None:
            button.disabled = True
            try:
                said = action()
            except Exception as error:  # it is told where it was asked for, and harms nothing
                said = str(error) if isinstance(error, SharpError) else repr(error)
            self._said.content = plain(f'{label}: {said}')
            button.disabled = False

        button.on_click(press)

    def _add_placing(self) -> None:
        gui, scene = self._viser.gui, self._viser.scene
        with gui.add_folder('virtual camera'):
            place, remove = gui.add_button('place it here'), gui.add_button('remove it')
        handle = scene.add_transform_controls('/placed', scale=0.4, visible=False)
        scene.add_camera_frustum('/placed/camera', 1.0, 4 / 3, scale=0.2, color=(220, 120, 0))

        def put(event: viser.GuiEvent[Any]) -> None:
            client = event.client
            if client is not None:
                handle.position, handle.wxyz = client.camera.position, client.camera.wxyz
                handle.visible = True
                move(event)

        def move(_: object) -> None:
            self.placed = transform(matrix_from_quat(handle.wxyz), handle.position)

        def take_away(_: object) -> None:
            handle.visible, self.placed = False, None

        place.on_click(put)
        handle.on_update(move)
        remove.on_click(take_away)

    # scene -------------------------------------------------------------------------------------

    def show_camera(
        self, name: str, layer: str, pose: np.ndarray, intrinsics: Intrinsics, image: np.ndarray
    ) -> None:
        """A camera with its image, at a pose [4, 4] of its optical frame."""
        node = self._nodes.get(name)
        image = _thumbnail(image)
        height, width = intrinsics.height, intrinsics.width
        fov = 2 * math.atan(height / 2 / intrinsics.fy)
        aspect = width / height * intrinsics.fy / intrinsics.fx
        if node is None:
            node = self._viser.scene.add_camera_frustum(
                f'/{name}',
                fov,
                aspect,
                scale=self._frustum.value,
                thickness=0.005,
                color=(220, 120, 0) if layer == VIEWS else (30, 90, 200),
                image=image,
                format='jpeg',
            )
            self._keep(name, layer, node)
        else:
            node.image = image
            if (node.fov, node.aspect) != (fov, aspect):
                node.fov, node.aspect = fov, aspect
        _move(node, pose)

    def show_path(self, points: np.ndarray) -> None:
        """Where the camera was: positions [N, 3]."""
        segments = np.stack([points[:-1], points[1:]], 1).astype(np.float32)
        node = self._viser.scene.add_line_segments(
            '/path', segments, (30, 90, 200), thickness=0.015
        )
        self._keep('path', PATH, node)

    def show_points(
        self,
        name: str,
        layer: str,
        points: np.ndarray,
        colors: np.ndarray,
        pose: np.ndarray,
        *,
        size: float | None = None,
        exact: bool = False,
    ) -> None:
        """A cloud [N, 3] in metres with colours [N, 3] or [3] uint8, in a frame at a pose [4, 4].

        Args:
            name: of the node.
            layer: it belongs to.
            points: in their frame.
            colors: sRGB.
            pose: of their frame.
            size: of a point, metres; None: as set.
            exact: whether they are sent as 32-bit floats; else 16, 8 mm coarse from 8 m on.
        """
        node = self._nodes.get(name)
        if node is None or exact:
            node = self._viser.scene.add_point_cloud(
                f'/{name}',
                points,
                colors,
                point_size=size or self._point_size.value / 1e3,
                point_shading='flat',
                precision='float32' if exact else 'float16',
            )
            self._keep(name, layer, node)
        else:
            node.points, node.colors = points, colors
        _move(node, pose)

    def show_splats(self, buffer: np.ndarray, pose: np.ndarray) -> None:
        """Gaussians [N, 8] as `splats` gives them, in a frame at a pose [4, 4]."""
        node = self._nodes.get('splats')
        if node is None:
            none = np.zeros((1, 3)), np.zeros((1, 3, 3)), np.zeros((1, 3)), np.zeros((1, 1))
            node = self._viser.scene.add_gaussian_splats('/splats', *none)
            self._keep('splats', SPLATS, node)
        node.buffer = buffer  # what viser packs itself takes ten times as long
        _move(node, pose)

    def show_grid(self, grid: OccupancyGrid2D, origin: np.ndarray) -> None:
        """An occupancy grid as a plane at the height of the floor.

        Args:
            grid: in the world.
            origin: [3] of the scene in the world.
        """
        known = grid.cells != UNKNOWN
        if not known.any():
            self.forget('grid')
            return
        rows, columns = (np.flatnonzero(known.any(axis)) for axis in (1, 0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cells = grid.cells[part]
        texture = np.zeros((*cells.shape, 4), np.uint8)
        for value, colour in _COLOURS.items():
            texture[cells == value] = colour
        height, width = (n * grid.resolution for n in cells.shape)
        shrink = min(1.0, _GRID_SIDE / max(cells.shape))
        if shrink < 1:
            size = [max(1, round(n * shrink)) for n in cells.shape[::-1]]
            texture = cv2.resize(texture, size, interpolation=cv2.INTER_AREA)
        corner = np.array([columns[0], rows[0]]) * grid.resolution + grid.origin - origin[:2]
        node = self._viser.scene.add_image(
            '/grid',
            texture,
            width,
            height,
            # rows of the grid grow along y; the image's top row is where its local y is smallest
            position=(*(corner + np.array([width, height]) / 2), -0.01),
            cast_shadow=False,
            receive_shadow=False,
        )
        self._keep('grid', GRID, node)

    def forget_all(self) -> None:
        """Empty the scene."""
        self.forget(*self._nodes)

    def forget(self, *names: str) -> None:
        """Take nodes out of the scene."""
        for name in names:
            node = self._nodes.pop(name, None)
            if node is not None:
                node.remove()

    def look_at(self, eye: np.ndarray, target: np.ndarray) -> None:
        """Where those look from, and at, who come to the page, and who have seen nothing yet."""
        camera = self._viser.initial_camera
        camera.position, camera.look_at = eye, target
        if not self._looked_at:
            self._looked_at = True
            self._turn(eye, target)

    def follow(self, pose: np.ndarray) -> None:
        """Look over the shoulder of the camera at a pose [4, 4], if that is wished."""
        if not self._looked_at:
            self.look_at(*behind(pose))
        elif self._follow.value:
            self._turn(*behind(pose))

    def _turn(self, eye: np.ndarray, target: np.ndarray) -> None:
        for client in self._viser.get_clients().values():
            with client.atomic():
                client.camera.position, client.camera.look_at = eye, target

    def _keep(self, name: str, layer: str, node: Any) -> None:
        self._nodes[name], self._layer_of[name] = node, layer
        node.visible = self.shows(layer)

    def _switch(self, layer: str) -> None:
        for name, node in list(self._nodes.items()):
            if self._layer_of[name] == layer:
                node.visible = self.shows(layer)

    def _resize(self) -> None:
        for name, node in list(self._nodes.items()):
            layer = self._layer_of[name]
            if layer == CLOUD:
                node.point_size = self._point_size.value / 1e3
            elif layer in (CAMERA, VIEWS):
                node.scale = self._frustum.value


def plain(text: str) -> str:
    """Text as Markdown that shows it as it is; it may come from other nodes, and hold HTML."""
    return re.sub(r'([!-/:-@\[-`{-~])', r'\\\1', ' '.join(text.split()))


def behind(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [4, 4] -> [3], [3]
    """Eye and target over the shoulder of a camera, world z up."""
    ahead = pose[:3, 2] * (1, 1, 0)
    length = float(np.linalg.norm(ahead))
    ahead = ahead / length if length > 0.1 else pose[:3, 2]
    position = pose[:3, 3]
    return position - _BEHIND * ahead + (0, 0, _ABOVE), position + _AHEAD * ahead


def _serve() -> viser.ViserServer:
    """A server that only those find whom we tell where it is."""
    try:
        import rich
        import viser
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'the live view needs {error.name}, which is not installed: pip install viser'
        ) from error

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> str | None:
            """Refuse: any browser may ask for one, and it would lead the internet here."""
            return None

    host = '127.0.0.1'
    if sys.platform == 'linux':  # which has 2^24 of them, too many for a web page to try
        host = '127.' + '.'.join(str(1 + secrets.randbelow(254)) for _ in range(3))
    # its notes, which nobody else writes there, name an address that is not to be used
    rich.get_console().quiet = True
    return Server(host, 0, label='sharp_ros', verbose=False)


def _move(node: Any, pose: np.ndarray) -> None:
    node.wxyz, node.position = quat_from_matrix(pose[:3, :3]), pose[:3, 3]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    shrink = _THUMBNAIL / max(height, width)
    if shrink >= 1:
        return image
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
