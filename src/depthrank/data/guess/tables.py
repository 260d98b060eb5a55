"""The files of a folder with what their columns hold, from the first rows of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from depthrank.data.files import SUFFIXES, DataFile, Problems, open_file
from depthrank.data.guess.names import TIME_WORDS, words
from depthrank.data.plain_values import plain
from depthrank.data.times import calendar_digits, likely_unit
from depthrank.errors import DataError
from depthrank.schema.dataset import TimeUnit

SAMPLE_ROWS = 100_000
SEPARATORS = ("|", ";", ",", " ")
_DATE = r"^\d{1,2}[/.]\d{1,2}[/.]\d{2,4}\b"


@dataclass(frozen=True, eq=False)
class Column:
    """One column: its values in the sample as plain numbers, texts or lists (None: neither can be read)."""

    name: str
    dtype: pl.DataType
    values: pl.Series | None

    @cached_property
    def known(self) -> pl.Series:
        """The values that are not missing."""
        return pl.Series(self.name, [], dtype=pl.Null) if self.values is None else self.values.drop_nulls()

    @property
    def is_listed(self) -> bool:
        """Whether each row holds a list."""
        return isinstance(self.known.dtype, pl.List)

    @property
    def is_text(self) -> bool:
        return bool(self.known.dtype == pl.String) and not self.dtype.is_temporal()

    @property
    def is_whole(self) -> bool:
        """Whole numbers, also those that missing values made floats."""
        if not self.known.dtype.is_float():
            return self.known.dtype.is_integer()
        return len(self.known) > 0 and bool((self.known == self.known.round()).all())

    @property
    def is_id_like(self) -> bool:
        """Texts or whole numbers, which an id may be."""
        return len(self.known) > 0 and (self.is_text or self.is_whole) and self.dtype != pl.Boolean

    @cached_property
    def num_distinct(self) -> int:
        return 0 if self.is_listed else self.known.n_unique()

    @cached_property
    def is_binary(self) -> bool:
        """True/false or 0/1, both of them."""
        return self.known.dtype.is_numeric() and set(self.known.unique().to_list()) == {0, 1}

    @cached_property
    def is_nearly_unique(self) -> bool:
        """Whether there is little to learn from a value: nearly every row has one of its own."""
        return self.num_distinct > 20 and 2 * self.num_distinct > len(self.known)

    @cached_property
    def separator(self) -> str | None:
        """What splits its texts into lists of repeated parts, if anything."""
        return next((s for s in SEPARATORS if self._splits(s)), None)

    def _splits(self, separator: str) -> bool:
        if not self.is_text or 10 * int(self.known.str.contains(separator, literal=True).sum()) < 3 * len(self.known):
            return False
        if separator == "," and bool(self.known.str.contains(r", |[\[\]()]").any()):
            return False  # an address, a range
        parts = self.known.str.split(separator).list.explode()
        if separator == " ":  # words of a name repeat too: a list of genres has few of them, in many combinations
            return 4 * parts.n_unique() <= self.num_distinct
        return parts.n_unique() <= max(0.3 * len(parts), 30)

    @cached_property
    def unread_dates(self) -> str | None:
        """A value of texts or digits that are dates in a form that is not read, such as 11/1/2000."""
        if self.is_text and bool(self.known.head(200).str.contains(_DATE).all()) and len(self.known):
            return str(self.known[0])
        digits = calendar_digits(self.known) if self.is_whole and self.known.dtype.is_integer() else None
        return None if digits is None else f"{self.known[0]} ({digits})"

    @cached_property
    def time_unit(self) -> TimeUnit | None:
        """The unit of its times; None where it holds none."""
        if self.values is None or self.is_listed or not (self.is_text or self.dtype.is_temporal() or self._is_named_so):
            return None
        return likely_unit(self.known)

    @property
    def _is_named_so(self) -> bool:
        return not TIME_WORDS.isdisjoint(words(self.name))


@dataclass(frozen=True, eq=False)
class Table:
    """A file: its name, rows, and columns in the file's order."""

    file: DataFile
    num_rows: int
    columns: dict[str, Column]

    @property
    def name(self) -> str:
        return self.file.name

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns.values())

    def whole(self, *columns: str) -> pl.DataFrame:
        """All rows of some columns."""
        return self.file.frame.select(columns).collect()

    def is_key(self, column: str) -> bool:
        """Whether every row of the file has a value of its own in ``column``."""
        sample = self.columns[column].known
        if not len(sample) or sample.n_unique() < len(sample):
            return False
        values = self.whole(column)[column]
        return values.null_count() == 0 and values.n_unique() == len(values)


def read_tables(folder: Path) -> list[Table]:
    """All data files of a folder, the one with the most rows first; raises DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the one that holds your Parquet, CSV or TSV files")
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name.endswith(SUFFIXES))
    if not names:
        raise DataError(f"{folder} holds no file ending in {', '.join(SUFFIXES)}")
    problems: Problems = []
    opened = [open_file(str(folder), name, name, (), problems) for name in names]
    if problems:
        raise DataError(f"{len(problems)} of the files of {folder} cannot be used:", problems)
    return sorted((_table(file) for file in opened if file is not None), key=lambda table: -table.num_rows)


def _table(file: DataFile) -> Table:
    sample = file.frame.head(SAMPLE_ROWS).collect()
    num_rows = len(sample) if len(sample) < SAMPLE_ROWS else file.frame.select(pl.len()).collect().item()
    columns = {c: Column(c, file.schema[c], plain(sample[c])) for c in sample.columns if c.strip()}
    return Table(file, num_rows, columns)
