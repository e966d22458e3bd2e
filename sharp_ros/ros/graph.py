"""Why a topic brings nothing, as far as the graph of ROS tells: name, type, quality of service."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import qos_check_compatible, QoSCompatibility, QoSProfile

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # humble
    from rclpy.qos_event import SubscriptionEventCallbacks

__all__ = ['SubscriptionEventCallbacks', 'why_silent']
_COMPRESSED = 'sensor_msgs/msg/CompressedImage'


def why_silent(node: Node, topic: str, kind: str, qos: QoSProfile) -> str:
    """What is wrong with the publishers of a topic, and what to do; empty if nothing is.

    Args:
        node: that subscribes.
        topic: fully qualified, after remapping.
        kind: type we subscribe with, such as `sensor_msgs/msg/Image`.
        qos: of our subscription.
    """
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f'nobody publishes on {topic}; remap the topic, or start the camera'
    kinds = {publisher.topic_type for publisher in publishers}
    if kind not in kinds:
        named = ', '.join(sorted(kinds))
        cure = 'remap it to another topic'
        if _COMPRESSED in (kind, *kinds):
            wanted = 'compressed' if _COMPRESSED in kinds else 'raw'
            cure = f'set camera.transport: {wanted}, or {cure}'
        return f'{topic} brings {named}, not {kind}; {cure}'
    for publisher in publishers:
        verdict, reason = qos_check_compatible(publisher.qos_profile, qos)
        if publisher.topic_type == kind and verdict == QoSCompatibility.ERROR:
            return (
                f'{publisher.node_name} publishes on {topic} with a quality of service that does '
                f'not suit ours ({reason.strip()}); change its own, or ours with '
                f'qos_overrides.{topic}.subscription.*'
            )
    return ''
