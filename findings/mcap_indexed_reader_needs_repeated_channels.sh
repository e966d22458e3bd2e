#!/bin/sh
# mcap 1.6.0: its indexed reader ends with a KeyError on files of its own writer.
#
# The summary of an MCAP file may repeat schemas and channels of the data section, and need not; the
# writer has options for both (repeat_schemas, repeat_channels). `make_reader` on a file that can be
# sought looks for them in the summary alone, so a file that was written without raises KeyError at
# its first message, though its chunks hold all channels, its index is whole, and `NonSeekingReader`
# reads all of it. The error is no McapError.
#
# Ends with 0 while this is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check mcap==1.6.0
cat > "$folder/read.py" <<'PYTHON'
import io
import sys

from mcap.reader import make_reader, NonSeekingReader
from mcap.writer import Writer


def written(**options):
    file = io.BytesIO()
    writer = Writer(file, **options)
    writer.start(profile='ros2')
    text = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data\n')
    channel = writer.register_channel('/chatter', 'cdr', text)
    for i in range(20):
        writer.add_message(channel, i, b'\0\1\0\0\3\0\0\0hi\0', i)
    writer.finish()
    return io.BytesIO(file.getvalue())


def outcome(kind, file):
    try:
        return sum(1 for _ in kind(file).iter_messages())
    except Exception as error:
        return f'{type(error).__name__}: {error}'


expected = {
    'as by default': (outcome(make_reader, written()), 20),
    'channels not repeated': (outcome(make_reader, written(repeat_channels=False)), 'KeyError: 1'),
    'schemas not repeated': (outcome(make_reader, written(repeat_schemas=False)), 'KeyError: 1'),
    'the same, in order': (outcome(NonSeekingReader, written(repeat_channels=False)), 20),
}
for name, (seen, _) in expected.items():
    print(f'{name}: {seen}')
sys.exit(any(seen != as_noted for seen, as_noted in expected.values()))
PYTHON
"$folder/venv/bin/python" "$folder/read.py"
