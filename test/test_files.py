from __future__ import annotations

import pytest

from sharp_ros.files import replacing, write_atomically


def test_the_new_contents_replace_the_old_and_nothing_else_remains(tmp_path):
    path = tmp_path / 'a.json'
    write_atomically(path, 'Maß')
    write_atomically(path, b'new')
    assert path.read_bytes() == b'new'
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_contents_until_all_is_written(tmp_path):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')
    with replacing(path) as file:
        file.write(b'half')
        assert path.read_bytes() == b'old'
    assert path.read_bytes() == b'half'


def test_an_error_leaves_the_old_contents_and_no_part(tmp_path):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')

    def fail():
        with replacing(path) as file:
            file.write(b'half')
            raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        fail()
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]
