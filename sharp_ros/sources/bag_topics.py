"""Which topics of a bag are the camera, its calibration and its depth."""

from __future__ import annotations

from collections.abc import Sequence
import copy
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
import re
from typing import Any, Literal

from sharp_ros.depth_codecs import is_depth_format
from sharp_ros.errors import InputError
from sharp_ros.ros.conversions import stamp_ns_from_msg
from sharp_ros.sources.recording import Recording, Topic

Content = Literal['colour', 'grey', 'grey16', 'depth']
_PEEKED = 12  # messages of a topic that are looked at: enough to see a clock that stands still
_GREY16 = ('mono16', '16UC1', 'mono12', 'mono10')
# Words of a topic's name that say it shows something other than what a colour camera sees.
_OTHER = re.compile(
    r'mask|debug|label|segment|semantic|instance|thermal|lwir|infra|(^|[/_])ir\d?([/_]|$)|heat|'
    r'overlay|annotat|result|detection|confidence|dispar|optical_flow|edges|costmap'
)
_THERMAL = re.compile(r'thermal|lwir|infra|(^|[/_])ir\d?([/_]|$)|amplitude|intensity')
_COLOUR = re.compile(r'rgb|colou?r')


@dataclass(frozen=True)
class Looked:
    """What the first messages of an image topic show.

    Attributes:
        topic: whose.
        content: what its pixels are.
        frame_id: of its first message.
        size: (width, height) as its header says; None where it is compressed.
        stamps_ns: of the headers of the first messages.
        times_ns: when those were recorded.
    """

    topic: Topic
    content: Content
    frame_id: str
    size: tuple[int, int] | None
    stamps_ns: tuple[int, ...]
    times_ns: tuple[int, ...]

    @property
    def standing(self) -> bool:
        """Whether the stamps are of no use: all zero, or repeated."""
        stamps = self.stamps_ns
        repeated = len(stamps) > 1 and 2 * len(set(stamps)) <= len(stamps)
        return repeated or not any(stamps)

    @property
    def rank(self) -> tuple[bool, ...]:
        """Sorts the most likely camera first."""
        name = self.topic.name.lower()
        return (
            bool(_OTHER.search(name)),
            self.content != 'colour',
            self.content != 'grey',
            not _COLOUR.search(name),
            self.topic.role != 'raw',
        )


def look_at(recording: Recording, topic: Topic) -> Looked | None:
    """What the first messages of an image topic show; None if none can be decoded."""
    first: Any = None
    stamps: list[int] = []
    times: list[int] = []
    skipped = topic.part.skipped.copy(), copy.deepcopy(topic.part.examples)
    for _, time, message in islice(recording.messages(topic), _PEEKED):
        first = message if first is None else first
        stamps.append(stamp_ns_from_msg(message.header))
        times.append(time)
    if first is None:
        return None
    topic.part.skipped, topic.part.examples = skipped  # they are counted when all are read
    form = getattr(first, 'encoding', None)
    size = None if form is None else (int(first.width), int(first.height))
    return Looked(
        topic,
        _content(topic, first),
        first.header.frame_id.lstrip('/'),
        size,
        tuple(stamps),
        tuple(times),
    )


def _content(topic: Topic, message: Any) -> Content:
    name = topic.name.lower()
    encoding = getattr(message, 'encoding', None)
    if encoding is None:
        form = message.format
        encoding = form.partition(';')[0].strip()
        if 'compressedDepth' in form or name.endswith('/compresseddepth'):
            return 'depth'
        if not is_depth_format(form) and encoding not in _GREY16:
            return 'grey' if encoding in ('mono8', '8UC1') else 'colour'
    if encoding == '32FC1':
        return 'depth'
    if encoding in _GREY16:
        if _THERMAL.search(name):
            return 'grey16'
        return 'depth' if encoding == '16UC1' or 'depth' in name else 'grey16'
    return 'grey' if encoding in ('mono8', '8UC1') else 'colour'


def choose_image(
    path: Path, recording: Recording, wanted: str | None
) -> tuple[Looked, list[Looked]]:
    """The image topic, and all others that show images or depth.

    Raises:
        InputError: `no_image_topic`, with what there is instead.
    """
    found: list[Looked] = []
    for topic in recording.of('raw', 'compressed', 'video'):
        looked = look_at(recording, topic)
        if looked is not None:
            found.append(looked)
            topic.part.kind = 'depth' if looked.content == 'depth' else 'image'
    images = [looked for looked in found if looked.content != 'depth']
    named = [looked for looked in found if _is_named(looked.topic.name, wanted)]
    if wanted is not None and named and named[0].content == 'depth':
        raise InputError(
            f'{wanted} of bag {path} holds depth, not images; name an image topic',
            'no_image_topic',
        )
    candidates = named if wanted is not None else images
    if not candidates:
        near = '' if wanted is None else _similar(wanted, [i.topic.name for i in images])
        present = ', '.join(f'{t.name} ({t.msgtype})' for t in recording.topics) or 'no messages'
        what = wanted or 'sensor_msgs/Image or CompressedImage'
        unread = [topic.part.example for topic in recording.of('raw', 'compressed', 'video')]
        causes = dict.fromkeys((*unread, *recording.faults()))
        why = ''.join(f'; {cause}' for cause in causes if cause)
        raise InputError(
            f'bag {path} has no image topic {what}{near}; it holds {present}{why}; name an image '
            'topic or record one',
            'no_image_topic',
        )
    most = max(len(c.topic.times_ns) for c in candidates)
    beside = {c.topic.name for c in candidates if _infos(recording, c, images)}
    chosen = min(
        candidates,
        key=lambda c: (
            c.rank[:3],
            10 * len(c.topic.times_ns) < most,  # a snapshot topic beside a camera
            c.rank[3:],
            c.topic.name not in beside,
            c.topic.name,
        ),
    )
    others = [looked for looked in found if looked is not chosen]
    for other in others:
        if other.content != 'depth':
            other.topic.part.unused('not_chosen', f'--image-topic {other.topic.name}')
    return chosen, others


def _is_named(name: str, wanted: str | None) -> bool:
    return wanted is not None and name.strip('/') == wanted.strip('/')


def _similar(wanted: str, names: Sequence[str]) -> str:
    near = [*get_close_matches(wanted, names, 1), *(n for n in names if wanted.strip('/') in n)]
    return f' (did you mean {near[0]}?)' if near else ''


def choose_info(recording: Recording, chosen: Looked, others: Sequence[Looked]) -> Topic | None:
    """The calibration of an image topic."""
    images = [chosen, *(o for o in others if o.content != 'depth')]
    infos = _infos(recording, chosen, images)
    for topic in recording.of('info'):
        if topic not in infos[:1]:
            topic.part.unused('not_chosen', 'of another camera')
    return next(iter(infos), None)


def _infos(recording: Recording, looked: Looked, images: Sequence[Looked]) -> list[Topic]:
    """Topics that may calibrate an image topic, the most likely first.

    `camera/image_raw`, `camera/image_raw/compressed` and `camera/camera_info` belong together, and
    `camera/image/data` and `camera/info/camera_info`; else what is in the same frame does, and
    where there is one of each, those do.
    """
    infos = recording.of('info')
    above = {topic.name: _shared(topic.name, looked.topic.name) for topic in infos}
    near = sorted((t for t in infos if above[t.name]), key=lambda t: -above[t.name])
    if near:
        return near
    first = {t.name: next(recording.messages(t), None) for t in infos}
    same = [
        topic
        for topic in infos
        if (entry := first[topic.name]) is not None
        and looked.frame_id
        and entry[2].header.frame_id.lstrip('/') == looked.frame_id
    ]
    return same or (infos if len(infos) == 1 else [])


def _shared(info: str, image: str) -> int:
    """Depth of the name below which a camera_info calibrates an image topic; 0 if it does not."""
    parent = [part for part in info.split('/') if part][:-1]
    if parent[-1:] == ['info']:
        parent = parent[:-1]
    above = [part for part in image.split('/') if part]
    return len(parent) if 0 < len(parent) < len(above) and above[: len(parent)] == parent else 0


def choose_depth(chosen: Looked, others: Sequence[Looked]) -> Looked | None:
    """Depth in the frame of the camera, which is registered to it; any other is not."""
    depths = [other for other in others if other.content == 'depth']
    fit = [d for d in depths if d.frame_id == chosen.frame_id]
    same = [d for d in fit if None in (d.size, chosen.size) or d.size == chosen.size]
    best = min(same or fit, key=lambda d: (d.topic.role != 'raw', d.topic.name), default=None)
    for depth in depths:
        if depth is best:
            continue
        if best is not None:
            depth.topic.part.unused('not_chosen', f'{best.topic.name} is used')
        else:
            depth.topic.part.unused(
                'not_registered',
                f'it is in {depth.frame_id or "a frame without name"}, the camera in '
                f'{chosen.frame_id or "one without name"}',
            )
    return best
