"""What precedes and follows the network of nano, in arrays: it then runs without torch.

`nano.py` and `composer.py` say the same in tensors, for training and for other devices, and are
what this is tested against. Channels and bounds that both know are defined here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
import math

import cv2
import numpy as np

from sharp_ros.camera import FloorGeometry, Intrinsics
from sharp_ros.errors import CheckpointError
from sharp_ros.gaussians import GaussianArrays, Gaussians
from sharp_ros.network.footprints import stretched
from sharp_ros.network.roles import SessionPredictor
from sharp_ros.network.sessions import Session

PIXELS = 256 * 192  # of the image the network sees
STRIDE = 32  # of which both of its sides are multiples
SURELY = 3.0  # logit of "nothing there", 95 %, from which a ray is taken to be free
WIDTH_STEP = 0.5  # of the log: at most this much narrower or wider
NARROWEST = 0.85  # times as wide as without the correction: what is narrower opens gaps

# Channels of a prediction.
LOG_Z1, LOG_Z2, LOG_SCALE, NONE = range(4)
# Corrections of the Gaussians, all 0 before training: log of the widths and logit of the
# opacities of both layers, and the colour of the hidden one, of which the image shows nothing.
WIDTHS, OPACITIES, HIDDEN_COLOR = slice(4, 6), slice(6, 8), slice(8, 11)
CHANNELS = HIDDEN_COLOR.stop
METRES = CHANNELS  # log of the standard deviation of the log of the metres, where it is known

# A standard deviation of 0.6 cells closes the surface between neighbours (their sum ripples by
# less than 2 %) and still resolves one cell.
STD_CELLS = 0.6
# A second surface within 3 % of the first is the same surface; showing it twice only blurs.
SECOND_LAYER_RATIO = 1.03
VISIBLE, HIDDEN = 0.95, 0.9  # opacities


def nano_inputs(
    image: np.ndarray, intrinsics: Intrinsics, geometry: FloorGeometry | None, pixels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network takes of an image.

    Args:
        image: [H, W, 3] uint8 RGB.
        intrinsics: of it.
        geometry: where the floor is, if that is known.
        pixels: of the small image, about; the aspect ratio is kept to within half a stride and
            the rest is handled exactly by the intrinsics.

    Returns:
        The small image [rows, columns, 3] uint8, its intrinsics [1, 4] counted from the corner of
        the image, and the geometry [1, 5] of `NanoNetwork.forward`, zero where it is not known.
    """
    aspect = intrinsics.width / intrinsics.height
    columns = max(1, round((pixels * aspect) ** 0.5 / STRIDE)) * STRIDE
    rows = max(1, round((pixels / aspect) ** 0.5 / STRIDE)) * STRIDE
    small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    k = intrinsics.resized(columns, rows)
    # the network counts pixels from the image corner, `Intrinsics` from pixel centres
    corner = np.array([[k.fx, k.fy, k.cx + 0.5, k.cy + 0.5]], np.float32)
    floor = np.zeros((1, 5), np.float32)
    if geometry is not None:
        up = geometry.up / np.linalg.norm(geometry.up)
        floor[0] = (*up, math.log(geometry.height), 1.0)
    return small, corner, floor


class NanoArrays(SessionPredictor):
    """Nano from image to Gaussians without torch.

    Args:
        session: of a file that `sharp-ros export --model nano` wrote.
        pixels: see `nano_inputs`.

    Raises:
        CheckpointError: if the file holds another network.
    """

    def __init__(self, session: Session, pixels: int = PIXELS) -> None:
        super().__init__(session)
        check_is_nano(session)
        self._pixels = pixels

    @property
    def uses_geometry(self) -> bool:
        """See `NetworkPredictor`; known from the inputs of the file."""
        return 'geometry' in self.session.inputs

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """See `Predictor`; sensor depth is ignored."""
        return self.gaussians(self.forward(*self.inputs(image, intrinsics)), intrinsics)

    def inputs(
        self, image: np.ndarray, intrinsics: Intrinsics, geometry: FloorGeometry | None = None
    ) -> tuple[np.ndarray, ...]:
        """See `nano_inputs`; without the geometry where the network has no use for it."""
        return nano_inputs(image, intrinsics, geometry, self._pixels)[: 2 + self.uses_geometry]

    def forward(self, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The prediction [C, rows, columns], and the small image [rows, columns, 3] uint8."""
        (prediction,) = self.session.run(*self._asked(inputs))
        return prediction, inputs[0]

    def _asked(self, inputs: Sequence[np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
        feeds = dict(zip(self.session.inputs, inputs, strict=True))
        return list(self.session.outputs)[:1], feeds

    def gaussians(
        self, outputs: Sequence[np.ndarray], intrinsics: Intrinsics, *, covariances: bool = True
    ) -> Gaussians:
        """See `NetworkPredictor`."""
        prediction, small = outputs
        k = intrinsics.resized(small.shape[1], small.shape[0])
        return gaussians_of_prediction(prediction, small, k, covariances=covariances)

    def comparable(self, outputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Depths, spread, how likely something is there, and factors of correction."""
        prediction = outputs[0]
        with np.errstate(over='ignore'):  # infinite is what the caller looks for
            logs, none, corrections = np.split(np.exp(prediction), (NONE, NONE + 1))
        return [*logs, 1 / (1 + none), *([corrections] if len(corrections) else [])]


def check_is_nano(session: Session) -> None:
    """Refuse the file of another network.

    Raises:
        CheckpointError: saying what to do with such a file.
    """
    if session.metadata.get('model') != 'nano':
        raise CheckpointError(
            f'{session.path} was not written by `sharp-ros export --model nano`; for another '
            'depth network give the path of its description (docs/onnx.md)'
        )


def gaussians_of_prediction(
    prediction: np.ndarray,
    small: np.ndarray,
    intrinsics: Intrinsics,
    *,
    covariances: bool = True,
) -> Gaussians:
    """Gaussians on the predicted surfaces, see `nano.gaussians_from_prediction`.

    Args:
        prediction: [C, h, w] float32.
        small: [h, w, 3] uint8 sRGB.
        intrinsics: of that size.
        covariances: False if only points are needed.
    """
    layers, (rows, columns) = 2, small.shape[:2]
    with np.errstate(over='ignore'):  # numbers that overflow are no sky
        z = np.exp(prediction[:layers])
    free = prediction[NONE] > SURELY
    valid = (z > 0) & (z < np.inf) & ~(prediction[NONE] > 0)
    z[~valid] = 1
    hidden = np.where(z[1] > z[0] * np.float32(SECOND_LAYER_RATIO), np.float32(HIDDEN), 0)
    opacities = np.where(valid, (np.full_like(hidden, VISIBLE), hidden), np.float32(0))
    x, y = (axis.astype(np.float32) for axis in intrinsics.axes())
    colors = np.empty((layers, rows, columns, 3), np.float32)
    cv2.LUT(small, _linear_of_bytes(), colors[0])
    if len(prediction) >= CHANNELS:
        # what is quite invisible stays so; the rest keeps its place in the depth
        with np.errstate(divide='ignore', over='ignore'):  # the logit of 0 is -inf, and comes back
            corrected = _logit(opacities) + prediction[OPACITIES]
            opacities = 1 / (1 + np.exp(-corrected))
        planes = np.stack(cv2.split(small)) * np.float32(1 / 255)
        cv2.merge([*_linear_from_srgb(planes + prediction[HIDDEN_COLOR])], colors[1])
    else:
        colors[1] = colors[0]
    scales, quats = _shapes(prediction, z, valid, intrinsics) if covariances else (None, None)
    # a Laplace distribution of scale b has standard deviation sqrt(2) b
    std = np.exp(prediction[LOG_SCALE].reshape(-1)) * np.float32(2**0.5)
    arrays = GaussianArrays(
        means=_joined(x * z, y[:, None] * z, z),
        quats=quats,
        scales=scales,
        opacities=opacities.reshape(-1),
        colors=colors.reshape(-1, 3),
        log_depth_std=np.tile(std, layers),
        empty=np.tile(free.reshape(-1), layers),
    )
    known = len(prediction) > METRES
    log_scale_std = math.exp(prediction[METRES, 0, 0]) if known else None
    return Gaussians.of_arrays(arrays, (layers, rows, columns), log_scale_std)


def _shapes(
    prediction: np.ndarray, z: np.ndarray, valid: np.ndarray, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:  # [C, h, w], [L, h, w], [L, h, w] -> [N, 3], [N, 4]
    # pixels may be anisotropic after a resize; the geometric mean keeps the footprint's area
    widths = z * np.float32(STD_CELLS / (intrinsics.fx * intrinsics.fy) ** 0.5)
    if len(prediction) >= CHANNELS:
        widths *= np.exp(WIDTH_STEP * np.tanh(prediction[WIDTHS])).clip(NARROWEST)
    (long, thick), quats = stretched(z, valid, intrinsics)
    return _joined(widths * long, widths, widths * thick), _joined(*quats)


def _joined(*planes: np.ndarray) -> np.ndarray:  # K x [L, h, w] -> [N, K]
    """Numbers of each Gaussian together; numpy would copy them one by one."""
    columns = planes[0].shape[-1]
    merged = cv2.merge([plane.reshape(-1, columns) for plane in planes])
    return merged.reshape(-1, len(planes))


def _logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def _linear_from_srgb(encoded: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, see `gaussians.linear_from_srgb`; float32."""
    encoded = encoded.clip(0, 1)
    linear = encoded + np.float32(0.055)
    linear *= np.float32(1 / 1.055)
    linear **= np.float32(2.4)
    return np.where(encoded <= np.float32(0.04045), encoded * np.float32(1 / 12.92), linear)


@cache
def _linear_of_bytes() -> np.ndarray:  # -> [256] float32
    return _linear_from_srgb(np.arange(256, dtype=np.float32) / 255)
