"""A dataset's rows as every rival reads them: the encoder's own columns, the joined histories, labels and users.

Ours reads batches of requests; a rival reads one row a candidate. Both come from the same encoder, counters and event
log, as of the same times, so that a difference in quality is one of models and not of inputs.

Legend: R requests, N candidates, L history length, K tasks, I id columns, F float columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from depthrank.data import BatchLoader, fit_sample, import_log, load_dataset, load_examples
from depthrank.events import open_log
from depthrank.features import Counters, FeatureEncoder, FloatSlot, SideLayout
from depthrank.schema import Spec

NOT_OF_RIVALS = "position"  # ours reads it in training only, as 0 when serving: no rival gets it


@dataclass(frozen=True)
class IdColumn:
    """Columns ``start:stop`` of ``Rows.ids`` are one feature; its values are 0 .. num_values - 1, 0 none, 1 unknown."""

    name: str
    num_values: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Rows:
    """One split. ids int32 [N, I], floats float32 [N, F], label float32 [N, K] (NaN: none), item int64 [N]; request
    int64 [N]; user int64 [N]; history_item, history_actions, history_age int32 [R, L] right-padded, history_length
    int32 [R]."""

    ids: npt.NDArray[np.int32]
    floats: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    item: npt.NDArray[np.int64]
    request: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]
    history_item: npt.NDArray[np.int32]
    history_actions: npt.NDArray[np.int32]
    history_age: npt.NDArray[np.int32]
    history_length: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three splits of a spec with the meaning of their columns. ``item_ids`` int32 [V, I_item]: the encoded
    catalogue, whose columns are ``item_columns``."""

    spec: Spec
    id_columns: tuple[IdColumn, ...]
    float_names: tuple[str, ...]
    item_columns: tuple[IdColumn, ...]
    item_ids: npt.NDArray[np.int32]
    train: Rows
    validation: Rows
    test: Rows


def load_rows(spec_path: str | Path, log_url: str) -> Dataset:
    """Encode all splits of a prepared recipe, without positions."""
    spec = Spec.load(spec_path)
    raw = load_dataset(spec)
    examples = load_examples(spec, raw)
    user_code = {u: i for i, u in enumerate(dict.fromkeys(examples.user))}
    with open_log(log_url) as log:
        import_log(spec, raw, log)
        encoder = FeatureEncoder.fit(spec, raw.items, raw.users, fit_sample(examples, raw))
        counters = Counters.rebuild(spec, log, raw.items, raw.users)
        item = encoder.encode_items(raw.items)

        def rows(split: str) -> Rows:
            loader = BatchLoader(
                examples,
                split,
                _in_order(spec),
                encoder=encoder,
                log=log,
                counters=counters,
                items=raw.items,
                users=raw.users,
                ahead=0,
            )
            return _rows(loader, encoder, item.ids, item.floats, user_code, spec.history.length)

        splits = [rows(split) for split in ("train", "validation", "test")]
    sides = (encoder.layout.request, encoder.layout.item, encoder.layout.candidate)
    return Dataset(
        spec,
        tuple(_id_columns(sides)),
        tuple(_float_names(sides)),
        tuple(_id_columns((encoder.layout.item,))),
        item.ids,
        *splits,
    )


def _in_order(spec: Spec) -> Spec:
    """Large batches of rows with labels; their order does not matter, since every row says its request."""
    large = msgspec.structs.replace(spec.training, batch_requests=4_096, batch_candidates=200_000, unlabelled=None)
    return msgspec.structs.replace(spec, training=large)


def _rows(
    loader: BatchLoader,
    encoder: FeatureEncoder,
    item_ids: npt.NDArray[np.int32],
    item_floats: npt.NDArray[np.float32],
    user_code: dict[str, int],
    length: int,
) -> Rows:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in Rows.__annotations__}
    kept_ids = _without_positions(encoder.layout.candidate)
    first = 0
    for batch in sorted(loader.epoch(0), key=lambda b: int(b.example[0])):
        request = batch.request_of_candidate
        ids = (batch.request.ids[request], item_ids[batch.item_row], batch.candidate.ids[:, kept_ids])
        floats = (batch.request.floats[request], item_floats[batch.item_row], batch.candidate.floats)
        parts["ids"].append(np.concatenate(ids, axis=1))
        parts["floats"].append(np.concatenate(floats, axis=1))
        parts["label"].append(batch.label)
        parts["item"].append(batch.item_row)
        parts["request"].append(first + request)
        parts["user"].append(np.array([user_code[u] for u in batch.user], np.int64)[request])
        padding = ((0, 0), (0, length - batch.history.rows.shape[1]))
        parts["history_item"].append(np.pad(batch.history.rows, padding))
        parts["history_actions"].append(np.pad(batch.history.actions, padding))
        parts["history_age"].append(np.pad(batch.history.ages, padding))
        parts["history_length"].append(batch.history.length)
        first += len(batch)
    return Rows(**{name: np.concatenate(values) for name, values in parts.items()})


def _without_positions(side: SideLayout) -> npt.NDArray[np.int64]:
    kept = [i for slot in side.ids if not slot.feature.startswith(NOT_OF_RIVALS) for i in range(slot.start, slot.stop)]
    return np.array(kept, np.int64)


def _id_columns(sides: tuple[SideLayout, ...]) -> list[IdColumn]:
    columns: list[IdColumn] = []
    for slot in (s for side in sides for s in side.ids if not s.feature.startswith(NOT_OF_RIVALS)):
        start = columns[-1].stop if columns else 0
        columns.append(IdColumn(slot.table, slot.num_rows, start, start + slot.stop - slot.start))
    return columns


def _float_names(sides: tuple[SideLayout, ...]) -> list[str]:
    def names(slot: FloatSlot) -> list[str]:
        return [f"{slot.feature}[{i}]" for i in range(slot.stop - slot.start)]

    return [name for side in sides for slot in side.floats for name in names(slot)]
