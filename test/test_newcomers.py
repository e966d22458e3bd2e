"""Command lines as newcomers write them: what is wrong is named, with what to give instead."""

import json
from pathlib import Path
import runpy
import sys

import pytest
from test_folder_recordings import write_tum, write_video
from test_sources import Bag, write_drive

from sharp_ros.apps.cli import main
from sharp_ros.parameter_text import number, whole_number


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with one of each kind of recording, in which the command is given."""
    monkeypatch.chdir(tmp_path)
    write_tum(tmp_path / 'tum')
    with Bag(tmp_path / 'bag') as bag:
        write_drive(bag)
    write_video(tmp_path / 'video.mp4', [i / 10 for i in range(4)])


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('inspect tmu', 'did you mean tum?'),
        ('inspect vidoe.mp4', 'did you mean video.mp4?'),
        ('inspect tum --image-topic /x', 'is for bags, and tum is none'),
        ('inspect bag --image-topic image', 'did you mean /front/image_raw?'),
        ('inspect bag --image-topic /front/image_rw', 'did you mean /front/image_raw?'),
        ('inspect tum --pose-offset 1_0', '--pose-offset must be seconds'),
        ('inspect tum/camera.yaml', 'is text; give the folder'),
        ('inspect tum/groundtruth.txt', 'is text; give'),
        ('inspect bag/metadata.yaml', 'is text; give the folder'),
        ('inspect tum/depth', 'holds depth, not images'),
        ('inspect tum -o nowhere/strip.png', 'the folder nowhere does not exist'),
        ('map tum -o out.bag', 'bags are written as *.mcap only'),
        ('map tum -o out --to-bag out.db3', 'bags are written as *.mcap only'),
        ('predict video.mp4 -o out', 'it is a video; give it to "sharp-ros map"'),
    ],
)
def test_what_is_wrong_is_named_with_what_to_give_instead(place, line, words, capsys):
    assert main(line.split()) == 1
    assert words in ' '.join(capsys.readouterr().err.split())


def test_a_part_of_a_recording_names_the_whole(place, capsys):
    assert main(['inspect', 'tum/rgb', '--json']) == 0
    assert (
        'tum has more than these images: give that' in json.loads(capsys.readouterr().out)['note']
    )


def test_a_topic_is_found_with_and_without_its_slash(place, capsys):
    assert main(['inspect', 'bag', '--image-topic', 'front/image_raw', '--json']) == 0
    assert 'image topic /front/image_raw' in json.loads(capsys.readouterr().out)['note']


@pytest.mark.parametrize(
    'line',
    [
        'inspect tum --association 1_0',
        'inspect tum --hfov 60deg',
        'map tum -o out --max-frames 1_0',
        'map tum -o out --max-frames 2.5',
    ],
)
def test_numbers_of_flags_are_read_as_the_node_reads_them(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert repr(line.split()[-1]) in capsys.readouterr().err


def test_numbers_are_those_of_settings():
    assert [number(text) for text in ('1e1', '1.0e1', '.5', '-3', '0x10')] == [10, 10, 0.5, -3, 16]
    assert [whole_number(text) for text in ('0', '-3', '0x10')] == [0, -3, 16]
    for text in ('1_0', '1:30', '', '1,5', 'one'):
        with pytest.raises(ValueError, match='no number'):
            number(text)
    for text in ('1e1', '1.0', '1_0'):
        with pytest.raises(ValueError, match='no whole number'):
            whole_number(text)


@pytest.mark.parametrize('command', ['mount', 'predict a.png -o out', 'eval depth synthetic'])
def test_an_unknown_flag_shows_the_usage_of_its_command(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), '--hfof', '60'])
    assert ended.value.code == 2
    shown, name = capsys.readouterr().err, command.removesuffix(' synthetic').split(' a.png')[0]
    assert shown.startswith(f'usage: sharp-ros {name} [-h]')
    assert 'unrecognized arguments: --hfof 60' in shown


@pytest.mark.parametrize('name', ['01_predict_image.py', '03_map_a_bag.py'])
def test_examples_without_arguments_explain_themselves(name, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [name])
    with pytest.raises(SystemExit, match=f'python {name}'):
        runpy.run_path(str(Path(__file__).parents[1] / 'examples' / name), run_name='__main__')
