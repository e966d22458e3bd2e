"""Values of parameters as text, read as the node's own parser (rcl_yaml_param_parser) reads them.

PyYAML follows YAML 1.1 in what it takes for a number: `1e1` and `1.0e1` are text to it, and `1_0`
and `1:30` are numbers. A setting shall mean the same in a file, behind `--set` and to the node.
"""

from __future__ import annotations

from functools import cache
import re
from typing import Any

_INT = re.compile(r'[-+]?(?:0x[0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)$')
_FLOAT = re.compile(
    r'(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?'
    r'|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$'
)
_NUMBERS = ('tag:yaml.org,2002:int', 'tag:yaml.org,2002:float')
_TEXT = 'tag:yaml.org,2002:timestamp'  # dates are text to the node


@cache
def _loader() -> type[Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """With the numbers of rcl."""

    kept = {
        first: [pair for pair in pairs if pair[0] not in (*_NUMBERS, _TEXT)]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.yaml_implicit_resolvers = kept
    for tag, pattern in zip(_NUMBERS, (_INT, _FLOAT), strict=True):
        Loader.add_implicit_resolver(tag, pattern, list('-+0123456789.'))
    return Loader


def number(text: str) -> float:
    """A number on the command line, by the same reading.

    Raises:
        ValueError: if it is none.
    """
    if text.lstrip('+-') in ('nan', 'inf'):  # which ranges refuse by the name of the flag
        return float(text)
    if not (_INT.match(text) or _FLOAT.match(text)):
        raise ValueError(f'{text!r} is no number')
    return float(load_value(text))


def whole_number(text: str) -> int:
    """Likewise one without a fraction.

    Raises:
        ValueError: if it is none.
    """
    if not _INT.match(text):
        raise ValueError(f'{text!r} is no whole number')
    return int(load_value(text))


def load_value(text: str) -> Any:
    """The value that YAML text has to the node.

    Raises:
        yaml.YAMLError: if it is no YAML.
    """
    loader = _loader()(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
