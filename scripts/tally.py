"""The last line of `make test`: how many tests passed, and which were not run here and why.

usage: python scripts/tally.py FILE, which test/conftest.py wrote a line into for each run
"""

from __future__ import annotations

from collections import Counter
import json
from pathlib import Path
import sys


def main(file):
    """The line itself."""
    runs = [json.loads(line) for line in Path(file).read_text().splitlines()]
    skipped = Counter(tuple(skip) for run in runs for skip in run['skipped'])
    passed, missing = sum(run['passed'] for run in runs), sum(skipped.values())
    line = f'make test: {passed} passed, {missing} not run here'
    reasons = [f'{name} ({n}): {reason}' for (name, reason), n in sorted(skipped.items())]
    return f'{line}: {"; ".join(reasons)}' if reasons else line


if __name__ == '__main__':
    print(main(sys.argv[1]))
