"""Writes small MCAP files as recorders other than rosbag2 do: any encoding, any container options.

By the specification (https://mcap.dev/spec), independently of the reader that it tests.
"""

import struct
import zlib

from backports import zstd
import lz4.frame
from rosbags.typesys import get_typestore, Stores

STORE = get_typestore(Stores.ROS2_HUMBLE)
_COMPRESS = {'': bytes, 'lz4': lz4.frame.compress, 'zstd': zstd.compress}


def _text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack('<I', len(data)) + data


def _record(op, body):
    return struct.pack('<BQ', op, len(body)) + body


class McapFile:
    """Collects channels and messages; `write` makes the file.

    Args:
        profile: of the header; `ros2` where rosbag2 wrote it.
    """

    def __init__(self, profile=''):
        self.profile = profile
        self.channels, self.messages = [], []

    def channel(self, topic, schema, encoding, schema_encoding, definition=b''):
        self.channels.append((topic, schema, encoding, schema_encoding, definition))
        return len(self.channels) - 1

    def ros2(self, topic, kind):
        """A channel of CDR messages with their definition."""
        return self.channel(topic, kind, 'cdr', 'ros2msg', STORE.generate_msgdef(kind)[0].encode())

    def add(self, channel, time_ns, data):
        self.messages.append((channel, time_ns, bytes(data)))

    def add_ros2(self, channel, time_ns, message):
        self.add(channel, time_ns, STORE.serialize_cdr(message, message.__msgtype__))

    def write(self, path, compression='', per_chunk=4, index=True):
        """Without `index` neither message indices nor a summary, as of a stream."""
        definitions = b''
        for i, (topic, schema, encoding, form, definition) in enumerate(self.channels):
            body = struct.pack('<H', i + 1) + _text(schema) + _text(form) + _text(definition)
            definitions += _record(3, body)
            metadata = struct.pack('<I', 0)
            body = struct.pack('<HH', i, i + 1) + _text(topic) + _text(encoding) + metadata
            definitions += _record(4, body)
        out = b'\x89MCAP0\r\n' + _record(1, _text(self.profile) + _text('test'))
        if not per_chunk:
            out += definitions + b''.join(self._message(m) for m in self.messages)
        for begin in range(0, len(self.messages) if per_chunk else 0, per_chunk or 1):
            out += self._chunk(begin, per_chunk, definitions, compression, index)
        out += _record(15, struct.pack('<I', 0))
        summary = len(out) if index else 0
        out += definitions if index else b''
        out += _record(2, struct.pack('<QQI', summary, 0, 0)) + b'\x89MCAP0\r\n'
        path.write_bytes(out)
        return path

    @staticmethod
    def _message(message):
        channel, time, data = message
        return _record(5, struct.pack('<HIQQ', channel, 0, time, time) + data)

    def _chunk(self, begin, count, definitions, compression, index):
        part = self.messages[begin : begin + count]
        records, entries = definitions if begin == 0 else b'', {}
        for message in part:
            entries.setdefault(message[0], []).append((message[1], len(records)))
            records += self._message(message)
        packed = _COMPRESS[compression](records)
        times = [m[1] for m in part]
        head = struct.pack('<QQQI', min(times), max(times), len(records), zlib.crc32(records))
        out = _record(6, head + _text(compression) + struct.pack('<Q', len(packed)) + packed)
        for channel, places in entries.items() if index else ():
            data = b''.join(struct.pack('<QQ', *place) for place in places)
            out += _record(7, struct.pack('<H', channel) + _text(data))
        return out
