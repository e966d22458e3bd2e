"""Many recordings: what is done, what is not done twice, and what a killed worker costs."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
import io
import json
import mmap
import os
from pathlib import Path
import re
import resource
import signal
import sys
import threading
import time
from urllib.parse import unquote

import cv2
import fsspec
import numpy as np
import pytest

from sharp_ros.apps.cli import main
from sharp_ros.apps.fleet import _Command
from sharp_ros.errors import InputError
from sharp_ros.fleet import recordings
from sharp_ros.fleet.executors import EXECUTORS, Processes
from sharp_ros.fleet.page import page
from sharp_ros.fleet.results import parquet, Results, totals_of
from sharp_ros.fleet.run import run_fleet
from sharp_ros.process import thread_limits

pytestmark = pytest.mark.usefixtures('one_thread')

REPORT = {
    'frames': 3,
    'nested': {'level': 'good'},
    'list': [1, 2],
    'stock': {'parts': [{'use': 'camera', 'begin_ns': 0, 'end_ns': 36 * 10**9}]},
}


@dataclass(frozen=True)
class Toy:
    """Appends to a journal, and does what the name of the recording asks for."""

    journal: Path

    def __call__(self, source, folder):
        with self.journal.open('a') as file:
            file.write(f'{source.name}\n')
        seen = self.journal.read_text().split().count(source.name)
        if 'always_killed' in source.name or ('killed_once' in source.name and seen == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if 'slow' in source.name:
            time.sleep(600)
        if 'bad' in source.name:
            raise ValueError('no good <b>')
        print('said', source.name)
        (folder / 'report.json').write_text(json.dumps(REPORT))
        cv2.imwrite(str(folder / 'overview.png'), np.full((40, 640, 3), 90, np.uint8))
        return {'reason': 'half broken' if 'fails' in source.name else '', 'exit_code': 0}

    def done(self):
        return self.journal.read_text().split()


class Inline:
    """An executor that is done at once, in this process."""

    room, died = 1, ()

    def __init__(self, jobs=1, threads=1):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def submit(self, function, argument):
        future = Future()
        try:
            future.set_result(function(argument))
        except Exception as error:
            future.set_exception(error)
        return future

    def release(self, future):
        pass


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """Runs toys on files of these names; gives rows by name, totals, and the toy."""
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', None)
    toy = Toy(tmp_path / 'journal')
    toy.journal.touch()

    def run(*names, executor=None, settings=None, out=tmp_path / 'out', **options):
        for name in names:
            path = tmp_path / name
            if '://' not in name and not path.exists():
                path.write_text(f'contents of {name}')
        places = [name if '://' in name else str(tmp_path / name) for name in names]
        with executor or Inline() as pool:
            rows, totals = run_fleet(
                places, toy, settings or {}, Results(str(out)), pool, **options
            )
        return {row['recording'].rpartition('/')[2]: row for row in rows}, totals, toy

    yield run
    assert not list(tmp_path.glob('sharp_ros_*'))  # nothing is left in the folder for scratch


# --- recordings ----------------------------------------------------------------------------------


def test_contents_are_the_same_wherever_they_lie_and_whatever_they_are_called(tmp_path):
    for folder in ('one', 'two'):
        (tmp_path / folder / 'below').mkdir(parents=True)
        for name in ('b', 'below/a'):
            (tmp_path / folder / name).write_text(name)
    first = recordings.contents(str(tmp_path / 'one'))
    assert first.size == len('b') + len('below/a')
    assert recordings.contents(str(tmp_path / 'two')) == first
    assert recordings.contents(f'file://{tmp_path}/two') == first
    memory = fsspec.filesystem('memory')
    memory.put(str(tmp_path / 'one'), '/contents_test', recursive=True)
    assert recordings.contents('memory://contents_test') == first
    (tmp_path / 'two' / 'b').rename(tmp_path / 'two' / 'c')
    assert recordings.contents(str(tmp_path / 'two')) != first


def test_a_fingerprint_tells_a_change_of_the_same_size(tmp_path):
    (tmp_path / 'a').write_text('before')
    before = recordings.fingerprint(str(tmp_path))
    assert recordings.fingerprint(str(tmp_path)) == before
    (tmp_path / 'a').write_text('behind')
    assert recordings.fingerprint(str(tmp_path)) != before


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for name in (tmp_path, tmp_path / 'pipe'):
        with pytest.raises(InputError, match='holds no file'):
            recordings.contents(str(name))


def test_patterns_are_of_urls_and_what_is_missing_is_refused(tmp_path):
    for name in ('b.mcap', 'a.mcap', 'c.txt', 'x[1].mcap'):
        (tmp_path / name).touch()
    names = recordings.found([f'file://{tmp_path}/?.mcap', str(tmp_path / 'x[1].mcap')])
    assert [name.rpartition('/')[2] for name in names] == ['a.mcap', 'b.mcap', 'x[1].mcap']
    (name,) = recordings.found([f'file://{tmp_path}/x[1].mcap'])
    assert recordings.contents(name).size == 0
    for missing in (str(tmp_path / 'd'), f'file://{tmp_path}/d*', 'memory://nowhere/d'):
        with pytest.raises(InputError) as caught:
            recordings.found([missing])
        assert caught.value.reason == 'no_such_source'


@pytest.mark.parametrize('url', ['lacking://bucket/a.mcap', 'unheard_of://a.mcap'])
def test_a_url_that_nothing_here_can_open_is_one_line(url, tmp_path, monkeypatch, capsys):
    said = 'Install lacking' if url.startswith('lacking') else 'Protocol not known'
    errtxt = 'Install lacking to access it'
    fsspec.register_implementation('lacking', 'no_such_package.System', True, errtxt)
    (tmp_path / 'a').touch()
    for source, out in ((url, str(tmp_path / 'out')), (str(tmp_path / 'a'), url)):
        assert main(['map', source, '-o', out, '--jobs', '1']) == 1
        error = capsys.readouterr().err
        assert error.startswith(f'error: {url} cannot be opened: ')
        assert said in error


def test_names_of_results_fit_into_any_file_system():
    for name in ('x' * 300, '\u8def' * 85, '/bags/.hidden.mcap/', 'a b?.mcap'):
        assert 0 < len(f'.{recordings.stem(name)}-{"0" * 16}.partial'.encode()) < 256
    assert recordings.stem('/bags/.a b?.mcap/') == 'a_b_.mcap'


def test_only_what_is_elsewhere_is_copied(tmp_path):
    (tmp_path / 'a').write_text('a')
    assert recordings.local_copy(f'file://{tmp_path}/a', tmp_path / 'copies') == tmp_path / 'a'
    assert not (tmp_path / 'copies').exists()
    memory = fsspec.filesystem('memory')
    memory.pipe({'/copy_test/bag/x': b'1', '/copy_test/bag/below/y': b'2'})
    copy = recordings.local_copy('memory://copy_test/bag', tmp_path / 'copies')
    assert copy.name == 'bag'
    assert (copy / 'x').read_bytes() + (copy / 'below' / 'y').read_bytes() == b'12'


def test_a_name_of_a_remote_file_leads_to_no_other_folder(tmp_path, monkeypatch):
    memory = fsspec.filesystem('memory')
    files = [('../../outside', {'name': '/evil', 'type': 'file'})]
    monkeypatch.setattr(recordings, '_files', lambda name: (memory, '/bag', files))
    with pytest.raises(InputError, match='outside of itself'):
        recordings.local_copy('memory://bag', tmp_path / 'copies')


# --- the run -------------------------------------------------------------------------------------


def test_each_recording_has_a_folder_a_row_and_a_picture(fleet, tmp_path):
    rows, totals, _ = fleet('a.mcap', 'b & <b>.mcap')
    assert [row['status'] for row in rows.values()] == ['finished', 'finished']
    row = rows['a.mcap']
    folder = tmp_path / 'out' / row['folder']
    assert folder.name == f'a.mcap-{row["key"]}'
    assert (folder / 'log.txt').read_text() == 'said a.mcap\n'
    assert cv2.imread(str(folder / row['thumbnail'])).shape == (20, 320, 3)
    assert (row['nested.level'], row['frames'], row['recorded_s']) == ('good', 3, 36.0)
    assert 'list' not in row
    assert row['result_bytes'] > 0
    assert row['bytes'] == len('contents of a.mcap')
    table = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert table['recordings'] == list(rows.values())
    assert totals['recorded_h'] == 0.02
    assert totals['bytes_per_recorded_h'] == pytest.approx(totals['bytes'] / 0.02)
    html = (tmp_path / 'out' / 'index.html').read_text()
    assert '<b>' not in html
    for target in re.findall(r'(?:href|src)="([^"]*)"', html):
        assert (tmp_path / 'out' / unquote(target)).exists(), target


@pytest.mark.skipif(sys.platform != 'linux', reason='forgetting the peak is of Linux')
def test_memory_is_that_of_the_recording_and_not_of_one_before(fleet):
    with mmap.mmap(-1, 300_000_000) as ballast:
        ballast.write(b'x' * len(ballast))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows, _, _ = fleet('a')
    assert rows['a']['peak_mb'] < before - 100


def test_what_is_finished_is_known_by_its_contents_and_the_settings(fleet, tmp_path):
    first, _, toy = fleet('a', 'b')
    again, totals, _ = fleet('a', 'b')
    assert (again, totals['finished']) == (first, 2)
    assert toy.done() == ['a', 'b']
    (tmp_path / 'a').rename(tmp_path / 'moved')
    assert fleet('moved', 'b')[0]['moved']['folder'] == first['a']['folder']
    os.utime(tmp_path / 'b')
    fleet('b')
    assert toy.done() == ['a', 'b']
    (tmp_path / 'b').write_text('changed')
    fleet('b')
    assert toy.done() == ['a', 'b', 'b']
    fleet('b', settings={'model': 'other'})
    assert toy.done() == ['a', 'b', 'b', 'b']


def test_the_folder_of_results_may_be_called_anything(fleet, tmp_path):
    for out in (tmp_path / 'out [1]*', 'memory://fleet_test/[x]?'):
        fleet('a', out=out)
        assert fleet('a', out=out)[1]['finished'] == 1
        assert fleet('a', out=out)[2].done() == ['a']
        (tmp_path / 'journal').write_text('')


@pytest.mark.parametrize('out', ['out [1]', 'memory://fleet_test/brackets/out [1]'])
def test_brackets_in_names_are_no_patterns_of_what_is_removed(fleet, tmp_path, out):
    out = out if '://' in out else str(tmp_path / out)
    system, root = fsspec.core.url_to_fs(out)
    row = fleet('fails[1]', out=out)[0]['fails[1]']
    left = f'{root}/{row["folder"]}/of_a_failed_attempt[1]'
    matching = left.replace('[1]', '1')
    for path in (left, matching):
        system.makedirs(path.rpartition('/')[0], exist_ok=True)
        system.pipe_file(path, b'')
    fleet('fails[1]', out=out)
    assert system.exists(f'{root}/{row["folder"]}/result.json')
    assert not system.exists(left)
    assert system.exists(matching)


def test_unchanged_recordings_are_not_read_again(fleet, monkeypatch):
    fleet('a', 'b')
    fleet('a')  # which forgets nothing of the other
    read = []
    monkeypatch.setattr('sharp_ros.fleet.run.contents', read.append)
    assert fleet('a', 'b')[1]['finished'] == 2
    assert not read


def test_results_that_cannot_be_written_fail_their_recording_alone(fleet, monkeypatch):
    keep = Results.keep

    def full(results, folder, row):
        if row['recording'].endswith('a'):
            raise OSError(28, 'No space left on device')
        keep(results, folder, row)

    monkeypatch.setattr(Results, 'keep', full)
    rows, totals, _ = fleet('a', 'b')
    assert 'No space left' in rows['a']['reason']
    assert (totals['failed'], totals['finished']) == (1, 1)


def test_equal_recordings_are_done_once(fleet, tmp_path):
    (tmp_path / 'copy').write_text('contents of a')
    rows, totals, toy = fleet('a', 'copy')
    assert toy.done() == ['a']
    assert rows['copy']['folder'] == rows['a']['folder']
    assert totals['bytes'] == len('contents of a')


@pytest.mark.parametrize('end', [0, 20])
def test_a_result_that_was_cut_short_is_done_again(fleet, tmp_path, end):
    rows, _, toy = fleet('a')
    path = tmp_path / 'out' / rows['a']['folder'] / 'result.json'
    path.write_bytes(path.read_bytes()[:end])
    (path.parent / 'of_a_killed_attempt').touch()
    assert fleet('a')[1]['finished'] == 1
    assert toy.done() == ['a', 'a']
    assert not (path.parent / 'of_a_killed_attempt').exists()


def test_what_fails_is_told_kept_from_the_others_and_tried_by_the_next_call(fleet, tmp_path):
    rows, totals, toy = fleet('bad', 'fails', 'a')
    assert (totals['finished'], totals['failed']) == (1, 2)
    assert rows['bad']['reason'] == 'ValueError: no good <b>'
    assert 'Traceback' in (tmp_path / 'out' / rows['bad']['folder'] / 'log.txt').read_text()
    assert rows['fails']['reason'] == 'half broken'
    fleet('bad', 'fails', 'a')
    assert toy.done() == ['bad', 'fails', 'a', 'bad', 'fails']


def test_a_recording_that_cannot_be_read_is_one_row(fleet, tmp_path):
    (tmp_path / 'empty').mkdir()
    rows, totals, _ = fleet('empty', 'a')
    assert 'holds no file' in rows['empty']['reason']
    assert (totals['finished'], totals['failed']) == (1, 1)


def test_recordings_and_results_may_be_behind_urls(fleet):
    memory = fsspec.filesystem('memory')
    memory.pipe('/fleet_test/in/a.mcap', b'from afar')
    rows, _, toy = fleet('memory://fleet_test/in/a.mcap', out='memory://fleet_test/out')
    folder = f'/fleet_test/out/{rows["a.mcap"]["folder"]}'
    assert memory.cat(f'{folder}/log.txt') == b'said a.mcap\n'
    assert json.loads(memory.cat(f'{folder}/result.json'))['status'] == 'finished'
    assert b'a.mcap' in memory.cat('/fleet_test/out/index.html')
    fleet('memory://fleet_test/in/a.mcap', out='memory://fleet_test/out')
    assert toy.done() == ['a.mcap']


# --- processes -----------------------------------------------------------------------------------


def killed_and_others(fleet, executor):
    """What any executor has to do when workers are killed."""
    names = ('always_killed', 'killed_once', 'a', 'b', 'c')
    seen = []
    rows, totals, toy = fleet(
        *names, executor=executor, retries=1, show=lambda progress: seen.append(progress.died)
    )
    assert {name: row['status'] for name, row in rows.items()} == {
        **dict.fromkeys(names, 'finished'),
        'always_killed': 'lost',
    }
    assert 'died 2 times' in rows['always_killed']['reason']
    assert rows['killed_once']['attempts'] == 2
    assert sorted(toy.done()) == sorted((*names, 'always_killed', 'killed_once'))
    assert totals['lost'] == 1
    assert seen[-1] == 3
    return rows


def test_a_killed_worker_costs_its_own_recording_one_attempt(fleet):
    killed_and_others(fleet, Processes(2, 1))


def test_a_worker_that_is_killed_while_idle_costs_nothing():
    with Processes(1, 1) as pool:
        future = pool.submit(abs, -1)
        ((_, pid),) = pool._busy.values()
        assert future.result() == 1
        pool.release(future)
        ((idle, _),) = pool._idle
        os.kill(pid.result(), signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            idle.submit(time.sleep, 60).result(60)  # either of them notices
        future = pool.submit(abs, -2)
        assert future.result() == 2
        pool.release(future)


def test_stopping_ends_what_runs_and_the_next_call_goes_on(fleet, tmp_path):
    stop, begin = threading.Event(), time.monotonic()

    def show(progress):
        if progress.rows:
            stop.set()

    rows, totals, toy = fleet('a', 'slow', executor=Processes(2, 1), show=show, stop=stop)
    assert time.monotonic() - begin < 500  # `slow` would take 600 s, of which it had some
    assert list(rows) == ['a']
    (tmp_path / 'slow').rename(tmp_path / 'quick')
    rows, totals, toy = fleet('a', 'quick')
    assert totals['finished'] == 2
    assert toy.done().count('a') == 1


def counts(names):
    return {name: os.environ.get(name) for name in names}


def test_workers_have_the_threads_they_are_given():
    names = list(thread_limits(3))
    with Processes(1, 3) as pool:
        future = pool.submit(counts, names)
        assert future.result() == dict.fromkeys(names, '3')
        pool.release(future)


def test_ray_does_as_processes_do(fleet, monkeypatch):
    pytest.importorskip('ray', reason='ray is not installed, see requirements/fleet.txt')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(sys.path))  # of workers, which import us
    monkeypatch.setenv('RAY_TMPDIR', '/tmp')  # that of the fixture is too long for its sockets
    killed_and_others(fleet, EXECUTORS['ray'](2, 1))


# --- tables --------------------------------------------------------------------------------------


def test_parquet_holds_the_table_with_nulls_for_what_a_row_does_not_say():
    pytest.importorskip('pyarrow', reason='pyarrow is not installed, see requirements/fleet.txt')
    from pyarrow.parquet import read_table

    rows = [{'recording': 'a', 'frames': 3}, {'recording': 'b', 'reason': 'why', 'frames': 2.5}]
    table = read_table(io.BytesIO(parquet(rows))).to_pylist()
    assert table == [
        {'recording': 'a', 'frames': 3.0, 'reason': None},
        {'recording': 'b', 'frames': 2.5, 'reason': 'why'},
    ]


@pytest.mark.parametrize('out', ['out', 'memory://fleet_test/parquet'])
def test_no_older_table_stays_beside_newer_ones(fleet, tmp_path, monkeypatch, out):
    out = out if '://' in out else str(tmp_path / out)
    system, root = fsspec.core.url_to_fs(out)
    monkeypatch.setattr('sharp_ros.fleet.results.parquet', lambda rows: b'table')
    fleet('a', out=out)
    assert system.cat_file(f'{root}/results.parquet') == b'table'

    def not_installed(rows):
        raise ImportError('pyarrow')

    monkeypatch.setattr('sharp_ros.fleet.results.parquet', not_installed)
    fleet('a', 'b', out=out)
    assert json.loads(system.cat_file(f'{root}/results.json'))['totals']['finished'] == 2
    assert not system.exists(f'{root}/results.parquet')


def test_names_from_outside_are_text_on_the_page():
    evil = '"><script>alert(1)</script>'
    rows = [{'recording': evil, 'status': 'failed', 'reason': evil, 'folder': None, 'key': None}]
    assert '<script' not in page(rows, totals_of(rows))


# --- the commands --------------------------------------------------------------------------------


SENSOR = ('--model', 'sensor')  # measured depth, so that no network is loaded


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setitem(EXECUTORS, 'processes', Inline)


def picture(path, seed):
    noise = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC))


def table_of(out):
    return json.loads((out / 'results.json').read_text())['recordings']


def test_predict_does_each_input_and_knows_it_again(inline, tmp_path, capsys):
    picture(tmp_path / 'a.png', 0)
    (tmp_path / 'broken.png').write_text('no picture')
    out = tmp_path / 'out'
    line = ['predict', str(tmp_path / 'a.png'), str(tmp_path / 'broken.png'), '-o', str(out)]
    assert main([*line, '--jobs', '1']) == 1  # of the broken one
    done, broken = table_of(out)
    assert (done['status'], broken['status']) == ('finished', 'failed')
    assert (out / done['folder'] / 'prediction' / 'a_depth.npz').exists()
    assert (out / done['folder'] / 'thumbnail.jpg').exists()
    assert 'broken.png' in broken['reason']
    assert '1 of 2 finished, 1 failed' in capsys.readouterr().out.replace('\n', ' ')
    stamps = {path: path.stat().st_mtime_ns for path in out.glob('*/result.json')}
    assert main([*line, '--jobs', '1']) == 1
    again = {path.parent.name for path in stamps if path.stat().st_mtime_ns != stamps[path]}
    assert again == {broken['folder']}


def test_settings_are_files_by_their_contents(inline, tmp_path, monkeypatch):
    from test_map_command import Recording

    from sharp_ros import sources

    given = []

    def opened(spec, **options):
        given.append(spec)
        return Recording([])

    monkeypatch.setattr(sources, 'open_source', opened)
    (tmp_path / 'bag').write_text('bag')
    line = ['map', str(tmp_path / 'bag'), '-o', str(tmp_path / 'out'), '--jobs', '1', *SENSOR]
    keys = []
    for name, text in (
        ('a.yaml', '/**: {ros__parameters: {point_cloud: {min_range: 0.1}}}'),
        ('b.yaml', '/**: {ros__parameters: {point_cloud: {min_range: 0.1}}}'),
        ('b.yaml', '/**: {ros__parameters: {point_cloud: {min_range: 0.2}}}'),
    ):
        config = tmp_path / name
        config.write_text(text)
        assert main([*line, '--config', str(config)]) == 1
        row = table_of(tmp_path / 'out')[0]
        assert 'delivered no frame' in row['reason']
        keys.append(row['key'])
    assert keys[0] == keys[1] != keys[2]
    assert set(given) == {str(tmp_path / 'bag')}


DESCRIPTION = """
description: toy
licence: none
file: toy.onnx
input: {name: image, size: [28, 28]}
output: {name: depth, kind: metric}
"""


@pytest.mark.parametrize(
    ('flags', 'named'),
    [
        (('--config', 'camera: {mask: NAMED}'), 'mask.png'),
        (('--config', 'model: {name: toy.yaml}'), 'toy.onnx'),
        (('--model', 'toy.yaml'), 'toy.onnx'),
        (('--set', 'camera.mask=NAMED'), 'a=b.png'),
    ],
)
def test_files_that_settings_lead_to_are_settings(inline, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bag').write_text('bag')
    (tmp_path / 'toy.yaml').write_text(DESCRIPTION)
    flag, value = (text.replace('NAMED', named) for text in flags)
    if flag == '--config':
        (tmp_path / 'a.yaml').write_text(f'/**: {{ros__parameters: {{{value}}}}}')
        value = 'a.yaml'
    keys = []
    for contents in ('before', 'before', 'behind'):
        (tmp_path / named).write_text(contents)
        assert main(['map', 'bag', '-o', 'out', '--jobs', '1', flag, value]) == 1
        keys.append(table_of(tmp_path / 'out')[0]['key'])
    assert keys[0] == keys[1] != keys[2]


def test_polygons_are_no_file_however_long_they_are(inline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bag').write_text('bag')
    mask = '; '.join(100 * ['0,0 9,0 9,9'])
    line = ['map', 'bag', '-o', 'out', '--jobs', '1', *SENSOR, '--set', f'camera.mask={mask}']
    assert main(line) == 1
    assert 'bag' in table_of(tmp_path / 'out')[0]['reason']


def test_map_and_eval_make_a_map_and_numbers_of_a_bag(inline, tmp_path):
    from itertools import islice

    from test_map_command import SMALL, speckled, write_bag

    from sharp_ros.sources import SyntheticSource
    from sharp_ros.synthetic import Room

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, '_atlas', property(speckled))
        write_bag(tmp_path / 'bag', islice(SyntheticSource(size=(160, 120)).frames(), 3))
    url, out = f'file://{tmp_path}/b*', tmp_path / 'out'
    line = ['map', url, '-o', str(out / 'map'), '--jobs', '1', *SENSOR, *SMALL]
    assert main(line) == 3  # three images make no good map
    (row,) = table_of(out / 'map')
    assert (row['frames'], row['placed'], row['verdict.level']) == (3, 3, 'bad')
    assert (row['status'], row['exit_code']) == ('finished', 3)
    assert row['recorded_s'] == pytest.approx(0.2)
    assert (out / 'map' / row['folder'] / 'map' / 'map.pgm').exists()
    evaluation = ['eval', 'depth', url, '-o', str(out / 'depth'), '--jobs', '1']
    assert main([*evaluation, *SENSOR]) == 0
    (row,) = table_of(out / 'depth')
    assert row['abs_rel'] < 0.01
    assert row['baselines.constant.abs_rel'] > 0.1


@pytest.mark.parametrize('flags', [(), ('--against', 'optimiser')])
def test_views_of_many_recordings_may_be_compared_with_the_optimiser(inline, tmp_path, flags):
    (tmp_path / 'a').write_text('no recording')
    line = ['eval', 'views', str(tmp_path / 'a'), '-o', str(tmp_path / 'out'), '--jobs', '1']
    assert main([*line, *flags, *SENSOR]) == 1
    (row,) = table_of(tmp_path / 'out')
    assert '--pictures' not in row['reason']


def nothing_placed(args, source, folder):
    del args, source, folder


@pytest.mark.parametrize(
    ('log', 'reason'),
    [
        ('warning: no .sog: a\nerror: the disk is full\n', 'the disk is full'),
        ('warning: bad map\nwarning: few frames\n', 'bad map'),
        ('', 'exit code 1'),
    ],
)
def test_the_reason_is_what_ended_a_command_rather_than_a_warning(tmp_path, log, reason):
    (tmp_path / 'log.txt').write_text(log)
    task = _Command(lambda args: 1, {}, nothing_placed, ('sharp-ros',))
    assert task(tmp_path, tmp_path) == {'exit_code': 1, 'reason': reason}


@pytest.mark.parametrize(
    ('line', 'said'),
    [
        ('map a b -o out', 'give --jobs'),
        ('map a -o memory://out', 'give --jobs'),
        ('predict memory://a.png -o out', 'give --jobs'),
        ('eval depth a b', 'give --jobs'),
        ('eval depth a --jobs 2', 'need --output'),
        ('eval depth a -o out', '--output is for many'),
        ('map a -o out --jobs 0', '--jobs must be at least 1'),
        ('map a -o out --jobs 1 --retries -1', '--retries must be at least 0'),
        ('map a -o out --jobs 1 --json f', 'results.json'),
        ('map a -o out --jobs 1 --to-bag f.mcap', '--to-bag names one file'),
        ('map a -o out --jobs 1 --set no.such=1', 'no.such'),
        ('map a -o out --jobs 1 --max-frames 0', '--max-frames'),
        ('map synthetic -o out --jobs 1', 'does not exist'),
    ],
)
def test_flags_that_do_not_fit_are_refused(line, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a').touch()
    assert main(line.split()) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
