"""One reading of numbers: a value behind `--set` is what the node makes of the same text."""

import pytest
import rclpy
from rclpy.node import Node

from sharp_ros.parameter_text import load_value

VALUES = [
    *('10', '1e1', '1.0e1', '1E+1', '1_0', '-3', '+3', '0x1F', '010', '1:30', '.5', '5.', '-.5'),
    *('1.5', '2e-3', 'true', 'True', 'false', 'text', '2020-01-01', '1.2.3', '"10"', '[1.0, 2.0]'),
    *('1e', '.', '0', '00', '1_000.5', 'e1'),
]


@pytest.fixture(scope='module')
def to_the_node():
    """What a node gets for each of the values."""
    arguments = [part for i, text in enumerate(VALUES) for part in ('-p', f'p{i}:={text}')]
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', *arguments])
    node = Node('values', context=context, automatically_declare_parameters_from_overrides=True)
    found = {text: node.get_parameter(f'p{i}').value for i, text in enumerate(VALUES)}
    node.destroy_node()
    rclpy.shutdown(context=context)
    return found


@pytest.mark.parametrize('text', VALUES)
def test_a_value_is_what_the_node_makes_of_it(text, to_the_node):
    expected, found = to_the_node[text], load_value(text)
    if isinstance(found, list):
        expected = list(expected)
    assert (type(found), found) == (type(expected), expected)
