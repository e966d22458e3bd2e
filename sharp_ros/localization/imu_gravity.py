"""Which way is up, from an inertial measurement unit; NumPy only at the ends, no ROS.

An orientation that the unit estimates itself is taken as given. Else what the accelerometer
measures is averaged in a frame that the gyroscope keeps from turning: there gravity stands still,
and all other acceleration is the change of a velocity, which stays within bounds. So a Kalman
filter knows gravity `g` and the velocity `v` from `dv/dt = f - g` and the sham measurement
`v = 0`, along each axis alike: one covariance serves all three. While the unit stands still, what
it measures is gravity itself. The deviation that comes with the result holds what this cannot
see: the bias of the accelerometer, a gyroscope that drifts, and speeds beyond the bounds.

Units and signs are those of REP-145: rad/s, m/s², and an accelerometer at rest measures +g
upwards. Numbers are plain floats, since a step takes hundreds of samples a second. One module:
the filter, what it supposes, and the turning of plain vectors that nothing else needs.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np

from sharp_ros.camera import JITTER_NS, MeasuredUp
from sharp_ros.errors import InputError

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

_GRAVITY = 9.81  # m/s²
_HISTORY_NS = 10_000_000_000  # kept, since images wait while others are processed
_GAP = 0.5  # seconds without a sample after which everything starts anew
_AHEAD = 0.1  # seconds by which the newest sample is turned on
# Beyond these there is no robot: 100 g, and 16 turns a second.
_MOST_ACCELERATION, _MOST_RATE = 1000.0, 100.0
_UNIT_TOLERANCE = 0.1  # of the length of a quaternion

# What the filter supposes; standard deviations.
_SPEED, _SPEED_TIME = 1.0, 1.0  # m/s about standing, and seconds that a speed lasts
_FIRST = 5.0  # m/s² of the first sample besides gravity
_NOISE = 0.05  # m/s² of an accelerometer, (m/s)²/s when squared and integrated
_BIAS = 0.2  # m/s² of an accelerometer, which no averaging removes
# rad/s of a gyroscope, before and after its bias was found; it lasts `_DRIFT_TIME` seconds
_DRIFT, _LEFT_DRIFT = 0.015, 0.005
_TILTING = 0.2  # rad/s of a robot whose gyroscope is missing, which lasts as long as
_DRIFT_TIME, _TILTING_TIME = 2.0, 0.5  # these seconds
_TURNING = 0.3  # rad/s by which a rate changes within `_AHEAD`
_UNEXPECTED_TIME = 3.0  # seconds over which speeds beyond the bounds are remembered
_UNKNOWN_ORIENTATION, _LEAST_ORIENTATION = 0.03, 0.01  # rad, of an orientation

# When a unit stands still: for that many seconds nothing but noise.
_STILL_TIME, _STILL_MEMORY = 0.5, 0.25
_STILL_NOISE, _STILL_NORM = 0.15, 0.5  # m/s², and about gravity
_STILL_RATE, _STILL_RATE_NOISE = 0.05, 0.02  # rad/s: largest bias, and noise about it
_CALIBRATING = 1.0  # seconds of it over which a bias is averaged
_STILL_STD, _STILL_GATE = 0.1, 3.0  # m/s²; standard deviations

_SETTLED = 1.0  # m/s², standard deviation below which the length of gravity is judged
_NORM_TOLERANCE, _LEAST_GRAVITY = 1.0, 2.0  # m/s²
_CONTRADICTION = math.radians(5)  # and three standard deviations
_CONTRADICTION_TIME = 1.0  # seconds


@dataclass(frozen=True)
class ImuSample:
    """What an IMU says at one moment, in its own frame; None where it says nothing.

    Attributes:
        stamp_ns: of the measurement, nanoseconds.
        frame_id: its frame.
        orientation: w x y z of that frame in a world with z up.
        orientation_std: of its tilt, radians; 0: unknown.
        angular_velocity: rad/s.
        acceleration: m/s², gravity included.
    """

    stamp_ns: int
    frame_id: str
    orientation: Quaternion | None = None
    orientation_std: float = 0.0
    angular_velocity: Vector | None = None
    acceleration: Vector | None = None


class _Moment(NamedTuple):
    """What is known at one sample."""

    attitude: Quaternion  # of the unit in the frame that does not turn
    rate: Vector | None
    gravity: Vector  # in that frame, m/s²
    std: float  # of its direction, radians
    up: Vector | None  # in the frame of the unit, by its own orientation
    up_std: float


class ImuGravity:
    """Takes samples in, gives the direction up at any stamp of the last ten seconds."""

    def __init__(self) -> None:
        self._start('')

    def _start(self, frame_id: str) -> None:
        self.frame_id = frame_id
        self._stamps: list[int] = []
        self._moments: list[_Moment] = []
        self._filter: _Filter | None = None
        self._attitude: Quaternion = (1.0, 0.0, 0.0, 0.0)
        self._rate: Vector | None = None  # less the bias
        self._disagreed = 0.0  # seconds, of orientation and accelerometer
        self._apart = 0.0  # radians

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest sample, or None if there is none."""
        return self._stamps[-1] if self._stamps else None

    @property
    def reaches_ns(self) -> int | None:
        """The latest stamp that can be answered, or None if there is none."""
        if not self._stamps:
            return None
        ahead = 0.0 if self._moments[-1].rate is None else _AHEAD / 2
        return self._stamps[-1] + int(ahead * 1e9)

    def add(self, sample: ImuSample) -> None:
        """Take in a sample; one of another frame, or after a gap, starts everything anew.

        Raises:
            InputError: `bad_imu` if a number is impossible or there is nothing to use, or
                `imu_went_back` if it is a little older than the newest: it is passed over.
                `imu_went_back` if it is much older, `imu_frame_changed`, or
                `bad_imu_orientation` if the orientation is no unit quaternion: it is used as far
                as it can be.
        """
        _check(sample)
        newest, fault = self.newest_ns, None
        seconds = 0.0 if newest is None else (sample.stamp_ns - newest) * 1e-9
        if newest is not None and sample.frame_id != self.frame_id:
            fault = InputError(
                f'samples of the IMU are of frame {sample.frame_id!r} after {self.frame_id!r}; '
                'let one driver publish the topic',
                'imu_frame_changed',
            )
        elif seconds < 0:
            fault = InputError(
                f'a sample of the IMU is {-seconds:.3f} s older than the one before; stamp each '
                'by the time it was measured, and let one driver publish the topic',
                'imu_went_back',
            )
        if fault is not None and fault.reason == 'imu_went_back' and seconds * 1e9 >= -JITTER_NS:
            raise fault
        if newest is None or fault is not None or seconds > _GAP:
            self._start(sample.frame_id)
            seconds = 0.0
        elif not seconds:
            return
        up = None
        if sample.orientation is not None:
            up = _up_of(sample.orientation)
            if up is None:
                fault = InputError(
                    f'orientation {sample.orientation} of the IMU is no unit quaternion; have '
                    'its driver set orientation_covariance[0] to -1 if it estimates none',
                    'bad_imu_orientation',
                )
        self._advance(sample, up, seconds)
        if fault is not None:
            raise fault

    def _advance(self, sample: ImuSample, up: Vector | None, seconds: float) -> None:
        rate, before = sample.angular_velocity, self._rate
        if rate is not None and self._filter is not None:
            rate = _less(rate, self._filter.bias)
        if rate is not None and seconds > 0:
            mean = rate if before is None else _mean(before, rate)
            self._attitude = _product(self._attitude, _turn(mean, seconds))
        self._rate = rate
        if sample.acceleration is not None:
            force = _rotated(self._attitude, sample.acceleration)
            if self._filter is None:
                self._filter = _Filter(force)
            else:
                measured = sample.acceleration, sample.angular_velocity
                self._filter.advance(*measured, force, seconds)
        std, gravity = math.inf, (0.0, 0.0, 0.0)
        if self._filter is not None:
            gravity, std = self._filter.gravity, self._filter.std
        up_std = max(sample.orientation_std or _UNKNOWN_ORIENTATION, _LEAST_ORIENTATION)
        moment = _Moment(self._attitude, rate, gravity, std, up, up_std)
        self._watch(moment, seconds)
        self._stamps.append(sample.stamp_ns)
        self._moments.append(moment)
        first = sample.stamp_ns - _HISTORY_NS
        if self._stamps[len(self._stamps) // 2] < first:  # half at once: a list is slow in front
            kept = bisect_right(self._stamps, first)
            del self._stamps[:kept], self._moments[:kept]

    def _watch(self, moment: _Moment, seconds: float) -> None:
        """Whether the unit's own orientation agrees with what its accelerometer measures."""
        if moment.up is None or moment.std > 0.5:
            self._disagreed = 0.0
            return
        self._apart = _angle(moment.up, _unrotated(moment.attitude, moment.gravity))
        limit = _CONTRADICTION + 3 * math.hypot(moment.std, moment.up_std)
        self._disagreed = self._disagreed + seconds if self._apart > limit else 0.0

    def up(self, stamp_ns: int) -> MeasuredUp:
        """Upwards in the frame of the unit at a stamp.

        Raises:
            InputError: `no_imu_yet`; `imu_too_old` if the stamp is later than the newest sample
                can answer; `imu_not_gravity` if what the accelerometer measures is none;
                `imu_contradicts_itself` if that is not what the orientation says.
        """
        at = bisect_right(self._stamps, stamp_ns) - 1
        if at < 0:
            raise InputError('no sample of the IMU that is as old as the image', 'no_imu_yet')
        moment, seconds = self._moments[at], (stamp_ns - self._stamps[at]) * 1e-9
        last = at == len(self._stamps) - 1
        if last and seconds > _AHEAD:
            raise InputError(
                f'the newest sample of the IMU is {seconds:.3f} s older than the image; is its '
                'driver running, and do both use one clock?',
                'imu_too_old',
            )
        following = None if last else self._moments[at + 1]
        if self._disagreed > _CONTRADICTION_TIME:
            raise InputError(
                f'the orientation of the IMU is {math.degrees(self._apart):.0f} degrees off from '
                'what its accelerometer measures as up; both must be of one frame, z of the world '
                'up (REP-145); set orientation_covariance[0] to -1 if it estimates none',
                'imu_contradicts_itself',
            )
        if moment.up is not None:
            return _between(moment.up, moment.up_std, moment, following, seconds)
        gravity, std = self._best_gravity(moment, (self._stamps[-1] - stamp_ns) * 1e-9)
        if not math.isfinite(std):
            raise InputError('the IMU has not yet given any acceleration', 'no_imu_yet')
        norm, spread = _length(gravity), std * _GRAVITY
        wrong = spread < _SETTLED and abs(norm - _GRAVITY) > _NORM_TOLERANCE + 3 * spread
        if wrong or norm < _LEAST_GRAVITY:
            raise InputError(
                f'the accelerometer of the IMU measures {norm:.2f} m/s² on average, and gravity '
                'is 9.81: its topic must hold m/s², gravity included (REP-145)',
                'imu_not_gravity',
            )
        direction = _unrotated(moment.attitude, gravity)
        return _between(direction, std, moment, following, seconds)

    def _best_gravity(self, moment: _Moment, since: float) -> tuple[Vector, float]:
        """Gravity and its deviation: as known then, or as known since, where that is better."""
        newest = self._moments[-1]
        later = math.hypot(newest.std, _DRIFT * since)
        if moment.rate is None or newest.rate is None or later >= moment.std:
            return moment.gravity, moment.std
        return newest.gravity, later


class _Filter:
    """Gravity in a frame that does not turn; see the top of this module."""

    def __init__(self, force: Vector) -> None:
        self.gravity = force  # m/s²
        self._velocity: Vector = (0.0, 0.0, 0.0)
        # covariance of gravity and velocity along one axis
        self._gg, self._gv, self._vv = _FIRST**2, 0.0, _SPEED**2
        self._unexpected = 0.0  # factor of the variance, by speeds that were not
        self._lately, self._turned = _Lately(), _Lately()
        self._still = 0.0  # seconds
        self.bias: Vector = (0.0, 0.0, 0.0)  # of the gyroscope, rad/s
        self._calm = 0.0  # seconds in which that could be seen
        self._drift = _DRIFT

    @property
    def std(self) -> float:
        """Standard deviation of the direction of gravity, radians."""
        variance = self._gg * max(self._unexpected, 1.0) + _BIAS**2
        return math.sqrt(variance) / _GRAVITY

    def advance(self, measured: Vector, rate: Vector | None, force: Vector, dt: float) -> None:
        """Take in what was measured, and the acceleration in the frame that does not turn."""
        if rate is None:
            self._gg += (_TILTING * _GRAVITY) ** 2 * _TILTING_TIME * dt
        else:
            self._gg += (self._drift * _GRAVITY) ** 2 * _DRIFT_TIME * dt
        gg, gv, vv = self._gg, self._gv, self._vv
        v = _moved(self._velocity, _less(force, self.gravity), dt)
        vv += dt * (dt * gg - 2 * gv) + _NOISE**2 * dt
        gv -= dt * gg
        # a speed that lasts says no more, however often it is looked at
        noise = _SPEED**2 * max(2 * _SPEED_TIME / dt, 1.0)
        self._gg, self._gv, self._vv = gg, gv, vv
        self._note(_dot(v, v) / (_SPEED**2 + vv), dt)
        gain_g, gain_v = gv / (vv + noise), vv / (vv + noise)
        self.gravity = _moved(self.gravity, v, -gain_g)
        self._velocity = _moved(v, v, -gain_v)
        self._gg, self._gv, self._vv = gg - gain_g * gv, gv - gain_g * vv, vv - gain_v * vv
        self._rest(measured, rate, force, dt)

    def _calibrate(self, dt: float) -> None:
        """What the gyroscope shows while gravity stands still is its bias.

        Not so about gravity itself: a robot that turns slowly on the spot looks as still.
        """
        down, turned = self._lately.mean, self._turned.mean
        change = _less(turned, self.bias)
        about = _dot(change, down) / _dot(down, down)
        change = _moved(change, down, -about)
        self.bias = _moved(self.bias, change, min(dt / _CALIBRATING, 1.0))
        self._calm += dt
        if self._calm > 2 * _CALIBRATING:
            self._drift = _LEFT_DRIFT

    def _note(self, excess: float, dt: float) -> None:
        """Speeds beyond what was supposed widen the deviation at once, and for a while."""
        share = min(dt / _UNEXPECTED_TIME, 1.0)
        self._unexpected += share * (excess - self._unexpected)
        self._unexpected = max(self._unexpected, excess)

    def _rest(self, measured: Vector, rate: Vector | None, force: Vector, dt: float) -> None:
        """While nothing moves, what is measured is gravity, and the bias of the gyroscope."""
        self._lately.add(measured, dt)
        moves = self._lately.spread > 3 * _STILL_NOISE**2
        moves |= abs(_length(self._lately.mean) - _GRAVITY) > _STILL_NORM
        if rate is not None:
            self._turned.add(rate, dt)
            moves |= self._turned.spread > 3 * _STILL_RATE_NOISE**2
            moves |= _length(self._turned.mean) > _STILL_RATE
        self._still = 0.0 if moves else self._still + dt
        if self._still < _STILL_TIME:
            return
        miss = _less(force, self.gravity)
        variance = _STILL_STD**2 + 3 * _STILL_NOISE**2
        if _dot(miss, miss) > 3 * _STILL_GATE**2 * (self._gg + variance):
            return  # it gathers speed evenly
        if rate is not None:
            self._calibrate(dt)
        noise = variance * max(2 * _STILL_MEMORY / dt, 1.0)
        gain_g, gain_v = self._gg / (self._gg + noise), self._gv / (self._gg + noise)
        self.gravity = _moved(self.gravity, miss, gain_g)
        self._velocity = _moved(self._velocity, miss, gain_v)
        self._vv -= gain_v * self._gv
        self._gv -= gain_g * self._gv
        self._gg -= gain_g * self._gg


class _Lately:
    """Mean and spread of a vector over the last `_STILL_MEMORY` seconds."""

    def __init__(self) -> None:
        self.mean: Vector = (0.0, 0.0, 0.0)
        self._square = self._weight = 0.0

    def add(self, vector: Vector, dt: float) -> None:
        """Take in the newest one."""
        share = min(dt / _STILL_MEMORY, 1.0)
        self._weight += share * (1 - self._weight)
        share /= self._weight
        self.mean = _moved(self.mean, _less(vector, self.mean), share)
        self._square += share * (_dot(vector, vector) - self._square)

    @property
    def spread(self) -> float:
        """Variance, summed over the axes."""
        return self._square - _dot(self.mean, self.mean)


def _check(sample: ImuSample) -> None:
    for name, vector, most in (
        ('angular velocity', sample.angular_velocity, _MOST_RATE),
        ('acceleration', sample.acceleration, _MOST_ACCELERATION),
    ):
        if vector is not None and not all(abs(value) < most for value in vector):  # nor NaN
            raise InputError(
                f'{name} {vector} of the IMU is impossible; fix its driver, or have it set the '
                'first element of the covariance to -1 where it measures nothing',
                'bad_imu',
            )
    if sample.orientation is None and sample.acceleration is None:
        raise InputError(
            'the IMU gives neither orientation nor acceleration, so nothing says what is up',
            'bad_imu',
        )
    if not 0 <= sample.orientation_std < math.inf:
        raise InputError('the covariance of the orientation of the IMU is none', 'bad_imu')


def _up_of(orientation: Quaternion) -> Vector | None:
    """The z axis of the world in the frame of the unit."""
    norm = math.sqrt(sum(value * value for value in orientation))
    if not abs(norm - 1) < _UNIT_TOLERANCE:  # nor NaN
        return None
    w, x, y, z = (value / norm for value in orientation)
    return 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)


def _between(
    up: Vector, std: float, moment: _Moment, following: _Moment | None, seconds: float
) -> MeasuredUp:
    """Turned on from one sample by `seconds`, as the gyroscope says."""
    rate = moment.rate
    if following is not None and rate is not None and following.rate is not None:
        rate = _mean(rate, following.rate)
    if rate is not None:
        up = _unrotated(_turn(rate, seconds), up)
    if following is None:
        std = math.hypot(std, (_TURNING if rate is not None else 2 * _TILTING) * seconds)
    elif rate is None:
        std = math.hypot(std, _TILTING * seconds)
    direction = np.array(up, np.float64)
    return MeasuredUp(direction / np.linalg.norm(direction), std)


def _mean(a: Vector, b: Vector) -> Vector:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2


def _less(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _moved(a: Vector, b: Vector, share: float) -> Vector:
    return a[0] + share * b[0], a[1] + share * b[1], a[2] + share * b[2]


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _length(a: Vector) -> float:
    return math.sqrt(_dot(a, a))


def _angle(a: Vector, b: Vector) -> float:
    """Between two directions, radians."""
    cosine = _dot(a, b) / max(_length(a) * _length(b), 1e-12)
    return math.acos(min(max(cosine, -1.0), 1.0))


def _turn(rate: Vector, seconds: float) -> Quaternion:
    """By how much a rate turns within some seconds."""
    speed = _length(rate)
    half = speed * seconds / 2
    share = math.sin(half) / speed if speed > 1e-9 else seconds / 2
    return math.cos(half), rate[0] * share, rate[1] * share, rate[2] * share


def _product(a: Quaternion, b: Quaternion) -> Quaternion:
    (w, x, y, z), (p, q, r, s) = a, b
    product = (
        w * p - x * q - y * r - z * s,
        w * q + x * p + y * s - z * r,
        w * r - x * s + y * p + z * q,
        w * s + x * r - y * q + z * p,
    )
    norm = math.sqrt(sum(value * value for value in product))
    return product[0] / norm, product[1] / norm, product[2] / norm, product[3] / norm


def _rotated(q: Quaternion, v: Vector) -> Vector:
    """A vector of the frame that a quaternion turns, in that which it turns from."""
    (w, x, y, z), (a, b, c) = q, v
    p, r, s = 2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a)
    return (
        a + w * p + y * s - z * r,
        b + w * r + z * p - x * s,
        c + w * s + x * r - y * p,
    )


def _unrotated(q: Quaternion, v: Vector) -> Vector:
    return _rotated((q[0], -q[1], -q[2], -q[3]), v)
