"""`make evidence`: what is measured comes on the page, and people can read it in a browser."""

from __future__ import annotations

import argparse
import ast
from dataclasses import replace
import importlib
import json
from pathlib import Path
import re

from browsers import chromium
import evidence
import evidence_page
import pytest

from sharp_ros.apps.cli import COMMANDS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'docs' / 'results'
COPY = 'import pathlib, shutil, sys\n' + (
    'to = pathlib.Path(sys.argv[2]); to.parent.mkdir(exist_ok=True); shutil.copy(sys.argv[1], to)'
)
JUNIT = """<testsuites><testsuite>
<testcase classname="test.test_gaussians" name="test_file_of_sharp_is_reproduced"/>
<testcase classname="test.test_map_files" name="test_clouds_and_mesh_are_read_by_open3d">
<failure message="no"/></testcase>
<testcase classname="test.ros.test_conversions_cv_bridge" name="test_any">
<skipped message="no cv_bridge"/></testcase>
</testsuite></testsuites>"""
SCALE = {
    'summary': {
        'runs': 1,
        'frames': 99,
        'scale_coverage_2std': 0.9876,
        'scale_worst_std': 1.7,
        'worst_error': 0.41,
        'worst_abs_rel_loss': -0.051,
    }
}
POINT = {
    'seconds': 2.5,
    'gaussians': 77033,
    'rss_mb': 912,
    **{pixels: {'psnr': 24.1, 'ssim': 0.91} for pixels in ('all', 'common')},
}
OPTIMISED = {
    'runs': [
        {
            'name': 'room 0',
            'images': 40,
            'held_out': 5,
            'first_view': 0.44,
            'instant': {**POINT, 'images': 1},
            'fused': [{**POINT, 'images': 35}],
            'optimised': [{**POINT, 'seconds': 300.0, 'iterations': 600}],
            'speed': {'size': [320, 240], 'iterations_per_s': 12.5, 'ratio': 33.9},
        }
    ]
}
SHIPPED = {
    'stages': 'bench_cpu.json',
    'ros': 'bench_ros.json',
    'demo': 'demo_synthetic_nano.json',
    'accuracy': 'nano.json',
    'refinement': 'refinement.json',
    'map_true': 'map_rooms_true.json',
    'map_nano': 'map_rooms_nano.json',
    'hazards': 'hazards.json',
    'views': 'views_motorcycle.json',
    'views_rooms': 'views_synthetic.json',
}


def report_of(name: str) -> object:
    if name == 'exchanged':
        return JUNIT
    if name == 'scale':
        return SCALE
    if name == 'optimised':
        return OPTIMISED
    if name == 'answers':
        return json.loads((RESULTS / 'answers.json').read_text())['after']
    report = json.loads((RESULTS / SHIPPED[name]).read_text())
    if name == 'demo':
        for number, row in enumerate(report['topics'].values()):
            row['age_ms_p99'] = 201.5 + number
    if name == 'stages':
        report['endurance'] = {
            'minutes': 5, 'rate_hz': 9.5, 'rss_peak_mb': 1337, 'drift_mb': 3.25, 'met': True,
        }  # fmt: skip
    return report


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run whose commands leave the reports that are shipped; map_nano_... breaks."""
    folder = tmp_path_factory.mktemp('evidence')
    chosen = []
    for what in evidence.MEASUREMENTS:
        if what.name == 'map_nano_poses_given':
            command = ('-c', 'raise SystemExit("no such luck")')
        elif any('{recording' in part for part in what.command):
            command = what.command
        else:
            report = report_of(what.name)
            source = folder / f'{what.name}.given'
            source.write_text(report if isinstance(report, str) else json.dumps(report))
            names = {'demo': '{folder}/report.json', 'exchanged': '{folder}.xml'}
            command = ('-c', COPY, str(source), names.get(what.name, '{json}'))
        chosen.append(replace(what, command=command, full=(), quick=(), ros=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, 'MEASUREMENTS', tuple(chosen))
        assert evidence.main([str(folder)]) == 1  # one measurement failed
    return folder


def test_every_measurement_is_on_the_page_and_none_is_left_out():
    shown = {name for rows in evidence_page.SECTIONS.values() for name in rows}
    assert shown == {what.name for what in evidence.MEASUREMENTS}


def test_report_has_state_numbers_machine_versions_and_commit(written: Path):
    report = json.loads((written / 'evidence.json').read_text())
    parts = report['measurements']
    assert list(parts) == [what.name for what in evidence.MEASUREMENTS]
    states = {name: part['state'] for name, part in parts.items()}
    assert {n for n, state in states.items() if state == 'failed'} == {'map_nano_poses_given'}
    absent = {n for n, state in states.items() if state == 'not run here'}
    assert absent == {
        *('accuracy_sets', 'refinement_recording', 'scale_recording', 'map_recording'),
        'optimised_recording',
    }
    assert 'no such luck' in parts['map_nano_poses_given']['reason']
    assert parts['scale']['report'] == SCALE
    assert report['machine']['cores'] > 0
    assert report['versions']['numpy']
    assert report['commit']


def test_a_report_that_cannot_be_shown_costs_no_other(written: Path):
    report = json.loads((written / 'evidence.json').read_text())
    report['measurements']['answers']['report'] = {'services': {'reset': {'calls': 1}}}
    shown = evidence_page.page(report, Path('none'))
    assert "lacks what is shown here: KeyError('answered')" in shown
    assert '98.8%' in shown  # of another


def test_the_picture_of_an_earlier_run_is_not_that_of_this_one(tmp_path: Path):
    (tmp_path / 'demo').mkdir()
    (tmp_path / 'demo' / evidence.PICTURE).write_bytes(b'of yesterday')
    what = replace(
        next(what for what in evidence.MEASUREMENTS if what.name == 'demo'),
        command=('-c', 'raise SystemExit("no camera")'), full=(), ros=False,
    )  # fmt: skip
    assert evidence.measured(what, tmp_path, None, quick=False)['state'] == 'failed'
    assert not (tmp_path / 'demo' / evidence.PICTURE).exists()


def test_tests_with_others_are_counted_by_what_became_of_them(written: Path):
    rows = {row['what']: row for row in evidence.exchanged(written / 'exchanged.xml')}
    assert rows['Gaussians as PLY']['passed'] == 1
    assert rows['clouds and mesh of a map']['failed'] == 1
    assert rows['encodings of images']['not_run'] == 1
    assert rows['encodings of images']['reason'] == 'no cv_bridge'
    assert rows['networks as ONNX']['tests'] == 0


def test_a_test_with_others_that_failed_is_shown_and_fails_the_run(tmp_path, monkeypatch):
    (tmp_path / 'junit').write_text(JUNIT)
    (what,) = (what for what in evidence.MEASUREMENTS if what.name == 'exchanged')
    code = f'{COPY}\nprint("1 failed, 1 passed"); sys.exit(1)'  # as pytest does
    what = replace(what, command=('-c', code, str(tmp_path / 'junit'), '{folder}.xml'))
    monkeypatch.setattr(evidence, 'MEASUREMENTS', (what,))
    assert evidence.main([str(tmp_path)]) == 1
    part = json.loads((tmp_path / 'evidence.json').read_text())['measurements']['exchanged']
    assert part['state'] == 'failed'
    assert len(part['report']) == len(evidence.EXCHANGED)
    shown = (tmp_path / 'index.html').read_text()
    for text in ('1 FAILED', '1 failed, 1 passed', 'FAILED (1)', 'Gaussians as PLY'):
        assert text in shown, text


@pytest.mark.parametrize('test', [test for *_, test in evidence.EXCHANGED])
def test_every_test_that_is_named_exists(test: str):
    file, _, name = test.partition('::')
    assert f'\ndef {name or "test_"}' in (ROOT / 'test' / file).read_text()


@pytest.mark.parametrize('quick', [False, True])
@pytest.mark.parametrize('what', evidence.MEASUREMENTS, ids=lambda what: what.name)
def test_every_command_exists_and_takes_its_arguments(what: evidence.Measurement, quick: bool):
    program, *arguments = what.arguments(quick=quick)
    if program == 'sharp-ros':
        command, *arguments = arguments
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
        parser.parse_args(arguments)
    elif program.endswith('.py'):
        tree = ast.parse((ROOT / program).read_text())
        words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert {part for part in arguments if part.startswith('--')} <= words


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_began(tmp_path: Path):
    log = tmp_path / 'log'
    code = 'import subprocess, sys; subprocess.run([sys.executable, "-c", "while 1: pass"])'
    assert evidence._run(('-c', code), log, 1.0) == 124
    assert 'ended after 1 s' in log.read_text()


@pytest.fixture(scope='module')
def browser_page(written: Path):
    """The page in Chromium, with what it asked for and complained of."""
    with chromium() as browser:
        page = browser.new_page(viewport={'width': 1100, 'height': 800})
        said: list[str] = []
        page.on('request', lambda request: said.append(request.url))
        page.on('console', lambda message: said.append(message.text))
        page.on('pageerror', lambda error: said.append(str(error)))
        page.goto((written / 'index.html').as_uri())
        yield page, said


def test_people_read_the_page_in_a_browser(browser_page, written: Path):
    page, said = browser_page
    assert [text for text in said if not text.startswith('data:')] == [
        (written / 'index.html').as_uri()
    ]
    assert page.title() == 'sharp_ros: measured'
    headings = page.locator('h2').all_inner_texts()
    assert headings == [*evidence_page.SECTIONS, 'Machine and versions']
    for link in page.locator('nav a').all():
        assert page.locator(link.get_attribute('href')).count() == 1
    text = page.locator('body').inner_text()
    for shown in (
        *('77.0', '107.4', '201.5', '98.8%', '+3.2 MB', 'FAILED (1)', '600 iterations'),
        *('not run here: no cv_bridge', 'Not run here: no recordings', 'no such luck'),
    ):
        assert shown in text, shown
    assert not re.search(r'\b(nan|None|Traceback)\b', text)
    topics = page.locator('h3:has-text("End to end") ~ table').first
    assert topics.locator('tr').count() == 1 + len(report_of('demo')['topics'])
    for width in (1100, 420):  # a desk, a telephone
        page.set_viewport_size({'width': width, 'height': 800})
        assert page.evaluate('document.documentElement.scrollWidth') <= width
