"""Hand-held sequences through the simulated rooms, with a network that errs as one does.

Nothing here is kind to an estimate of the scale: sequences start with a turn on the spot, or
with sways of a few centimetres; the wrist rolls, the walk ends at once, images are blurred and
missing, poses are noisy and belong to another moment, and the network is wrong by a factor that is
constant, another one for every frame, and one that depends on where it looks. All of it follows
from one seed, so that sequence n is always the same. One module: its parts draw from that seed in
a fixed order, and the cache is of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
import hashlib
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sharp_ros import synthetic
from sharp_ros.camera import Frame, Intrinsics, unproject
from sharp_ros.files import replacing
from sharp_ros.se3 import angle, apply, interpolate, inverse, transform
from sharp_ros.sources.base import CAMERA
from sharp_ros.synthetic import Room, SPEED

DURATION = 7.0  # seconds
ROOMS = 6  # in turn by seed; the light of each takes seconds
THINNED = np.s_[2::4, 2::4]  # pixels whose truth is kept: plenty for a median
_SIZE = (320, 240)
_STEP = 0.005  # seconds between the poses that are interpolated
_MARGIN = 0.1  # seconds of motion before the first and after the last image
_OPTICAL_IN_LEVEL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
_FRAME_ERROR = 0.12  # of the network, every frame another, as a share at most
_LASTING = 1.0  # seconds for which odometry errs alike
_TURN_NOISE = 0.2  # of rotation, as a share of that of translation: gyroscopes beat steps
_JITTER = (0.0005, 0.0003)  # of every pose, metres and rad
_DROPPED = 0.05  # of all images, one by one
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 92)
_BLUR_STEPS = 5  # images averaged over the exposure
_START_NS = 1_000_000_000
_SPEED, _TURN = np.s_[:3], np.s_[3:]  # of a motion: ahead, left, up and yaw, pitch, roll


@dataclass(frozen=True)
class Conditions:
    """What is drawn once for a sequence.

    Attributes:
        start: kind of motion it begins with, one of `_MOTIONS`.
        rate_hz: of the images: 15 or 30.
        hfov: horizontal field of view, rad.
        exposure: seconds over which an image is blurred.
        pose_noise: error of the translation between two poses, as a share of it: 0.01 or 0.03.
        pose_delay: seconds by which poses belong to later moments than their images: none in half
            of the sequences, else 0.01 to 0.05 either way.
        bias: constant factor of the network, predicted over true depth: 0.6 to 1.6.
        field: standard deviation of its error by where things are, as a share.
        gap: seconds without any image, once; 0 in half of the sequences.
    """

    start: str
    rate_hz: float
    hfov: float
    exposure: float
    pose_noise: float
    pose_delay: float
    bias: float
    field: float
    gap: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Conditions:
        """Conditions of a sequence."""
        return cls(
            start=str(rng.choice(('turn', 'sway', 'stop', 'walk'), p=(0.4, 0.25, 0.15, 0.2))),
            rate_hz=float(rng.choice((15.0, 30.0))),
            hfov=float(rng.uniform(0.95, 1.5)),
            exposure=float(rng.uniform(0.002, 0.025)),
            pose_noise=float(rng.choice((0.01, 0.03))),
            pose_delay=float(rng.choice((-1, 0, 0, 1)) * rng.uniform(0.01, 0.05)),
            bias=float(np.exp(rng.uniform(math.log(0.6), math.log(1.6)))),
            field=float(rng.uniform(0.02, 0.08)),
            gap=float(rng.choice((0, 1)) * rng.uniform(0.2, 0.8)),
        )


@dataclass(frozen=True)
class Shown:
    """An image with what a network says of it and what is true.

    Attributes:
        frame: as the pipeline would get it, with its noisy pose and no depth.
        predicted: [H, W] float32 z-depth of the network, metres as it has them.
        truth: true z-depth of its `THINNED` pixels, metres; 0 and non-finite mean none.
        log_std: [m, n] standard deviation of the logarithm of `predicted` that the network states,
            edge to edge at any resolution; None if it states none.
        scale_std: likewise of its scale.
    """

    frame: Frame
    predicted: np.ndarray
    truth: np.ndarray
    log_std: np.ndarray | None = None
    scale_std: float | None = None


class HandHeld:
    """The sequence of a seed.

    Args:
        seed: decides everything.
        duration: seconds.
    """

    def __init__(self, seed: int, duration: float = DURATION) -> None:
        self.seed, self.duration = seed, duration
        self.conditions = Conditions.drawn(np.random.default_rng([seed, 0]))

    def frames(self, room: Room | None = None) -> Iterator[Shown]:
        """All images in order of time, rendered when they are asked for.

        Args:
            room: to walk through; by default one of the `ROOMS`, by the seed.
        """
        return map(self._shown, self._rendered(room or _room(self.seed % ROOMS)))

    def cached_frames(self, folder: Path) -> Iterator[Shown]:
        """The same as `frames`, from a file in a folder where they are kept once rendered.

        About 25 MB a sequence; the name of the file changes with the code that makes them.
        """
        path = folder / f'hand_held_{_version()}_{self.seed}_{self.duration:g}.npz'
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            rendered = list(self._rendered(_room(self.seed % ROOMS)))
            with replacing(path) as file:
                np.savez(file, **_packed(rendered))
        return map(self._shown, _unpacked(path))

    def _rendered(self, room: Room) -> Iterator[_Rendered]:
        conditions = self.conditions
        rng = np.random.default_rng([self.seed, 1])
        path = _Path(room, conditions, self.duration, rng)
        network = _Network(conditions, rng)
        intrinsics = Intrinsics.from_hfov(conditions.hfov, *_SIZE)
        times = _MARGIN + np.arange(round(self.duration * conditions.rate_hz)) / conditions.rate_hz
        gap = rng.uniform(times[0], max(times[0], times[-1] - conditions.gap))
        for t in times:
            # drawn for every image, so that what follows does not depend on which are missing
            dropped = rng.random() < _DROPPED
            jitter = rng.normal(size=6) * np.repeat(_JITTER, 3)
            error = rng.uniform(-_FRAME_ERROR, _FRAME_ERROR)
            if dropped or gap <= t < gap + conditions.gap:
                continue
            pose = path.pose(t)
            image, depth = room.render(intrinsics, pose)
            before, after = (path.pose(t + side * conditions.exposure / 2) for side in (-1, 1))
            image = _blurred(image, depth, intrinsics, inverse(before) @ after)
            yield _Rendered(
                stamp_ns=_START_NS + round(t * 1e9),
                pose=path.odometry(t + conditions.pose_delay) @ _small(jitter),
                jpeg=cv2.imencode('.jpg', image[..., ::-1], _JPEG)[1],
                predicted=network(depth, intrinsics, pose, error).astype(np.float16),
                truth=depth[THINNED].astype(np.float16),
            )

    def _shown(self, rendered: _Rendered) -> Shown:
        image = np.asarray(cv2.imdecode(rendered.jpeg, cv2.IMREAD_COLOR))[..., ::-1]
        intrinsics = Intrinsics.from_hfov(self.conditions.hfov, *_SIZE)
        frame = Frame(
            np.ascontiguousarray(image),
            intrinsics,
            rendered.stamp_ns,
            CAMERA,
            rendered.pose,
            'odom',
        )
        return Shown(
            frame, rendered.predicted.astype(np.float32), rendered.truth.astype(np.float32)
        )


@dataclass(frozen=True)
class _Rendered:
    """A `Shown` as it is kept: with a cache or without, the numbers are the same."""

    stamp_ns: int
    pose: np.ndarray  # [4, 4] of odometry
    jpeg: np.ndarray  # [B] uint8, as cameras send it
    predicted: np.ndarray  # [H, W] float16
    truth: np.ndarray  # float16


def _small(motion: np.ndarray) -> np.ndarray:  # [6] -> [4, 4]
    """Transform of a small shift, metres, and turn, rad."""
    return transform(cv2.Rodrigues(motion[_TURN])[0], motion[_SPEED])


@lru_cache(maxsize=ROOMS)
def _room(seed: int) -> Room:
    return Room(seed)


# --- motion --------------------------------------------------------------------------------------


def _walk(rng: np.random.Generator) -> np.ndarray:
    return np.array(
        [rng.uniform(0.3, 0.9), *rng.uniform(-0.1, 0.1, 2), rng.uniform(-0.3, 0.3), 0, 0]
    )


def _turn(rng: np.random.Generator) -> np.ndarray:
    sign = rng.choice((-1, 1))
    return np.array(
        [*rng.uniform(-0.03, 0.03, 3), sign * rng.uniform(0.4, 1.3), rng.uniform(-0.3, 0.3), 0]
    )


def _sway(rng: np.random.Generator) -> np.ndarray:
    sign = rng.choice((-1, 1))
    side, up = sign * rng.uniform(0.03, 0.12), rng.uniform(-0.06, 0.06)
    return np.array([0, side, up, *rng.uniform(-0.15, 0.15, 3)])


def _stop(rng: np.random.Generator) -> np.ndarray:
    del rng  # nothing to draw
    return np.zeros(6)


def _roll(rng: np.random.Generator) -> np.ndarray:
    sign = rng.choice((-1, 1))
    ahead = rng.choice((0, 0.4))
    return np.array(
        [ahead, 0, 0, *rng.uniform(-0.2, 0.2, 2), sign * rng.uniform(0.4, 1.2)], np.float64
    )


# Speeds that are aimed at: ahead, to the left and up, m/s; yaw, pitch and roll, rad/s.
_MOTIONS = {'walk': _walk, 'turn': _turn, 'sway': _sway, 'stop': _stop, 'roll': _roll}


class _Path:
    """Where the camera truly is at any time, and where odometry has it.

    A person walks along the drive of the room, which is clear of everything by half a metre, and
    moves the camera about meanwhile.
    """

    def __init__(
        self, room: Room, conditions: Conditions, duration: float, rng: np.random.Generator
    ) -> None:
        count = math.ceil((duration + 2 * _MARGIN) / _STEP) + 2
        self._times = np.arange(count) * _STEP
        speeds = self._speeds(conditions.start, rng)
        tremor = self._tremor(rng)
        lever = np.array([rng.uniform(0.03, 0.2), 0, 0])  # from the wrist to the camera
        height = rng.uniform(0.1, 0.3)  # above the drive's
        along = rng.uniform(0, room.loop_duration) + np.cumsum(speeds[:, 0]) * _STEP / SPEED
        side, up, yaw, pitch, roll = np.zeros((5, count))
        yaw[0], pitch[0] = rng.uniform(-0.5, 0.5), rng.uniform(-0.25, 0.05)
        for i in range(1, count):
            _, left, rise, turn, nod, wrist = speeds[i] * _STEP
            side[i] = np.clip(side[i - 1] + left, -0.12, 0.12)
            up[i] = np.clip(up[i - 1] + rise, -0.2, 0.2)
            yaw[i] = yaw[i - 1] + turn
            pitch[i] = pitch[i - 1] + nod - _STEP * (pitch[i - 1] + 0.1)
            roll[i] = roll[i - 1] + wrist - _STEP * roll[i - 1]
        positions, rotations = np.zeros((count, 3)), np.zeros((count, 3, 3))
        for i in range(count):
            walked = room.pose(along[i])
            ahead = walked[:2, 2] / np.linalg.norm(walked[:2, 2])
            heading = math.atan2(ahead[1], ahead[0])
            shake = tremor[i]
            turned = _euler(heading + yaw[i] + shake[3], pitch[i] + shake[4], roll[i] + shake[5])
            rotations[i] = turned @ _OPTICAL_IN_LEVEL
            left = np.array([-ahead[1], ahead[0], 0])
            rise = np.array([0, 0, height + up[i]])
            positions[i] = walked[:3, 3] + side[i] * left + rise + turned @ lever + shake[:3]
        self._poses = transform(rotations, positions)
        self._position_error, self._turn_error = self._errors(conditions.pose_noise, rng)

    def _speeds(self, start: str, rng: np.random.Generator) -> np.ndarray:  # -> [T, 6]
        """One motion after the other, as smooth as arms are and as sudden as stops."""
        kind, until = start, rng.uniform(1.0, 2.5)
        aim, lag = _MOTIONS[kind](rng), 0.1
        speeds = np.zeros((len(self._times), 6))
        speed = aim
        for i, t in enumerate(self._times):
            if t > until:
                kind = str(rng.choice(list(_MOTIONS), p=(0.4, 0.2, 0.15, 0.15, 0.1)))
                until = t + rng.uniform(0.6, 2.0)
                aim = _MOTIONS[kind](rng)
                lag = 0.03 if kind == 'stop' else rng.uniform(0.08, 0.2)
            speed = speed + (aim - speed) * min(_STEP / lag, 1)
            speeds[i] = speed
        return speeds

    def _tremor(self, rng: np.random.Generator) -> np.ndarray:  # -> [T, 6]
        """A few millimetres and tenths of a degree, at 2 to 8 Hz."""
        frequency = rng.uniform(2, 8, (3, 6))
        phase = rng.uniform(0, 2 * math.pi, (3, 6))
        size = rng.uniform(0.3, 1, (3, 6)) * np.repeat((0.0015, 0.003), 3) * 2 / frequency
        angle = 2 * math.pi * self._times[:, None, None] * frequency + phase
        return np.sum(size * np.sin(angle), 1)

    def _errors(
        self, noise: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:  # -> [T, 3], [T, 3]
        """What odometry gets wrong up to each moment: it errs alike for about a second."""
        moved = np.linalg.norm(np.diff(self._poses[:, :3, 3], axis=0, prepend=0), axis=1)
        turns = np.swapaxes(self._poses[:-1, :3, :3], 1, 2) @ self._poses[1:, :3, :3]
        turned = np.concatenate([[0], angle(turns)])
        moved[0] = 0
        kept = math.exp(-_STEP / _LASTING)
        drawn = rng.normal(size=(len(moved), 6))
        drawn[1:] *= math.sqrt(1 - kept**2)
        for i in range(1, len(drawn)):
            drawn[i] += kept * drawn[i - 1]
        shift = np.cumsum(noise * moved[:, None] * drawn[:, _SPEED], 0)
        turn = np.cumsum(_TURN_NOISE * noise * turned[:, None] * drawn[:, _TURN], 0)
        return shift, turn

    def pose(self, t: float) -> np.ndarray:  # -> [4, 4]
        """The true pose of the camera."""
        i, share = divmod(min(max(t, 0.0), float(self._times[-2])) / _STEP, 1)
        return interpolate(self._poses[int(i)], self._poses[int(i) + 1], share)

    def odometry(self, t: float) -> np.ndarray:  # -> [4, 4]
        """The pose that odometry has."""
        at = int(min(max(t, 0.0), float(self._times[-1])) / _STEP)
        error = np.concatenate([self._position_error[at], self._turn_error[at]])
        pose = self.pose(t)
        turn, shift = _small(error)[:3, :3], error[_SPEED]
        return transform(pose[:3, :3] @ turn, pose[:3, 3] + shift)


def _euler(yaw: float, pitch: float, roll: float) -> np.ndarray:  # -> [3, 3]
    """Rotation of x ahead, y left, z up; a positive pitch looks up."""
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(a), math.sin(a)) for a in (yaw, pitch, roll))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, -sp], [0, 1, 0], [sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return about_z @ about_y @ about_x


# --- images and network --------------------------------------------------------------------------


def _blurred(
    image: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, moved: np.ndarray
) -> np.ndarray:
    """Average over the exposure, the scene being taken for a plane at its median depth.

    Args:
        image: [H, W, 3] in the middle of the exposure.
        depth: [H, W] of it.
        intrinsics: of both.
        moved: [4, 4] pose of the camera at the end in that at the beginning.
    """
    matrix, plane = intrinsics.matrix, np.array([0, 0, 1 / max(float(np.median(depth)), 0.2)])
    turn, total = cv2.Rodrigues(moved[:3, :3])[0], np.zeros(image.shape, np.float32)
    for share in np.linspace(-0.5, 0.5, _BLUR_STEPS):
        rotation = cv2.Rodrigues(-share * turn)[0]
        homography = rotation - np.outer(share * moved[:3, 3], plane)
        warp = matrix @ homography @ np.linalg.inv(matrix)
        total += cv2.warpPerspective(image, warp, _SIZE, borderMode=cv2.BORDER_REPLICATE)
    return np.rint(total / _BLUR_STEPS).astype(np.uint8)


class _Network:
    """True depth with the errors of a network: smooth over the world and over the image."""

    def __init__(self, conditions: Conditions, rng: np.random.Generator) -> None:
        self._bias = math.log(conditions.bias)
        directions = rng.normal(size=(4, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self._waves = 2 * math.pi / rng.uniform(1.5, 5.0, (4, 1)) * directions  # rad/m
        self._phases = rng.uniform(0, 2 * math.pi, 4)
        self._size = conditions.field / 2  # a sum of four sines has sqrt(2) of one as its std
        self._bend = rng.normal(size=5) * conditions.field / 2

    def __call__(
        self, depth: np.ndarray, intrinsics: Intrinsics, pose: np.ndarray, error: float
    ) -> np.ndarray:
        """What it says [H, W] of true depth [H, W]; `error` is that of the frame, a logarithm."""
        step = 4
        coarse = depth[::step, ::step]
        points = apply(pose, unproject(coarse, intrinsics.subsampled(step)).astype(np.float64))
        field = self._size * np.sin(np.nan_to_num(points) @ self._waves.T + self._phases).sum(-1)
        u = np.linspace(-1, 1, coarse.shape[1])
        v = np.linspace(-1, 1, coarse.shape[0])[:, None]
        shapes = (u + 0 * v, v + 0 * u, u**2 - 1 / 3 + 0 * v, v**2 - 1 / 3 + 0 * u, u * v)
        field = field + sum(k * s for k, s in zip(self._bend, shapes, strict=True))
        smooth = cv2.resize(field.astype(np.float32), depth.shape[::-1])
        logs = cv2.GaussianBlur(np.log(np.maximum(depth, 0.05)), (0, 0), 0.75)  # soft edges
        said = np.exp(logs + smooth + np.float32(self._bias + error))
        return np.where(depth > 0, said, 0)


# --- cache ---------------------------------------------------------------------------------------


def _version() -> str:
    """Changes with the code that makes sequences."""
    sources = [Path(__file__), *sorted(Path(synthetic.__file__).parent.glob('*.py'))]
    return hashlib.sha256(b''.join(path.read_bytes() for path in sources)).hexdigest()[:12]


def _packed(sequence: list[_Rendered]) -> dict[str, Any]:  # arrays
    return {
        'stamp_ns': np.array([kept.stamp_ns for kept in sequence]),
        'pose': np.array([kept.pose for kept in sequence]),
        'jpeg': np.concatenate([kept.jpeg for kept in sequence]),
        'end': np.cumsum([len(kept.jpeg) for kept in sequence]),
        'predicted': np.array([kept.predicted for kept in sequence]),
        'truth': np.array([kept.truth for kept in sequence]),
    }


def _unpacked(path: Path) -> Iterator[_Rendered]:
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    jpegs = np.split(data['jpeg'], data['end'][:-1])
    for i, jpeg in enumerate(jpegs):
        yield _Rendered(
            int(data['stamp_ns'][i]), data['pose'][i], jpeg, data['predicted'][i], data['truth'][i]
        )
