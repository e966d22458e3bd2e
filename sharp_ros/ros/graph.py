"""Why a subscription receives nothing, from the ROS graph: name, type, quality of service."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    qos_check_compatible,
    QoSCompatibility,
    ReliabilityPolicy,
)
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # humble
    from rclpy.qos_event import SubscriptionEventCallbacks

__all__ = ['SubscriptionEventCallbacks', 'latched_by', 'publishers_of', 'why_silent']
_COMPRESSED = 'sensor_msgs/msg/CompressedImage'


def publishers_of(node: Node, topic: str) -> str:
    """`, published by /a, /b`, of a topic; empty where the graph knows none.

    Args:
        node: that asks.
        topic: resolved name.
    """
    found = node.get_publishers_info_by_topic(topic)
    names = {f'{p.node_namespace.rstrip("/")}/{p.node_name}' for p in found}
    return f', published by {", ".join(sorted(names))}' if names else ''


def latched_by(node: Node, topic: str) -> bool:
    """Whether somebody keeps the newest message of a topic for subscribers that come later.

    Args:
        node: that asks.
        topic: resolved name.
    """
    return any(
        p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        and p.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        for p in node.get_publishers_info_by_topic(topic)
    )


def why_silent(node: Node, subscription: Subscription) -> str:
    """What is wrong with the publishers of a topic, and what to do; empty if nothing is.

    Args:
        node: that subscribes.
        subscription: to that topic.
    """
    topic, msg_type = subscription.topic_name, subscription.msg_type
    kind = f'{msg_type.__module__.split(".")[0]}/msg/{msg_type.__name__}'
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f'no publisher on {topic}; remap the topic, or start the camera'
    kinds = {publisher.topic_type for publisher in publishers}
    if kind not in kinds:
        named = ', '.join(sorted(kinds))
        cure = 'remap it to another topic'
        if _COMPRESSED in (kind, *kinds):
            wanted = 'compressed' if _COMPRESSED in kinds else 'raw'
            cure = f'set camera.transport: {wanted}, or {cure}'
        return f'{topic} has type {named}, not {kind}; {cure}'
    for publisher in publishers:
        verdict, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
        if publisher.topic_type == kind and verdict == QoSCompatibility.ERROR:
            return (
                f'{publisher.node_name} publishes on {topic} with a QoS incompatible with ours '
                f'({reason.strip()}); change its own, or ours with '
                f'qos_overrides.{topic}.subscription.*'
            )
    return ''
