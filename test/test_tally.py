"""The last line of `make test`."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest
def test_one(): pass
def test_two(): pytest.skip('needs wings')
@pytest.mark.skipif(True, reason='needs a tail')
@pytest.mark.parametrize('n', [1, 2])
def test_three(n): pass
"""


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **environment},
    ).stdout  # fmt: skip


def test_what_was_not_run_is_counted_with_its_reason(tmp_path):
    (tmp_path / 'conftest.py').write_text((ROOT / 'test' / 'conftest.py').read_text())
    (tmp_path / 'test_this.py').write_text(TESTS)
    (tmp_path / 'test_that.py').write_text("import pytest\npytest.importorskip('no_such_module')")
    tally = str(tmp_path / 'tally')
    run('-m', 'pytest', '-q', '--rootdir', str(tmp_path), str(tmp_path), SHARP_TALLY=tally)
    line = run('scripts/tally.py', tally)
    assert line.startswith('make test: 1 passed, 4 not run here: ')
    assert 'test_this.py (2): needs a tail; ' in line
    assert 'test_this.py (1): needs wings\n' in line
    assert "test_that.py (1): could not import 'no_such_module'" in line


def test_what_launch_files_do_is_never_left_out_in_silence():
    makefile = (ROOT / 'Makefile').read_text()
    recipe = makefile.partition('\ntest:\n')[2].partition('\n\n')[0].splitlines()
    assert recipe[-1].endswith('scripts/tally.py build/tally')
    assert 'SHARP_TALLY=build/tally' in makefile
