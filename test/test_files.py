from __future__ import annotations

import os
import signal
import socket

import cv2
import numpy as np
import pytest
from test_map_files import small_state

from sharp_ros.errors import InputError
from sharp_ros.files import (
    new_folder,
    regular_file,
    replace_symlink,
    replacing,
    write_atomically,
)
from sharp_ros.gaussians import load_ply
from sharp_ros.images import read_image
from sharp_ros.mapping.map_files import load_map, save_map
from sharp_ros.sources import open_source
from sharp_ros.sources.lists import read_text


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


# --- what is no file ---------------------------------------------------------------------------


@pytest.fixture
def no_hanging():
    """Opening or reading what is no file would wait for ever."""

    def hangs(*_):
        raise AssertionError('it was opened')

    handler = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)


def named_pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # addresses are short
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path.name)
    os.chdir(here)


def device(path):
    path.symlink_to('/dev/zero')


KINDS = {'named pipe': named_pipe, 'socket': unix_socket, 'device': device}


def map_of(name):
    def read(path):
        folder = path.parent / 'map'
        save_map(folder, small_state())
        (folder / name).unlink()
        path.rename(folder / name)
        return load_map(folder)

    return read


READERS = {
    'image': read_image,
    'splat': load_ply,
    'text': read_text,
    'state.npz': map_of('state.npz'),
    'about.json': map_of('about.json'),
    'config.yaml': map_of('config.yaml'),
    'source': lambda path: open_source(str(path)),
    'bag': lambda path: open_source(str(path.rename(path.with_suffix('.mcap')))),
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('reader', READERS)
def test_what_is_no_file_is_refused_by_its_kind_before_it_is_opened(
    tmp_path, no_hanging, reader, kind
):
    path = tmp_path / 'given'
    KINDS[kind](path)
    with pytest.raises((InputError, OSError), match=kind):
        READERS[reader](path)


@pytest.mark.parametrize('kind', KINDS)
def test_an_image_in_a_folder_that_is_no_file_is_skipped(tmp_path, no_hanging, kind):
    KINDS[kind](tmp_path / 'a.png')
    cv2.imwrite(
        str(tmp_path / 'b.png'), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    )
    source = open_source(str(tmp_path))
    assert len(list(source.frames())) == 1
    assert source.stock.parts[0].skipped


def test_a_file_is_passed_on_as_a_path_also_through_a_link(tmp_path):
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'link').symlink_to('file')
    assert regular_file(str(tmp_path / 'link')).read_text() == 'x'
    assert regular_file(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError):
        regular_file(tmp_path / 'missing')
