"""The index page of a fleet: a row for each recording, with a picture of its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em; color: #222; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .4em 1em .4em 0; }
tr { border-top: 1px solid #ddd; }
img { width: 240px; display: block; }
.failed, .lost { color: #b00; }
"""
# Columns of a report that say most, in the words of the page.
_TOLD = {
    'frames': '{} images',
    'path_length_m': 'path {} m',
    'voxels': '{} occupied voxels',
    'gaussians': '{} Gaussians',
    'verdict.level': 'map {}',
    'abs_rel': 'AbsRel {}',
    'delta1': 'delta 1 {}',
}


def page(rows: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> str:
    """All of it, without scripts and without anything from elsewhere.

    Args:
        rows: one for each recording, as `results` keeps them.
        totals: of them.
    """
    head = (
        f'{totals["finished"]} of {totals["recordings"]} recordings finished, '
        f'{totals["failed"]} failed, {totals["lost"]} lost with their workers; '
        f'{totals["recorded_h"]:.2f} h recorded, {totals["wall_s"] / 3600:.2f} h of work'
    )
    body = '\n'.join(map(_row, rows))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Recordings</title>'
        f'<style>{_STYLE}</style></head><body>\n<h1>Recordings</h1>\n<p>{escape(head)}</p>\n'
        '<p><a href="results.json">results.json</a></p>\n'
        '<table>\n<tr><th>result</th><th>recording</th><th>status</th><th>what came of it</th>'
        f'</tr>\n{body}\n</table>\n</body></html>\n'
    )


def _row(row: Mapping[str, Any]) -> str:
    folder = quote(str(row.get('folder') or ''))
    picture = name = ''
    if row.get('thumbnail'):
        link, image = quote(str(row['picture'])), quote(str(row['thumbnail']))
        picture = (
            f'<a href="{folder}/{link}"><img loading="lazy" src="{folder}/{image}" alt=""></a>'
        )
    name = escape(str(row['recording']))
    if folder:
        name = f'<a href="{folder}/">{name}</a> <a href="{folder}/log.txt">log</a>'
    status = escape(str(row['status']))
    said = [text.format(row[key]) for key, text in _TOLD.items() if row.get(key) is not None]
    said += [f'{row["wall_s"]:.1f} s'] if row.get('wall_s') is not None else []
    said += [str(row['reason'])] if row.get('reason') else []
    return (
        f'<tr><td>{picture}</td><td>{name}</td><td class="{status}">{status}</td>'
        f'<td>{escape(", ".join(said))}</td></tr>'
    )
