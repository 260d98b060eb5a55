"""One data file: opened lazily by its suffix, with its mistakes noted instead of raised."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from depthrank.errors import FieldProblem, did_you_mean

Problems = list[FieldProblem]

SUFFIXES = (".parquet", ".pq", ".csv", ".tsv", ".csv.gz", ".tsv.gz")


@dataclass(frozen=True)
class DataFile:
    """A file that exists, has a header and rows. ``where`` is its path in the spec, such as ``$.dataset.items``."""

    where: str
    name: str
    frame: pl.LazyFrame
    schema: pl.Schema

    def has(self, column: str, field: str, problems: Problems) -> bool:
        """Whether the file has ``column``; where not, notes it for the spec's ``field`` with the nearest name."""
        if column in self.schema:
            return True
        near = did_you_mean(column, self.schema.names())
        hint = f"did you mean {near!r}?" if near else None
        known = ", ".join(self.schema.names())
        problems.append(FieldProblem(field, repr(column), f"a column of {self.name}: {known}", hint))
        return False

    def wrong_type(self, column: str, field: str, expected: str, problems: Problems, hint: str | None = None) -> None:
        """Note that ``column`` has another type than the spec's ``field`` needs."""
        found = f"column {column!r} of {self.name} as {describe_type(self.schema[column])}"
        problems.append(FieldProblem(field, found, expected, hint))

    def read(self, columns: Collection[str], problems: Problems) -> pl.DataFrame | None:
        """The named columns; None, and a problem, where the file breaks off or is not what its suffix says."""
        try:
            return self.frame.select(list(dict.fromkeys(columns))).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            problems.append(_unreadable(self.where, self.name, error))
            return None


def describe_type(dtype: pl.DataType) -> str:
    """The type as a person would name it."""
    if dtype == pl.String:
        return "text"
    if dtype.is_integer():
        return "whole numbers"
    if dtype.is_float():
        return "numbers"
    return str(dtype).lower()


def open_file(
    folder: str,
    path: str,
    where: str,
    text_columns: Collection[str],
    problems: Problems,
    category_columns: Collection[str] = (),
) -> DataFile | None:
    """Open ``path`` (relative to ``folder``); None, and a problem, where it is missing, empty or unreadable.

    ``text_columns`` (ids) of a CSV stay text, so that "007" is not 7; ``category_columns`` do where one of their values
    has such a zero (elsewhere 1.0 and 1 are one category, as they are in a request).
    """
    full = Path(folder) / path
    if not full.is_file():
        problems.append(_missing(full, where))
        return None
    if not full.name.endswith(SUFFIXES):
        expected = "a file ending in " + ", ".join(SUFFIXES)
        problems.append(FieldProblem(f"{where}.path", repr(path), expected))
        return None
    try:
        frame = _scan(full, text_columns, category_columns)
        schema = frame.collect_schema()
        num_rows = frame.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        problems.append(_unreadable(where, full.name, error))
        return None
    if num_rows == 0:
        problems.append(FieldProblem(f"{where}.path", f"{full} without rows", "a file with at least one row"))
        return None
    return DataFile(where, full.name, frame, schema)


def _scan(path: Path, text_columns: Collection[str], category_columns: Collection[str]) -> pl.LazyFrame:
    if path.suffix in (".parquet", ".pq"):
        return pl.scan_parquet(path)
    separator = "\t" if ".tsv" in path.suffixes else ","
    header = pl.read_csv(path, separator=separator, n_rows=0, infer_schema=False).columns
    as_text = {c: pl.String for c in text_columns if c in header}
    frame = pl.scan_csv(path, separator=separator, schema_overrides=as_text, infer_schema_length=None)
    schema = frame.collect_schema()
    numbers = [c for c in category_columns if c in header and schema[c].is_numeric()]
    if not numbers:
        return frame
    texts = pl.scan_csv(path, separator=separator, infer_schema=False)
    padded = texts.select(pl.col(numbers).str.contains(r"^\s*0\d").any()).collect().row(0, named=True)
    as_text |= {c: pl.String for c, has_zeros in padded.items() if has_zeros}
    return pl.scan_csv(path, separator=separator, schema_overrides=as_text, infer_schema_length=None)


def _missing(path: Path, where: str) -> FieldProblem:
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(path.name, siblings)
    hint = f"did you mean {near!r}?" if near else "paths are relative to the folder of ranking.yaml"
    return FieldProblem(f"{where}.path", f"no file at {path}", "a Parquet, CSV or TSV file", hint)


def _unreadable(where: str, name: str, error: Exception) -> FieldProblem:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    found = f"{name}, which cannot be read ({first_line})"
    return FieldProblem(f"{where}.path", found, "a whole Parquet, CSV or TSV file with a header")
