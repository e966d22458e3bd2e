"""What the training images of a version are made of: scenes, cameras, light and detail.

A recipe never changes once weights were trained with it, so that version and seed of a shard
stand for its images.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """Lengths in metres, angles in degrees.

    Attributes:
        pairs: of views of one scene.
        outdoors: share of the scenes that are streets and yards.
        gather_rays: of light from all around, per shaded pixel.
        detail: whether surfaces have grain and small things print, see `detail`.
        totes: most boxes full of things that stand in a room beside its furniture.
        clutter: factor on the number of small things in rooms.
        brightness: limits of what most cameras make of the brighter parts.
        close: share of the close-ups, indoors and outdoors.
        retry: whether a close-up that shows nothing is drawn again until it does, else its place
            is often taken by a view of the room; and whether steps are short before near things.
        tries: places tried for each pair, on average.
        shelves: share of shelves and totes among them; None: as many as there are.
        reach: distance of close-ups, log-uniform.
        down: angle to which close-ups look down.
        heights: of all other cameras, in three classes.
        height_shares: of these.
        field_of_view: horizontal.
        log_focal: whether that is uniform in the logarithm of the focal length, else in degrees.
        bare: share of the views of less than four objects that are kept.
        nearest: least 5th percentile and median of the depth of an image.
        pair_nearest: least 2nd percentile of that of its second view.
        steps: distance between two views.
    """

    version: int
    pairs: int
    outdoors: float
    gather_rays: int
    detail: bool
    totes: int
    clutter: float
    brightness: Range
    close: tuple[float, float]
    retry: bool
    tries: int
    shelves: float | None
    reach: Range
    down: Range
    heights: tuple[Range, Range, Range]
    height_shares: tuple[float, float, float]
    field_of_view: Range
    log_focal: bool
    bare: float
    nearest: tuple[float, float]
    pair_nearest: float
    steps: Range

    def focal(self, width: int, rng: np.random.Generator) -> float:
        """A focal length, in pixels, of images of this width."""
        if not self.log_focal:
            return width / 2 / math.tan(math.radians(rng.uniform(*self.field_of_view) / 2))
        longest, shortest = (
            width / 2 / math.tan(math.radians(field / 2)) for field in self.field_of_view
        )
        return math.exp(rng.uniform(math.log(shortest), math.log(longest)))

    def pitch(self, height: float, rng: np.random.Generator) -> float:
        """Angle upwards, in radians, of a camera that looks at nothing in particular."""
        if self.version >= 4:
            if rng.uniform() < 0.15:
                return math.radians(rng.uniform(-85, -45))
            return math.radians(np.clip(rng.normal(-12, 20), -85, 60))
        if rng.uniform() < 0.1 and height > 0.4:  # at the floor
            return math.radians(rng.uniform(-75, -30))
        return math.radians(rng.normal(-3 - 10 * max(0, height - 0.4), 13))


RECIPES = {
    3: Recipe(
        version=3,
        pairs=3,
        outdoors=0.15,
        gather_rays=8,
        detail=False,
        totes=0,
        clutter=1.0,
        brightness=(0.4, 0.95),
        close=(0.22, 0.22),
        retry=False,
        tries=14,
        shelves=None,
        reach=(0.3, 2.0),
        down=(-5, 75),
        heights=((0.2, 0.5), (0.5, 1.0), (1.0, 1.8)),
        height_shares=(0.25, 0.25, 0.5),
        field_of_view=(45, 110),
        log_focal=False,
        bare=0.15,
        nearest=(0.18, 0.28),
        pair_nearest=0.12,
        steps=(0.05, 0.5),
    ),
    # Nearer, narrower, lower and steeper: what arms and shelves show, besides rooms.
    4: Recipe(
        version=4,
        pairs=6,
        outdoors=0.15,
        gather_rays=4,
        detail=True,
        totes=3,
        clutter=3.0,
        brightness=(0.3, 0.85),
        close=(0.5, 0.2),
        retry=True,
        tries=40,
        shelves=1 / 3,
        reach=(0.2, 1.0),
        down=(-5, 85),
        heights=((0.1, 0.4), (0.4, 1.0), (1.0, 2.0)),
        height_shares=(0.2, 0.3, 0.5),
        field_of_view=(28, 110),
        log_focal=True,
        bare=0.06,
        nearest=(0.1, 0.16),
        pair_nearest=0.1,
        steps=(0.03, 0.4),
    ),
}
