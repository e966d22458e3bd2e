#!/bin/sh
# rosbags 0.11.9: one channel that is not of ROS makes an MCAP file unreadable, by a KeyError.
#
# MCAP lets every channel have an encoding of its own, and recorders use that: Foxglove's SDK writes
# protobuf or JSON beside what came from ROS. Its reader looks up the encoding of every schema in a
# table of four when the file is opened, whether or not anybody asks for that channel. So a file of
# 99 channels of CDR and one of JSON raises KeyError('jsonschema'), which is no ReaderError, and
# none of its messages can be read; the same file without that one channel reads well. A file whose
# header names no profile, which the specification allows, is refused likewise, if by name.
#
# Ends with 0 while this is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check rosbags==0.11.9 mcap==1.6.0
cat > "$folder/read.py" <<'PYTHON'
import sys

from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import Reader


def outcome(profile, foreign):
    path = f'{sys.argv[1]}/a.mcap'
    with open(path, 'wb') as file:
        writer = Writer(file, compression=CompressionType.NONE)
        writer.start(profile=profile)
        text = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data\n')
        channel = writer.register_channel('/chatter', 'cdr', text)
        if foreign:
            other = writer.register_schema('Position', 'jsonschema', b'{"type": "object"}')
            writer.register_channel('/gps', 'json', other)
        writer.add_message(channel, 1, b'\0\1\0\0\3\0\0\0hi\0', 1)
        writer.finish()
    try:
        with Reader(path) as reader:
            return sum(1 for _ in reader.messages())
    except Exception as error:
        return f'{type(error).__name__}: {error}'


expected = {
    'ROS alone': (outcome('ros2', False), 1),
    'one channel of JSON beside it': (outcome('ros2', True), "KeyError: 'jsonschema'"),
    'no profile': (outcome('', False), 'ReaderError: Profile is not ros2.'),
}
for name, (seen, _) in expected.items():
    print(f'{name}: {seen}')
sys.exit(any(seen != as_noted for seen, as_noted in expected.values()))
PYTHON
"$folder/venv/bin/python" "$folder/read.py" "$folder"
