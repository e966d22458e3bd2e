"""docs/architecture.md shows the rows that test_architecture.py checks."""

from __future__ import annotations

from pathlib import Path
import re

from test_architecture import ROWS

PAGE = Path(__file__).parents[1] / 'docs' / 'architecture.md'


def shown_rows():
    """Modules and folders of the page by row, as they are written in `ROWS`."""
    table = PAGE.read_text(encoding='utf-8').partition('## Layers')[2].partition('\n\n|')[2]
    lines = [line for line in table.partition('\n\n')[0].splitlines() if re.match(r'\| \d', line)]
    shown = {}
    for line in lines:
        number, modules = line.strip('| ').split(' | ', 1)
        for name in re.findall(r'`([^`]+)`', modules):
            shown.setdefault(name.rstrip('/').replace('/', '.'), int(number))
    return shown


def test_every_row_is_on_the_page_in_its_order():
    shown = shown_rows()
    missing = [entry for row in ROWS for entry in row if entry not in shown]
    assert not missing, f'{missing} have no row in docs/architecture.md'
    for upper, lower in zip(ROWS[1:], ROWS, strict=False):
        high, low = ([shown[entry] for entry in row] for row in (upper, lower))
        assert min(high) >= max(low), f'{upper} stand below {lower} on the page'
