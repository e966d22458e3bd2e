"""Checks of arrays that come from a file, of which nothing may be trusted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.se3 import is_pose

_SETTING = 'setting.'


def bad_map(what: str) -> InputError:
    """The error for a map that cannot be used."""
    return InputError(f'the saved map cannot be used: {what}', 'bad_map')


def stored_array(
    state: Mapping[str, np.ndarray],
    name: str,
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
) -> np.ndarray:
    """An array of a state, C-contiguous.

    Args:
        state: as a map gave it, or as it came from a file.
        name: of the array.
        dtype: exactly.
        shape: where None allows any length.

    Raises:
        InputError: `bad_map` if it is missing, of another kind or shape, or not finite.
    """
    array = state.get(name)
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or array.ndim != len(shape)
        or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True))
    ):
        found = f'{array.dtype} {array.shape}' if isinstance(array, np.ndarray) else 'missing'
        wanted = f'{np.dtype(dtype)} {shape}'.replace('None', 'any')
        raise bad_map(f'"{name}" is {found}, not {wanted}; it is damaged or of another version')
    if array.dtype.kind == 'f' and not np.isfinite(array).all():
        raise bad_map(f'"{name}" is not finite; save the map anew')
    return np.asarray(array, order='C')


def stored_poses(
    state: Mapping[str, np.ndarray], name: str, count: int | None = None
) -> np.ndarray:  # -> [N, 4, 4]
    """Poses of a state, float64; any number unless a count is given.

    Raises:
        InputError: `bad_map` as `stored_array`, or if one of them is not rigid.
    """
    poses = stored_array(state, name, np.float64, (count, 4, 4))
    if not np.all(is_pose(poses)):
        raise bad_map(f'"{name}" holds matrices that are no poses; save the map anew')
    return poses


def settings_of(config: object, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Settings of a stage as a state holds them; see `check_settings`."""
    return {_SETTING + name: np.array(float(getattr(config, name))) for name in names}


def check_settings(
    state: Mapping[str, np.ndarray], stage: str, config: object, names: tuple[str, ...]
) -> None:
    """Refuse a state that was made with other settings.

    Args:
        state: holds them, see `settings_of`.
        stage: of the configuration, for the message.
        config: of the map that is to take the state.
        names: of the settings that must agree.

    Raises:
        InputError: `bad_map` that names the setting and both values.
    """
    for name in names:
        stored = float(stored_array(state, _SETTING + name, np.float64, ()))
        now = getattr(config, name)
        if abs(stored - now) > 1e-9 * abs(stored):
            raise bad_map(
                f'{stage}.{name} is {now:g}, but was {stored:g} when the map was saved; set it to '
                f'{stored:g} or start a new map'
            )
