"""Check shared by all weight files: one of another network is refused by the first difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from sharp_ros.errors import CheckpointError


def check_layout(
    path: str | Path, found: Mapping[str, Sequence[int]], expected: Mapping[str, Tensor], name: str
) -> None:
    """Compare names and shapes of tensors.

    Args:
        path: of the file, for the message.
        found: shapes in the file.
        expected: the state of the network it shall be loaded into.
        name: of that network.

    Raises:
        CheckpointError: naming the first tensors that differ.
    """
    missing = [n for n in expected if n not in found]
    unknown = [n for n in found if n not in expected]
    reshaped = [n for n in expected if n in found and list(found[n]) != list(expected[n].shape)]
    kinds = (('missing', missing), ('unknown', unknown), ('of another shape', reshaped))
    parts = [
        f'{title} {", ".join(_printable(n) for n in names[:3])}{" ..." if len(names) > 3 else ""}'
        for title, names in kinds
        if names
    ]
    if parts:
        raise CheckpointError(
            f'{path} holds another network: {"; ".join(parts)}; give the weights of {name}'
        )


def _printable(name: str) -> str:
    """A name from a file, whatever it is, as a short part of one line."""
    return name.encode('unicode_escape').decode()[:100]
