"""Whatever a recording holds, it is read or refused in words: bytes turned, cut, and put in."""

import random
import shutil

import pytest
import test_folder_recordings as folders
from test_sources import Bag, write_drive

from sharp_ros.errors import InputError
from sharp_ros.sources import open_source

SEEDS = range(12)
WORDS = (b'nan', b'null', b'-inf', b'{}', b'[]', b'""', b' 1e400 ', b'\n', b'\xff\xfe', b'x')


def harmed(data, rng):
    """Cut, some bytes turned or zeroed, or a word put in."""
    data = bytearray(data)
    how = rng.choice(['cut', 'turn', 'zero', 'word'])
    at = rng.randrange(len(data))
    if how == 'cut':
        del data[at:]
    elif how == 'turn':
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == 'zero':
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    else:
        data[at:at] = rng.choice(WORDS)
    return bytes(data)


def read_all(path):
    """Frames of a source; None if it was refused in words."""
    try:
        source = open_source(str(path))
        count = sum(1 for _ in source.frames())
    except InputError:
        return None
    assert source.stock.frames == count
    assert isinstance(list(source.stock.losses()), list)
    return count


@pytest.mark.parametrize('kind', ['mcap', 'bag'])
def test_a_damaged_bag_is_read_or_refused_in_words(tmp_path, kind):
    path = tmp_path / ('a.bag' if kind == 'bag' else 'a')
    with Bag(path, kind) as bag:
        write_drive(bag)
    file = path if kind == 'bag' else next(path.glob('*.mcap'))
    counts = []
    for seed in SEEDS:
        hurt = tmp_path / f'hurt{file.suffix}'
        hurt.write_bytes(harmed(file.read_bytes(), random.Random(seed)))
        counts.append(read_all(hurt))
    assert sum(count is not None for count in counts) >= len(SEEDS) / 2  # most is still there


@pytest.mark.parametrize(
    'write',
    [
        folders.write_tum,
        folders.write_scannet,
        folders.write_replica,
        folders.write_nerfstudio,
        folders.write_polycam,
        folders.write_record3d,
    ],
)
def test_a_damaged_text_is_read_or_refused_in_words(tmp_path, write):
    (tmp_path / 'whole').mkdir()
    write(tmp_path / 'whole')
    for seed in SEEDS:
        rng, hurt = random.Random(seed), tmp_path / f'hurt{seed}'
        shutil.copytree(tmp_path / 'whole', hurt)
        kinds = ('.txt', '.json', '.yaml')
        file = rng.choice(sorted(p for p in hurt.rglob('*') if p.suffix in kinds))
        file.write_bytes(harmed(file.read_bytes(), rng))
        read_all(hurt)


@pytest.mark.parametrize(
    ('name', 'text', 'reason'),
    [
        ('transforms.json', '[]', 'bad_json'),
        ('transforms.json', '{"frames": 5}', 'bad_layout'),
        ('transforms.json', '{"frames": [', 'bad_json'),
        ('transforms.json', '[' * 100_000, 'bad_json'),
    ],
)
def test_what_is_no_such_file_is_refused_with_its_reason(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path))
    assert caught.value.reason == reason


def test_a_named_depth_image_that_is_missing_is_a_loss(tmp_path):
    folders.write_nerfstudio(tmp_path)
    (tmp_path / 'depth/2.png').unlink()
    source = open_source(str(tmp_path))
    assert [frame.depth is None for frame in source.frames()] == [False, False, True, False, False]
    assert '2.png' in next(source.stock.losses())


def test_a_calibration_of_no_use_costs_the_calibration_alone(tmp_path):
    folders.write_replica(tmp_path)
    (tmp_path / 'cam_params.json').write_text('{"camera": {"fx": "wide"}}')
    source = open_source(str(tmp_path))
    assert len(list(source.frames())) == folders.N
    assert 'cam_params.json' in next(source.stock.losses())
    assert 'not calibrated' in source.note
