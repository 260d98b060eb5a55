"""Columns and events -> matrices of ids and floats: the one implementation, for training and for serving.

Every function works on n rows and gives a row the same bits whatever rows stand beside it; only a feature ``within:
request`` looks at the other candidates of its own request. Vocabularies and statistics come from the training split
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue, NumberColumn, TextColumn, shown
from depthrank.errors import DataError, FieldProblem, RequestError, SpecError
from depthrank.events import HistoryBatch
from depthrank.features.code_map import HistoryCodes
from depthrank.features.codecs import AgeCodec, Codec, NumericCodec, PositionCodec
from depthrank.features.counter_plan import counter_features
from depthrank.features.counters import Counters
from depthrank.features.encoder_files import load_encoder, save_encoder
from depthrank.features.feature_plan import Learned, Planned, codec_of, learn, planned_features, stored_problems
from depthrank.features.history import encode_history
from depthrank.features.history_along import NUM_ALONG_FLOATS, along_floats
from depthrank.features.history_count import count_floats, num_count_floats
from depthrank.features.history_match import (
    FLOATS_A_COMPARISON,
    NEWEST,
    NUM_FLOATS,
    MatchPlan,
    compare_floats,
    match_floats,
)
from depthrank.features.kept_rows import KeptRows
from depthrank.features.layout import (
    UNKNOWN,
    Encoded,
    EncodedHistory,
    EncoderLayout,
    FloatSlot,
    IdSlot,
    SideLayout,
    write_rows,
)
from depthrank.features.sources import SentValues, Source, StoredValues
from depthrank.features.time_of import bounded_ms
from depthrank.schema import HistoryAlong, HistoryCount, HistoryMatch, Spec

Int64 = NDArray[np.int64]
Values = Sequence[object] | NDArray[Any]


@dataclass(frozen=True)
class FitSample:
    """Values of the training split. ``item_rows`` int64: one an occurrence (shown, sampled or in a history), so that
    counts are occurrences; ``user_rows`` int64 likewise; ``users``: the user ids of the training requests."""

    contexts: Mapping[str, Values] = field(default_factory=dict)
    candidates: Mapping[str, Values] = field(default_factory=dict)
    item_rows: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    user_rows: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    users: Sequence[str] = ()


@dataclass(frozen=True)
class _Step:
    """A part of a feature and its columns. ``codec`` is None for a counter and a feature of the history."""

    part: Planned
    codec: Codec | None
    ids: slice
    floats: slice


@dataclass(frozen=True)
class _Side:
    layout: SideLayout
    steps: tuple[_Step, ...]

    def empty(self, n: int) -> Encoded:
        ids = np.zeros((n, self.layout.num_ids), np.int32)
        return Encoded(ids, np.zeros((n, self.layout.num_floats), np.float32))


class FeatureEncoder:
    """Fitted vocabularies and statistics of a spec; frozen, safe for several threads."""

    def __init__(self, spec: Spec, parts: Sequence[Planned], learned: Mapping[str, Learned]) -> None:
        self.spec, self.parts, self.learned = spec, tuple(parts), dict(learned)
        self._counters = counter_features(spec.features)
        sides = {side: self._side([p for p in parts if p.side == side]) for side in ("request", "item", "candidate")}
        self._request, self._item, self._candidate = sides["request"], sides["item"], sides["candidate"]
        self._user_row = self._side([p for p in self.parts if p.origin == "user_row" and not p.is_age])
        self._user_rows = KeptRows()

    @property
    def layout(self) -> EncoderLayout:
        """What the columns of each side mean."""
        return EncoderLayout(self._request.layout, self._item.layout, self._candidate.layout)

    @classmethod
    def fit(cls, spec: Spec, items: Catalogue, users: Catalogue | None, sample: FitSample) -> FeatureEncoder:
        """Learn from the training split. Raises SpecError listing every feature that does not fit its column, and
        DataError where sampled values cannot be used."""
        parts = planned_features(spec, items, users)
        wrong = [p for part in parts for p in _plan_problems(part, items, users)]
        if wrong:
            raise SpecError(f"{spec.name} does not fit its data:", wrong)
        problems: list[FieldProblem] = []
        learned: dict[str, Learned] = {}
        for part in parts:
            source = _sample_source(part, items, users, sample, problems)
            found_out = learn(part.feature, source) if source is not None else None
            if found_out is not None:
                learned[part.name] = found_out
        if problems:
            raise DataError("training values cannot be used:", problems)
        return cls(spec, parts, learned)

    def encode_items(self, items: Catalogue, rows: Int64 | None = None) -> Encoded:
        """The item side of catalogue ``rows`` (default: all, row 0 included)."""
        return self._encode_stored(self._item, items, np.arange(items.size) if rows is None else rows)

    def encode_requests(
        self,
        users: Sequence[str],
        user_rows: Int64,
        contexts: Mapping[str, Values | None],
        time_ms: Int64,
        users_catalogue: Catalogue | None,
        counters: Counters | None,
        history: EncodedHistory | None = None,
    ) -> Encoded:
        """The request side of R requests.

        users: R ids; user_rows, time_ms int64 [R]; contexts: R values a column, a missing column meaning missing values
        and an unknown one nothing; history [R], None only where ``reads_history`` is False. Raises RequestError naming
        every value that cannot be used (``$.context.device``).
        """
        time_ms = bounded_ms(time_ms)
        out = self._request.empty(len(users))
        problems: list[FieldProblem] = []
        if self._user_row.steps:
            assert users_catalogue is not None, "features of user columns need the users catalogue"
            kept = self._user_rows.of(users_catalogue, partial(self._encode_stored, self._user_row))
            out.ids[:, : kept.ids.shape[1]] = kept.ids[user_rows]
            out.floats[:, : kept.floats.shape[1]] = kept.floats[user_rows]
        query = counters.query(users, time_ms) if counters is not None else None
        for step in self._request.steps:
            part, ids, floats = step.part, out.ids[:, step.ids], out.floats[:, step.floats]
            if part.origin == "history":
                assert history is not None, "history_count features need the requests' histories"
                floats[:] = count_floats(history, self._bits(part))
                continue
            if step.codec is None:
                assert query is not None, "counter features need counters"
                floats[:] = query.floats(part.name)
                continue
            if part.origin == "user_row" and not part.is_age:
                continue
            source: Source | None
            if part.origin == "user_row":
                assert users_catalogue is not None and part.column is not None
                source = StoredValues(users_catalogue.column(part.column), user_rows)
            elif part.origin == "user":
                source = SentValues(users, "$.user", len(users) > 1, problems)
            elif part.origin == "time":
                source = StoredValues(NumberColumn(time_ms, np.zeros(len(users), np.bool_)), np.arange(len(users)))
            else:
                source = _sent(contexts, part, "$.context", len(users), len(users) > 1, problems)
            _write(step.codec, source, ids, floats, time_ms)
        _raise(problems)
        return out

    def encode_candidates(
        self,
        item_rows: Int64,
        request_of_candidate: Int64,
        user_ids: Sequence[str],
        time_ms: Int64,
        columns: Mapping[str, Values | None],
        counters: Counters | None,
        items_catalogue: Catalogue,
        positions: NDArray[np.int32] | None = None,
        history: EncodedHistory | None = None,
    ) -> Encoded:
        """The candidate side of N candidates of R requests.

        item_rows, request_of_candidate int64 [N]; user_ids, time_ms [R]; columns: N values each; positions int32 [N]
        (negative: none), None when serving; history [R], None only where ``reads_history`` is
        False. Raises RequestError naming every value that cannot be used (``$.candidates.price[3]``).
        """
        time_ms = bounded_ms(time_ms)
        out = self._candidate.empty(len(item_rows))
        problems: list[FieldProblem] = []
        query = None
        if counters is not None:
            query = counters.query(user_ids, time_ms, item_rows, request_of_candidate)
        for step in self._candidate.steps:
            part, ids, floats = step.part, out.ids[:, step.ids], out.floats[:, step.floats]
            if part.origin == "match":
                assert history is not None, "history_match features need the requests' histories"
                plan = MatchPlan(part.column, sum(self._bits(part)))
                matched = match_floats(plan, items_catalogue, history, item_rows, request_of_candidate)
                _write_match(part, matched, columns, floats, item_rows, request_of_candidate, problems)
            elif step.codec is None:
                assert query is not None, "counter features need counters"
                write_rows(floats, query.floats(part.name))
            elif isinstance(step.codec, PositionCodec):
                if positions is not None:
                    step.codec.write_positions(positions, ids)
            else:
                source: Source | None
                if part.origin == "item":
                    assert part.column is not None
                    source = StoredValues(items_catalogue.column(part.column), item_rows)
                else:
                    source = _sent(columns, part, "$.candidates", len(item_rows), True, problems)
                _write(step.codec, source, ids, floats, time_ms, request_of_candidate)
        _raise(problems)
        return out

    def column_problems(self, items: Catalogue, users: Catalogue | None) -> list[FieldProblem]:
        """Why features cannot read their columns of these catalogues."""
        return [problem for part in self.parts for problem in _plan_problems(part, items, users)]

    @property
    def reads_history(self) -> bool:
        """Whether ``encode_requests`` or ``encode_candidates`` needs histories."""
        return any(part.origin in ("history", "match") for part in self.parts)

    def _bits(self, part: Planned) -> list[int]:
        """The bit of each history action that a feature of the history counts."""
        assert isinstance(part.feature, (HistoryAlong, HistoryCount, HistoryMatch))
        names = self.spec.history_actions
        return [1 << names.index(action) for action in part.feature.actions or names]

    def encode_history(
        self, batch: HistoryBatch, codes: HistoryCodes, as_of_ms: Int64, max_length: int | None = None
    ) -> EncodedHistory:
        """n histories as tokens, the last ``max_length`` (default: the spec's history length) of each."""
        length = self.spec.history.length if max_length is None else max_length
        return encode_history(batch, codes, bounded_ms(as_of_ms), length)

    def save(self, folder: str | Path) -> list[Path]:
        """Write vocabularies (Parquet) and statistics (JSON) into ``folder``; returns the files written."""
        return save_encoder(Path(folder), self.spec, self.parts, self.learned)

    @classmethod
    def load(cls, folder: str | Path) -> FeatureEncoder:
        """A saved encoder. Raises ArtifactError where files are missing or altered."""
        return cls(*load_encoder(Path(folder)))

    def _side(self, parts: Sequence[Planned]) -> _Side:
        ids: list[IdSlot] = []
        floats: list[FloatSlot] = []
        steps = []
        for part in parts:
            without = part.origin in ("counter", "history", "match")
            codec = None if without else codec_of(part, self.learned.get(part.name))
            first_id, first_float = ids[-1].stop if ids else 0, floats[-1].stop if floats else 0
            for table in codec.tables if codec else ():
                start = ids[-1].stop if ids else 0
                stop = start + table.columns
                ids.append(IdSlot(part.name, part.name + table.suffix, table.num_rows, start, stop))
            width = codec.num_floats if codec else self._num_floats(part)
            if width:
                floats.append(FloatSlot(part.name, first_float, first_float + width))
            stop_id = ids[-1].stop if ids else 0
            steps.append(_Step(part, codec, slice(first_id, stop_id), slice(first_float, first_float + width)))
        return _Side(SideLayout(tuple(ids), tuple(floats)), tuple(steps))

    def _num_floats(self, part: Planned) -> int:
        """Floats of a part without a codec."""
        if isinstance(part.feature, HistoryMatch):
            return NUM_FLOATS + FLOATS_A_COMPARISON * len(part.feature.compare)
        if isinstance(part.feature, HistoryAlong):
            return NUM_ALONG_FLOATS
        if isinstance(part.feature, HistoryCount):
            return num_count_floats(len(self._bits(part)))
        return self._counters[part.name].windows.num_floats

    def _encode_stored(self, side: _Side, catalogue: Catalogue, rows: Int64) -> Encoded:
        out = side.empty(len(rows))
        for step in side.steps:
            assert step.codec is not None, "no counter is stored"
            source = _stored(step.part, catalogue, rows)
            step.codec.write(source, out.ids[:, step.ids], out.floats[:, step.floats])
        return out


def _plan_problems(part: Planned, items: Catalogue, users: Catalogue | None) -> list[FieldProblem]:
    if part.origin in ("item", "match"):
        return list(stored_problems(part, items))
    return list(stored_problems(part, users)) if part.origin == "user_row" else []


def _stored(part: Planned, catalogue: Catalogue, rows: Int64) -> StoredValues:
    if part.column is not None:
        return StoredValues(catalogue.column(part.column), rows)
    size = catalogue.size
    ids = TextColumn(np.arange(size, dtype=np.int32), catalogue.ids)
    return StoredValues(ids, rows, code_0=UNKNOWN)


def _sample_source(
    part: Planned, items: Catalogue, users: Catalogue | None, sample: FitSample, problems: list[FieldProblem]
) -> Source | None:
    """The training values of a part; None where it has nothing to learn from."""
    if part.origin == "item":
        return _stored(part, items, sample.item_rows)
    if part.origin == "user_row":
        assert users is not None, "checked by stored_problems"
        return _stored(part, users, sample.user_rows)
    if part.origin == "user":
        ids = sample.users or (users.ids_of(sample.user_rows[sample.user_rows > 0]) if users else ())
        return SentValues(ids, "$.user", True, problems)
    if part.origin in ("context", "candidate"):
        columns = sample.contexts if part.origin == "context" else sample.candidates
        assert part.column is not None and part.column in columns, f"{part.column} not among {list(columns)}"
        return SentValues(columns[part.column], f"$.{part.origin}.{part.column}", True, problems)
    return None


def _sent(
    columns: Mapping[str, Values | None],
    part: Planned,
    root: str,
    n: int,
    indexed: bool,
    problems: list[FieldProblem],
) -> Source | None:
    values = columns.get(part.column or "")
    if values is None:
        return None
    path = f"{root}.{part.column}"
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__") or len(values) != n:
        sized = f"{len(values)} values" if isinstance(values, (list, tuple, np.ndarray)) else shown(values)
        problems.append(FieldProblem(path, sized, f"a list of {n} values"))
        return None
    return SentValues(values, path, indexed, problems)


def _write_match(
    part: Planned,
    matched_N3: NDArray[np.float32],
    columns: Mapping[str, Values | None],
    floats: NDArray[np.float32],
    item_rows: Int64,
    request_of_candidate: Int64,
    problems: list[FieldProblem],
) -> None:
    """A match and two columns for each candidate column it compares, or how it lies along a column."""
    feature, n = part.feature, len(floats)
    assert isinstance(feature, (HistoryAlong, HistoryMatch))
    if isinstance(feature, HistoryAlong):
        source = _sent(columns, replace(part, column=feature.along), "$.candidates", n, True, problems)
        values, missing = (np.zeros(n), np.ones(n, np.bool_)) if source is None else source.numbers()
        floats[:] = along_floats(matched_N3[:, NEWEST], values, missing, item_rows, request_of_candidate)
        return
    floats[:, :NUM_FLOATS] = matched_N3
    for i, name in enumerate(feature.compare):
        place = NUM_FLOATS + i * FLOATS_A_COMPARISON
        source = _sent(columns, replace(part, column=name), "$.candidates", n, True, problems)
        found: NDArray[np.float32] | tuple[float, float] = (0.0, 1.0)  # (0, missing) where nothing was sent
        if source is not None:
            found = compare_floats(floats[:, NEWEST], *source.numbers(), request_of_candidate)
        floats[:, place : place + FLOATS_A_COMPARISON] = found


def _write(
    codec: Codec,
    source: Source | None,
    ids: NDArray[np.int32],
    floats: NDArray[np.float32],
    time_ms: Int64,
    request_of_row: Int64 | None = None,
) -> None:
    """Encode a source, or its absence; ``time_ms`` [R] and ``request_of_row`` (None: the rows are the requests)."""
    if source is None:
        codec.write_missing(ids, floats)
    elif isinstance(codec, AgeCodec):
        codec.write_at(source, time_ms if request_of_row is None else time_ms[request_of_row], floats)
    elif isinstance(codec, NumericCodec) and codec.within_request:
        assert request_of_row is not None, "within: request is for candidates, checked by Spec"
        codec.write_within(source, request_of_row, floats)
    else:
        codec.write(source, ids, floats)


def _raise(problems: list[FieldProblem]) -> None:
    if problems:
        raise RequestError("the request has values that cannot be used:", problems)
