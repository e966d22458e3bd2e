"""Where the coordinates of a map begin: where its world does, or near the robot if that is far.

Clouds, PLY files and Gaussians are float32, which is 8 mm coarse 100 km from the origin and 0.5 m
at the northing of a UTM zone. So a map whose first camera stands farther off than `FAR` has an
origin of its own: that of the world moved by whole kilometres, which maps share that begin in the
same square kilometre. Heights stay those of the world, since z = 0 is its floor.

`WorldMap` decides on it with its first frame and takes every pose to it; what leaves the map says
where it is. Paths, grids and all else that is float64 stay in the world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FAR = 10_000.0  # metres along an axis; up to there, and a window on, float32 is 1 mm coarse
_STEP = 1_000.0  # metres


@dataclass(frozen=True)
class LocalOrigin:
    """A point of the floor of a world.

    Attributes:
        x: in the world, metres.
        y: likewise.
    """

    x: float = 0.0
    y: float = 0.0

    @classmethod
    def near(cls, position: np.ndarray) -> LocalOrigin:
        """The one for a map that begins at a position [3] in the world."""
        x, y = map(float, position[:2])
        if max(abs(x), abs(y)) <= FAR:
            return cls()
        return cls(round(x / _STEP) * _STEP, round(y / _STEP) * _STEP)

    @property
    def is_world(self) -> bool:
        """Whether it is that of the world itself."""
        return self.x == self.y == 0

    @property
    def position(self) -> np.ndarray:
        """[3] float64 in the world, metres."""
        return np.array([self.x, self.y, 0.0])

    def local(self, T_world_x: np.ndarray) -> np.ndarray:  # [4, 4] -> [4, 4]
        """A pose in the world as it is from here."""
        if self.is_world:
            return T_world_x
        T_local_x = np.array(T_world_x, np.float64)
        T_local_x[:3, 3] -= self.position
        return T_local_x

    def in_world(self, xy: tuple[float, float]) -> tuple[float, float]:
        """A place from here as it is in the world."""
        return xy[0] + self.x, xy[1] + self.y

    def frame(self, world_frame: str) -> str:
        """Name of the frame of coordinates from here."""
        return world_frame if self.is_world else f'{world_frame}_local'

    def comments(self, world_frame: str) -> tuple[str, ...]:
        """What a file of coordinates from here tells of them; nothing if it is the world's."""
        if self.is_world:
            return ()
        x, y, z = self.position.tolist()
        name = ' '.join(world_frame.encode('ascii', 'replace').decode().split())
        return f'frame {name}', f'origin {x} {y} {z}'


OF_WORLD = LocalOrigin()
