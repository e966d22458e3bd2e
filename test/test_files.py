from __future__ import annotations

import pytest

from sharp_ros.files import new_folder, replace_symlink, replacing, write_atomically


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


def test_new_folder_appears_with_all_that_was_written(tmp_path):
    path = tmp_path / 'deep' / 'a'
    with new_folder(path) as folder:
        (folder / 'one').write_text('1')
        assert not path.exists()
    assert (path / 'one').read_text() == '1'
    assert list(path.parent.iterdir()) == [path]


def test_new_folder_takes_the_place_of_an_empty_one_and_of_no_other(tmp_path):
    path = tmp_path / 'a'
    path.mkdir()
    with new_folder(path) as folder:
        (folder / 'one').write_text('1')

    def again():
        with new_folder(path) as folder:
            (folder / 'two').write_text('2')

    with pytest.raises(OSError, match='not empty'):
        again()
    assert [file.name for file in path.iterdir()] == ['one']
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_no_folder_and_what_a_kill_left_is_not_in_the_next(tmp_path):
    path = tmp_path / 'a'
    left_over = tmp_path / '.a.partial'
    left_over.mkdir()
    (left_over / 'half').write_text('h')
    with new_folder(path) as folder:
        (folder / 'one').write_text('1')
    assert [file.name for file in path.iterdir()] == ['one']

    def fail():
        with new_folder(tmp_path / 'b') as folder:
            (folder / 'one').write_text('1')
            raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        fail()
    assert list(tmp_path.iterdir()) == [path]


def test_symlink_is_replaced_in_one_step_even_after_a_kill(tmp_path):
    link = tmp_path / 'latest'
    (tmp_path / '.latest.partial').symlink_to('half')
    for target in ('one', 'two'):
        replace_symlink(link, target)
        assert link.readlink().name == target
    assert list(tmp_path.iterdir()) == [link]
