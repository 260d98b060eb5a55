"""Items or users as columns: read by many threads while rows are added and changed.

A reader sees one published state (columns, size, generation), swapped at once by an upsert; see ``column_store`` for
why an old state stays valid. Rows are only ever added, so a row number keeps its meaning for the life of the catalogue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue.column_files import load_catalogue, save_catalogue
from depthrank.catalogue.column_store import ColumnStore, writable
from depthrank.catalogue.columns import Column
from depthrank.catalogue.infer_column import Values, infer_column
from depthrank.catalogue.integer_ids import IntegerIds
from depthrank.catalogue.parse_upsert import Parsed, parse_ids, parse_values
from depthrank.catalogue.shown import shown
from depthrank.errors import CatalogueError, FieldProblem, RequestError, did_you_mean


@dataclass(frozen=True)
class UpsertResult:
    """``rows`` int64: the row of each distinct id, in order of first mention; ``generation`` after the upsert."""

    rows: NDArray[np.int64]
    inserted: int
    updated: int
    generation: int


@dataclass(frozen=True)
class _State:
    """What readers see; ``row_generation`` int64 [V] is the generation in which a row last changed."""

    size: int
    columns: Mapping[str, Column]
    generation: int
    row_generation: NDArray[np.int64]


class Catalogue:
    """One kind of entity ("item" or "user"): ids, typed columns, and upserts while serving.

    Row 0 is the unknown entity: its id is "" and all its values are missing. ``row_of`` answers 0 for an unknown id.
    """

    def __init__(self, entity: str, id_column: str, ids: list[str], columns: Mapping[str, Column]) -> None:
        self.entity = entity
        self.id_column = id_column
        self._ids = ids
        self._row_of = {text: row for row, text in enumerate(ids) if row}
        if len(self._row_of) != len(ids) - 1:
            raise CatalogueError(f"{_repeated(ids)}: every {entity} has one row")
        self._stores = {name: ColumnStore(column) for name, column in columns.items()}
        self._state = _State(len(ids), dict(columns), 0, np.zeros(len(ids), np.int64))
        self._write_lock = threading.Lock()
        self._integers = IntegerIds.none()

    @classmethod
    def build(
        cls, entity: str, ids: Sequence[object], columns: Mapping[str, Values], *, id_column: str | None = None
    ) -> Catalogue:
        """A catalogue of ``ids`` in this order (rows 1, 2, ...).

        Raises CatalogueError for a null or repeated id, a column of another length, or values without a column kind.
        """
        problems: list[FieldProblem] = []
        texts = parse_ids(_listed(ids), f"$.{entity}", problems)
        if problems:
            raise CatalogueError(f"{entity} ids are wrong: " + "; ".join(map(str, problems)))
        for name, values in columns.items():
            if len(values) != len(texts):
                raise CatalogueError(f"column {name!r} has {len(values)} values for {len(texts)} {entity} ids")
        typed = {name: infer_column(name, values) for name, values in columns.items()}
        return cls(entity, id_column or entity, ["", *texts], typed)

    @property
    def size(self) -> int:
        """Rows, the unknown row 0 included."""
        return self._state.size

    @property
    def generation(self) -> int:
        """How many upserts were published."""
        return self._state.generation

    @property
    def ids(self) -> list[str]:
        """Ids by row, for reading only; rows of later upserts appear behind ``size``."""
        return self._ids

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(self._state.columns)

    def column(self, name: str) -> Column:
        """The column as of now; later upserts do not change it. Raises CatalogueError for an unknown name."""
        column = self._state.columns.get(name)
        if column is None:
            raise CatalogueError(f"{self._unknown(name)}; there are {', '.join(self.column_names) or 'no columns'}")
        return column

    def row_of(self, ids: Sequence[str | int] | NDArray[np.str_]) -> NDArray[np.int64]:
        """Row of each id, int64 [n]; 0 for an unknown one. Raises RequestError for an id that is no text or integer."""
        listed: Sequence[object] = ids if isinstance(ids, (list, tuple)) else _listed(ids)
        if not set(map(type, listed)) <= {str}:
            problems: list[FieldProblem] = []
            listed = parse_ids(listed, f"$.{self.entity}", problems)
            if problems:
                raise RequestError("ids are wrong:", problems)
        rows = map(cast("Callable[[object, int], int]", self._row_of.get), listed, repeat(0))
        return np.fromiter(rows, np.int64, len(listed))

    def rows_of_integers(self, ids_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each integer id, int64 [N]; 0 for an unknown one. As ``row_of`` of their texts, without the texts."""
        known = self._integers
        if known.size < self._state.size:
            with self._write_lock:
                known = self._integers
                if known.size < self._state.size:
                    known = self._integers = known.extended(self._ids[known.size : self._state.size])
        return known.rows_of(ids_N)

    def ids_of(self, rows: NDArray[np.integer] | Sequence[int]) -> list[str]:
        """The id of each row ("" for row 0)."""
        ids = self._ids
        return [ids[row] for row in np.asarray(rows).tolist()]

    def changed_since(self, generation: int) -> NDArray[np.int64]:
        """Rows that an upsert after ``generation`` inserted or changed, ascending."""
        state = self._state
        return np.flatnonzero(state.row_generation > generation).astype(np.int64)

    def upsert(
        self, columns: Mapping[str, Sequence[object]], record: Callable[[], object] = lambda: None
    ) -> UpsertResult:
        """Insert or change the rows of the ids in ``columns["item"]`` (the entity's or the id column's name).

        Columns that are not given keep their values (missing for new rows); null sets a value missing; of an id given
        twice the last row wins as a whole. ``record`` is called once everything is checked and before anything changes,
        one upsert at a time, so what it writes is in the order of the changes. Raises RequestError listing every
        unknown column, wrong length and wrong value, and what ``record`` raises; then nothing has changed.
        """
        with self._write_lock:
            ids, parsed = self._parsed(columns)
            record()
            known = self._row_of.get
            new = {text: self.size + i for i, text in enumerate(t for t in ids if t not in self._row_of)}
            rows = np.array([known(text) or new[text] for text in ids], np.int64)
            return self._publish(rows, list(new), parsed)

    def _publish(self, rows: NDArray[np.int64], new: list[str], parsed: Mapping[str, Parsed]) -> UpsertResult:
        before = self._state
        size, generation = before.size + len(new), before.generation + 1
        written = {name: store.written(size, rows, parsed.get(name)) for name, store in self._stores.items()}
        stamps = writable(before.row_generation, before.size, size, True)[:size]
        stamps[rows] = generation
        self._ids.extend(new)
        self._state = _State(size, written, generation, stamps)
        # Only now may an id lead to its row: whoever finds it also finds columns that hold it.
        self._row_of.update(zip(new, range(before.size, size)))
        return UpsertResult(rows, len(new), len(rows) - len(new), generation)

    def _parsed(self, columns: Mapping[str, Sequence[object]]) -> tuple[list[str], dict[str, Parsed]]:
        """Distinct ids and the values of their last mention."""
        problems: list[FieldProblem] = []
        id_name = self.entity if self.entity in columns else self.id_column
        if id_name not in columns:
            missing = FieldProblem(f"$.{self.entity}", "nothing", f"the {self.entity} ids, one a row")
            raise RequestError("the upsert has no ids:", [missing])
        given = {name: _listed_column(name, values, problems) for name, values in columns.items()}
        ids = parse_ids(given.pop(id_name), f"$.{id_name}", problems)
        last = {text: i for i, text in enumerate(ids)}
        parsed: dict[str, Parsed] = {}
        for name, values in given.items():
            store = self._stores.get(name)
            if store is None:
                near = did_you_mean(name, self._stores)
                hint = f"did you mean {near!r}?" if near else None
                known = ", ".join(self._stores) or "(there is none)"
                problems.append(FieldProblem(f"$.{name[:80]}", shown(name), f"a known column: one of {known}", hint))
            elif len(values) != len(ids):
                problems.append(FieldProblem(f"$.{name}", f"{len(values)} values", f"{len(ids)}, one an id"))
            elif parse_values(store.column, values, f"$.{name}", problems) is not None:
                kept = [values[i] for i in last.values()]
                value = parse_values(store.column, kept, f"$.{name}", problems)
                assert value is not None, "checked above"
                parsed[name] = value
        if problems:
            raise RequestError("the upsert changes nothing:", problems)
        return list(last), parsed

    def save(self, folder: str | Path) -> list[Path]:
        """Write the current state into ``folder`` (made where it is missing); returns the files written."""
        with self._write_lock:
            state = self._state
            return save_catalogue(Path(folder), self.entity, self.id_column, self._ids[: state.size], state.columns)

    @classmethod
    def load(cls, folder: str | Path) -> Catalogue:
        """A saved catalogue, its columns mapped read-only. Raises ArtifactError where files are missing or altered."""
        return cls(*load_catalogue(Path(folder)))

    def _unknown(self, name: str) -> str:
        near = did_you_mean(name, self._state.columns)
        return f"no {self.entity} column {name!r}" + (f": did you mean {near!r}?" if near else "")


def _listed(values: Any) -> list[object]:
    to_list = getattr(values, "to_pylist", None) or getattr(values, "tolist", None)
    return list(to_list() if to_list else values)


def _listed_column(name: str, values: object, problems: list[FieldProblem]) -> list[object]:
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
        problems.append(FieldProblem(f"$.{name[:80]}", shown(values), "a list of values, one an id"))
        return []
    return _listed(values)


def _repeated(ids: list[str]) -> str:
    seen: set[str] = set()
    for text in ids[1:]:
        if text in seen:
            return f"the id {text[:80]!r} appears more than once"
        seen.add(text)
    raise AssertionError("called where an id repeats")
