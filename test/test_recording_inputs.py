"""What docs/recordings.md says about each kind of recording is what happens."""

import argparse
from pathlib import Path
import re
import sys

import pytest
from recording_inputs import Case, CASES

from sharp_ros.apps import inspect
from sharp_ros.errors import SharpError

DOCS = Path(__file__).parents[1] / 'docs/recordings.md'
HEAD = '| input | images | depth | poses | exit code | it says | before |'


def documented() -> dict[str, list[str]]:
    """Rows of the tables, by heading and input, without the state of before."""
    text = DOCS.read_text().partition('## Inputs, one by one')[2].partition('\n## ')[0]
    rows = {}
    for section in text.split('\n### ')[1:]:
        kind, _, table = section.partition('\n')
        assert HEAD in table
        for line in re.findall(r'^\| (?!input \|)(.+) \|$', table, re.MULTILINE):
            cells = line.split(' | ')
            rows[f'{kind}: {cells[0]}'] = cells[1:-1]
    return rows


def used(count: int, of: int) -> str:
    return f'{count} of {of}' if of else '-'


def row_of(case: Case, path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The cells of a recording as they are today."""
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    args = parser.parse_args(case.write(path))
    frames, code, said = [], 1, ''
    try:
        source = inspect.open_recording(args)
        said = source.note
        frames = list(source.frames())
        code = inspect.exit_code(source.stock)
        said += ''.join(part.detail for part in source.stock.parts)
    except SharpError as error:
        said = str(error)
    said += capsys.readouterr().err
    assert case.said in said
    counts = (
        len(frames),
        sum(frame.depth is not None and bool((frame.depth > 0).any()) for frame in frames),
        sum(frame.T_world_camera is not None for frame in frames),
    )
    cells = [used(count, of) for count, of in zip(counts, case.holds, strict=True)]
    return [*cells, str(code), case.said]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.what)
def test_a_recording_is_read_as_documented(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)  # which users may have
    assert documented().get(f'{case.kind}: {case.what}') == row_of(case, tmp_path, capsys)


def test_no_other_recordings_are_documented():
    assert documented().keys() == {f'{case.kind}: {case.what}' for case in CASES}
