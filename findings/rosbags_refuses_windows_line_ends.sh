#!/bin/sh
# rosbags 0.11.9: one message definition with Windows line ends closes a whole bag to AnyReader.
#
# rosbags 0.11.9, mcap 1.6.0, mcap-ros2-support 0.6.0, CPython 3.11, x86-64.
#
# A recorder writes the text of a .msg file into the bag as it is, and a package from a repository that was
# checked out on Windows has "\r\n" in it; the parser of ROS, which mcap-ros2-support brings, reads
# that. A good guess: line ends do not matter, or the topics of that type alone are lost. In truth
# `AnyReader`, which makes types of all definitions when it opens a bag, ends with AnyReaderError
# and gives none of the other topics either. The plain `Reader` of the same library opens it, and
# AnyReader does where a single space stands for the "\r".
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check \
    rosbags==0.11.9 mcap==1.6.0 mcap-ros2-support==0.6.0
cat > "$folder/read.py" <<'PYTHON'
from pathlib import Path
import sys

from mcap.reader import make_reader
from mcap.writer import Writer
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

path = Path(sys.argv[1]) / 'bag.mcap'


def written(end):
    with path.open('wb') as file:
        writer = Writer(file)
        writer.start(profile='ros2')
        for topic, kind, text, data in (
            ('/chatter', 'std_msgs/msg/String', 'string data\n', b'\3\0\0\0hi\0'),
            ('/wheel', 'robot_msgs/msg/Wheel', f'int32 ticks{end}int32 slip{end}', bytes(8)),
        ):
            schema = writer.register_schema(kind, 'ros2msg', text.encode())
            channel = writer.register_channel(topic, 'cdr', schema)
            writer.add_message(channel, 1, b'\0\1\0\0' + data, 1)
        writer.finish()


def any_reader():
    with AnyReader([path]) as reader:
        chosen = [c for c in reader.connections if c.topic == '/chatter']
        return [reader.deserialize(d, c.msgtype).data for c, _, d in reader.messages(chosen)]


def plain_reader():
    with Reader(path) as reader:
        return sum(1 for _ in reader.messages())


def mcap_support():
    with path.open('rb') as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return [message.slip for *_, message in reader.iter_decoded_messages(topics=['/wheel'])]


def outcome(read, end):
    written(end)
    try:
        return read()
    except Exception as error:
        return type(error).__name__


expected = {
    'AnyReader, \\n': (outcome(any_reader, '\n'), ['hi']),
    'AnyReader, space and \\n': (outcome(any_reader, ' \n'), ['hi']),
    'AnyReader, \\r\\n': (outcome(any_reader, '\r\n'), 'AnyReaderError'),
    'Reader, \\r\\n': (outcome(plain_reader, '\r\n'), 2),
    'mcap-ros2-support, \\r\\n': (outcome(mcap_support, '\r\n'), [0]),
}
for name, (seen, _) in expected.items():
    print(f'{name}: {seen}')
sys.exit(any(seen != as_noted for seen, as_noted in expected.values()))
PYTHON
"$folder/venv/bin/python" "$folder/read.py" "$folder"
