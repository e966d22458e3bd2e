"""docs/conventions.md, docs/safety.md: what they promise is shown by what exists."""

from __future__ import annotations

import ast
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'conventions.md'


def rows() -> list[list[str]]:
    """Cells of the rows of the checklist."""
    table = PAGE.read_text().partition('## Checklist')[2]
    lines = [line for line in table.splitlines() if line.startswith('| ')]
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines[1:]]


@pytest.mark.parametrize('row', rows(), ids=lambda row: row[0][:60])
def test_each_convention_is_answered_and_shown_by_what_exists(row):
    convention, holds, shown = row
    assert len(convention.split()) >= 1
    answer, _, why = re.fullmatch(r'(yes|no|partly)([:;,] (.+))?', holds).groups()
    assert answer == 'yes' or why, 'what does not hold is explained'
    names = re.findall(r'`([^`]+)`', shown)
    assert names, 'no test or file is named'
    assert not re.sub(r'`[^`]+`', '', shown).strip(), 'only those are'
    for name in names:
        path, _, test = name.partition('::')
        assert (ROOT / path).is_file(), name
        if test:
            tree = ast.parse((ROOT / path).read_text())
            assert test in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, name


def test_the_checklist_is_there_and_names_nothing_twice():
    conventions = [row[0] for row in rows()]
    assert len(conventions) == len(set(conventions)) > 40
    for subject in ('REP-103', 'REP-104', 'REP-105', 'REP-107', 'REP-117', 'REP-118', 'REP-144'):
        assert any(subject in c for c in conventions), subject
    for subject in ('REP-149', 'REP-2003', 'REP-2004', 'PointCloud2', 'OccupancyGrid'):
        assert any(subject in c for c in conventions), subject


def test_the_tests_that_the_page_on_safety_names_exist():
    named = set(re.findall(r'`(test_\w+)`', (ROOT / 'docs' / 'safety.md').read_text()))
    files = [ROOT / 'test' / f'test_{name}.py' for name in ('hazards', 'occupancy_kernels')]
    defined = {
        n.name
        for path in files
        for n in ast.parse(path.read_text()).body
        if isinstance(n, ast.FunctionDef)
    }
    assert len(named) >= 8
    assert named <= defined
