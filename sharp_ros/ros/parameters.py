"""ROS parameters declared by walking `SharpConfig`, and the configuration read back from them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSPolicyKind

from sharp_ros.config import (
    describe,
    from_flat,
    Option,
    options,
    SharpConfig,
    VIEW_NAMES,
    ViewConfig,
)
from sharp_ros.errors import ConfigError

PARAMETERS_IN_A_ROW = 8  # take some milliseconds, a few times as long as looking for other work
# Parameters that rclpy or a launch file adds to any node.
_QOS = 'qos_overrides.'
_FOREIGN = ('use_sim_time', _QOS, 'start_type_description_service')


# What can be overridden of an input.
INPUT_POLICIES = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)


def declare_parameters(node: Node) -> None:
    """Declare every setting with its default, help text and range.

    The views to declare are taken from the parameter `view_names`.
    """
    by_key = {entry.key: entry for entry in options()}
    names = _declare(node, by_key.pop(VIEW_NAMES))
    for key, entry in by_key.items():
        if not key.startswith('views.'):
            _declare(node, entry)
    defaults = dict(SharpConfig().views)
    if isinstance(names, (list, tuple)):
        views = {str(n): defaults.get(str(n), ViewConfig()) for n in names if n}
        for entry in options(SharpConfig(views=views)):
            if entry.key.startswith('views.'):
                _declare(node, entry)


def is_ours(name: str) -> bool:
    """Whether a parameter is a setting of ours, not one of rclpy or a launch file."""
    return not name.startswith(_FOREIGN)


def read_config(node: Node, changes: list[Parameter] | None = None) -> SharpConfig:
    """The configuration the node's parameters describe, with `changes` applied on top.

    Raises:
        ConfigError: for an invalid value, or for a parameter given to the node that does not
            exist, so that a typing error in a file cannot pass for a setting.
    """
    given = getattr(node, '_parameter_overrides', {})
    unknown = [n for n in given if not node.has_parameter(n) and is_ours(n)]
    if unknown:
        raise ConfigError(_unknown(unknown))
    # pylint: disable=protected-access  (rclpy offers no public list of declared parameters)
    flat = {
        name: _plain(name, parameter.value)
        for name, parameter in node._parameters.items()
        if is_ours(name)
    }
    for parameter in changes or []:
        if is_ours(parameter.name):
            flat[parameter.name] = _plain(parameter.name, parameter.value)
    return from_flat(flat)


def parameter_changes(node: Node, given: list[Parameter[Any]]) -> tuple[list[Parameter[Any]], str]:
    """Those of some parameters that change something, and why they are refused, if they are.

    Overrides of QoS are declared by rclpy when their topic is made; until then they are kept for
    that moment.
    """
    changes: list[Parameter[Any]] = []
    unknown: list[str] = []
    for parameter in given:
        name = parameter.name
        if node.has_parameter(name):
            if not _same(node.get_parameter(name).value, parameter.value):
                changes.append(parameter)
        elif name.startswith(_QOS):
            # pylint: disable=protected-access  (where rclpy looks for them)
            node._parameter_overrides[name] = parameter
        else:
            unknown.append(name)
    return changes, _unknown(unknown) if unknown else ''


def serve_parameters(node: Node) -> None:
    """Have a request to set parameters neither keep images out nor end the node.

    rclpy sets parameters one after the other, with an event and all callbacks for each, in one go:
    a request of some thousands leaves no time to receive an image in. Here all other callbacks
    have their turn after every few. A value of a kind that rclpy does not know raises there.
    """

    def set_together(*messages: Any) -> SetParametersResult:
        try:
            parameters = [Parameter.from_parameter_msg(msg) for msg in messages]
        except ValueError as error:
            return SetParametersResult(successful=False, reason=f'bad parameter: {error}')
        return node.set_parameters_atomically(parameters)

    async def set_one_by_one(
        request: SetParameters.Request, response: SetParameters.Response
    ) -> SetParameters.Response:
        results: list[SetParametersResult] = []
        for number, msg in enumerate(request.parameters, 1):
            results.append(set_together(msg))
            if number % PARAMETERS_IN_A_ROW == 0:
                await _Others(node)
        response.results = results
        return response

    def set_atomically(
        request: SetParametersAtomically.Request, response: SetParametersAtomically.Response
    ) -> SetParametersAtomically.Response:
        response.result = set_together(*request.parameters)
        return response

    services = {service.srv_name.rpartition('/')[2]: service for service in node.services}
    services['set_parameters_atomically'].callback = set_atomically
    service = services['set_parameters']
    service.callback = set_one_by_one
    service.callback_group = MutuallyExclusiveCallbackGroup()  # else others wait for its end
    service.callback_group.add_entity(service)


class _Others:
    """Awaited by a callback until the executor has been through all that is ready."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __await__(self) -> Generator[None, None, None]:
        executor = self._node.executor
        assert executor is not None  # it runs the callback
        executor.wake()  # it waits for something else to happen
        yield


def overrides_without_effect(node: Node) -> list[str]:
    """Overrides of QoS that were given, and that no topic made so far has taken."""
    given = getattr(node, '_parameter_overrides', {})
    return sorted(n for n in given if n.startswith(_QOS) and not node.has_parameter(n))


def _unknown(names: list[str]) -> str:
    return f'unknown parameter(s) {", ".join(sorted(names))}; config/sharp.yaml lists all'


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one, of whatever kind of sequence."""
    if isinstance(one, (bool, int, float, str, type(None))):
        return type(one) is type(other) and one == other
    return not isinstance(other, (bool, int, float, str, type(None))) and [*one] == [*other]


def _declare(node: Node, entry: Option) -> Any:
    descriptor = ParameterDescriptor(description=describe(entry))
    if not entry.live:
        descriptor.additional_constraints = 'read when the node is configured'
    # ranges are for tools; whole numbers given for floats are accepted, hence dynamic typing
    descriptor.dynamic_typing = True
    bounds = (entry.minimum, entry.maximum)
    if entry.type == 'float' and None not in bounds:
        low, high = bounds
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif entry.type == 'int' and None not in bounds:
        low, high = bounds
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
    default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
    try:
        return node.declare_parameter(entry.key, default, descriptor).value
    except InvalidParameterValueException:  # out of range, which is reported at configure
        descriptor.floating_point_range = descriptor.integer_range = []
        return node.declare_parameter(entry.key, default, descriptor).value


def _plain(name: str, value: Any) -> Any:
    """Parameter arrays arrive as lists or `array.array`."""
    if value is None:
        raise ConfigError(f'{name} cannot be unset; give it a value, config/sharp.yaml has them')
    return value if isinstance(value, (bool, int, float, str)) else tuple(value)
