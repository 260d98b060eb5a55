"""Names that only differ by a number, written as ``f_{1..40}`` (``schema.number_ranges`` reads it back)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LEAST = 3  # names in a row that are worth a range
_NUMBERED = re.compile(r"(.*?)(0|[1-9]\d{0,8})")


def runs_of(names: Iterable[str], forms: Iterable[str] | None = None) -> Iterator[tuple[str, str]]:
    """(name, form) of single names, and (``stem{first..last}``, form) of runs of ``LEAST`` or more that count up.

    ``forms``: what is written beside each name; in a run they are the same once the name itself is taken out of them.
    """
    names = list(names)
    written = list(forms) if forms is not None else [""] * len(names)
    start = 0
    while start < len(names):
        stop = _end_of_run(names, written, start)
        if stop - start < LEAST:
            yield names[start], written[start]
            start += 1
            continue
        stem, first = _parts(names[start])
        ranged = f"{stem}{{{first}..{first + stop - start - 1}}}"
        yield ranged, _with(names[start], written[start], ranged)
        start = stop


def _parts(name: str) -> tuple[str, int]:
    found = _NUMBERED.fullmatch(name)
    return (name, -1) if found is None else (found[1], int(found[2]))


def _end_of_run(names: list[str], written: list[str], start: int) -> int:
    stem, first = _parts(names[start])
    form, stop = _with(names[start], written[start], "#"), start + 1
    while first >= 0 and stop < len(names) and _parts(names[stop]) == (stem, first + stop - start):
        if _with(names[stop], written[stop], "#") != form:
            break
        stop += 1
    return stop


def _with(name: str, form: str, other: str) -> str:
    """A form with ``other`` where its source column is the name itself; a range must be quoted."""
    return re.sub(rf"source: (\w+)\.{re.escape(name)}(?=,|\}})", lambda found: f'source: "{found[1]}.{other}"', form)
