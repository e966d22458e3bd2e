"""The stock of a recording: `sharp-ros inspect`, exit codes, and the documented reasons."""

import json
from pathlib import Path
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from test_folder_recordings import N, write_tum, write_video
from test_sources import Bag, depth_of, pattern, START_NS, write_drive

from sharp_ros.apps.cli import main
from sharp_ros.errors import InputError
from sharp_ros.sources.stock import Part, REASONS, Stock

DOCS = Path(__file__).parents[1] / 'docs/recordings.md'


def test_the_documented_reasons_are_those_that_exist():
    rows = re.findall(r'^\| `(\w+)` \| (.+) \| (yes|no) \|$', DOCS.read_text(), re.MULTILINE)
    assert {key: (meaning, loss == 'yes') for key, meaning, loss in rows} == REASONS


def test_every_reason_in_the_code_is_documented():
    folder = Path(__file__).parents[1] / 'sharp_ros/sources'
    text = '\n'.join(file.read_text() for file in folder.glob('*.py'))
    used = re.findall(r"\.(?:skip|unused)\(\s*'(\w+)'", text)
    assert len(used) > 15
    assert set(used) <= set(REASONS)


@pytest.fixture
def drive(tmp_path):
    with Bag(tmp_path / 'drive') as bag:
        write_drive(bag)
    return str(tmp_path / 'drive')


def test_a_whole_recording_is_shown_with_exit_code_0(drive, capsys):
    assert main(['inspect', drive]) == 0
    shown = capsys.readouterr()
    for text in ('bag: ', '/front/image_raw', 'camera', '/odom', 'poses', 'calibration'):
        assert text in shown.out
    assert shown.err == ''


def test_what_is_lost_is_named_with_exit_code_3(tmp_path, capsys):
    write_tum(tmp_path)
    with (tmp_path / 'groundtruth.txt').open('a') as file:
        file.write('\nthis is no pose')
    assert main(['inspect', str(tmp_path), '--json']) == 3
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    parts = {part['name']: part for part in report['parts']}
    assert parts['groundtruth.txt']['skipped'] == {'bad_line': 1}
    assert parts['groundtruth.txt']['examples'] == {'bad_line': ['groundtruth.txt:6']}
    assert parts['rgb.txt']['count'] == N
    assert parts['rgb.txt']['begin_ns'] == START_NS
    assert parts['rgb.txt']['gap_s'] == pytest.approx(0.1)
    assert 'groundtruth.txt:6' in report['losses'][0]
    assert 'warning: not used: groundtruth.txt' in shown.err


def test_a_view_of_what_was_lost_ends_with_exit_code_3(tmp_path, monkeypatch, capsys):
    def play(source, pipeline, stop, say):
        assert len(list(source.frames())) == N

    monkeypatch.setattr('sharp_ros.web.playback.play', play)
    write_tum(tmp_path)
    assert main(['view', str(tmp_path), '--model', 'sensor']) == 0
    with (tmp_path / 'groundtruth.txt').open('a') as file:
        file.write('\nthis is no pose')
    assert main(['view', str(tmp_path), '--model', 'sensor']) == 3
    assert 'warning: not used: groundtruth.txt' in capsys.readouterr().err


def test_thumbnails_show_images_over_their_depth(drive, tmp_path, capsys):
    strip = tmp_path / 'strip.png'
    assert main(['inspect', drive, '-o', str(strip)]) == 0
    assert f'wrote {strip}' in capsys.readouterr().out.replace('\n', '')
    picture = cv2.cvtColor(cv2.imread(str(strip)), cv2.COLOR_BGR2RGB)
    assert picture.shape == (2 * 180, 4 * 240, 3)
    for i in range(4):
        tile = cv2.resize(picture[:180, 240 * i : 240 * (i + 1)], (160, 120))
        assert np.abs(tile.astype(int) - pattern(i)).mean() < 3
    nearest, farthest = picture[270, 120].astype(int), picture[270, 840].astype(int)
    assert np.abs(nearest - farthest).max() == 0  # each image has a range of its own
    assert depth_of(0)[0, 0] != depth_of(3)[0, 0]


def test_map_and_eval_end_with_3_when_a_part_was_lost(tmp_path, capsys):
    write_tum(tmp_path / 'a')
    rows = (tmp_path / 'a/groundtruth.txt').read_text()
    for harm, code in (('', 0), ('\n5 nan nan nan 0 0 0 1', 3)):
        (tmp_path / 'a/groundtruth.txt').write_text(rows + harm)
        line = ['--model', 'sensor', '--json', str(tmp_path / 'report.json')]
        assert main(['eval', 'depth', str(tmp_path / 'a'), *line]) == code
        report = json.loads((tmp_path / 'report.json').read_text())
        assert len(report['stock']['losses']) == bool(code)
        assert ('groundtruth.txt' in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    'flags', [['--pose-offset', '111.7'], ['--set', 'pose.time_offset=111.7']]
)
def test_map_takes_the_offset_of_the_poses_from_flag_or_settings(tmp_path, flags, monkeypatch):
    with Bag(tmp_path / 'a') as bag:
        write_drive(bag)
    seen = []

    def opened(*_, **options):
        seen.append(options['pose_offset'])
        raise InputError('enough', 'enough')

    monkeypatch.setattr('sharp_ros.sources.open_source', opened)
    assert main(['map', str(tmp_path / 'a'), '-o', str(tmp_path / 'out'), *flags]) == 1
    assert seen == [111.7]


def test_the_model_sensor_is_refused_before_the_first_frame_of_what_has_no_depth(
    tmp_path, capsys, monkeypatch
):
    write_tum(tmp_path / 'a')
    (tmp_path / 'a/depth.txt').unlink()
    monkeypatch.setattr('sharp_ros.pipeline.Pipeline.process', lambda *_: pytest.fail('ran'))
    line = ['map', str(tmp_path / 'a'), '-o', str(tmp_path / 'out'), '--model', 'sensor']
    assert main(line) == 1
    assert 'needs measured depth' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('flag', 'value'),
    [('--pose-offset', 'soon'), ('--association', '-1'), ('--hfov', '200')],
)
def test_impossible_options_are_refused_by_name(drive, flag, value, capsys):
    assert main(['inspect', drive, f'{flag}={value}']) == 1
    assert flag in capsys.readouterr().err


def test_counts_begin_anew_when_frames_are_read_again():
    stock = Stock('a', 'test')
    part = stock.add(Part('x', 'image', 3))
    part.skip('damaged', 'before')
    stock.mark()
    for _ in range(2):
        stock.restart()
        stock.add(Part('late', 'file')).skip('truncated', 'found while reading')
        part.skip('damaged', 'while reading')
    assert part.skipped == {'damaged': 2}
    assert [p.name for p in stock.parts] == ['x', 'late']


def test_other_cameras_and_other_data_are_no_loss_but_shown():
    stock = Stock('a', 'test')
    stock.add(Part('b', 'image', 3)).unused('not_chosen', '--image-topic b')
    stock.add(Part('c', 'other', 3)).unused('no_use')
    stock.add(Part('d', 'depth', 3)).unused('not_registered', 'it is in e')
    assert list(stock.losses()) == [f'd: {REASONS["not_registered"].meaning} (it is in e)']


LIBRARIES = """
import sys
from sharp_ros.sources import open_source
for path in sys.argv[1:]:
    list(open_source(path).frames())
"""


def test_libraries_write_nothing_about_damaged_images_and_videos(tmp_path):
    """Into the terminal of somebody who has read our line about it already."""
    write_tum(tmp_path / 'tum')
    for name in ('rgb/1.png', 'depth/2.png'):
        data = bytearray((tmp_path / 'tum' / name).read_bytes())
        data[80:100] = bytes(20)
        (tmp_path / 'tum' / name).write_bytes(data)
    with Bag(tmp_path / 'bag') as bag:
        for i, ending in enumerate(('.png', '.jpg', '.png')):
            data = bytearray(cv2.imencode(ending, pattern(i))[1].tobytes())
            if i < 2:
                data[400:420] = bytes(20)
            bag.compressed('/image', bytes(data), START_NS + i)
    video = write_video(tmp_path / 'a.avi', np.arange(50) / 25, codec='mpeg4', ticks=25)
    video.write_bytes(video.read_bytes()[: int(0.6 * video.stat().st_size)])
    paths = [str(tmp_path / name) for name in ('tum', 'bag', 'a.avi')]
    command = [sys.executable, '-c', LIBRARIES, *paths]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout == ''
    ours = ('frame skipped:', 'image skipped:', 'could be decoded')
    lines = ended.stderr.splitlines()
    assert len(lines) >= 3
    assert [line for line in lines if not any(text in line for text in ours)] == []
