"""Transitions are counted from training choices alone, and a router that is kept stays as it is to the bit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch

from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
from depthrank.errors import ArtifactError, SpecError
from depthrank.events import open_log
from depthrank.features import Encoded, HistoryCodes
from depthrank.features.history import encode_history
from depthrank.model import candidate_inputs, request_inputs
from depthrank.model.transitions import BEFORE, NEXT, SOON
from depthrank.schema import Request, Spec
from depthrank.training import train

USERS, EVENTS, ITEMS = 50, 9, 20
SPEC = """
name: steps
dataset:
  events: {path: events.parquet, user: user, item: item, time: order, action: click}
features:
  item: {kind: categorical, source: item.id}
tasks:
  click: {loss: softmax}
value: {weights: {click: 1}}
history: {length: 20}
split: {by: leave_last_out}
evaluation: {candidates: all, exclude_seen: true}
model: {preset: demo, width: 16, heads: 2, expert_layers: 1, time_gaps: false, transitions: 16}
training: {epochs: 1, batch_requests: 64, deep_negatives: 8, distillation: 0.0}
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    """Each user's items go up by one or two (modulo the catalogue), so that steps repeat between users."""
    folder, rng = tmp_path_factory.mktemp("steps"), np.random.default_rng(0)
    taken = [((rng.integers(ITEMS) + np.cumsum(rng.integers(1, 3, EVENTS))) % ITEMS).tolist() for _ in range(USERS)]
    rows = [(f"u{user}", f"i{item}") for user, items in enumerate(taken) for item in items]
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_parquet(folder / "events.parquet")
    (folder / "ranking.yaml").write_text(SPEC)
    train(folder / "ranking.yaml", out=folder / "artifact", progress=False)
    return folder, taken


def test_counts_are_those_of_training_steps_and_no_others(steps):
    folder, taken = steps
    artifact = load_artifact(folder / "artifact")
    found, items = artifact.model.transitions, artifact.items
    encoded = artifact.encoder.encode_items(items)
    code = {name: int(c) for name, c in zip(items.ids, encoded.ids[:, found.column], strict=True)}
    wanted = [Counter(), Counter(), Counter()]
    for own in taken:
        train_part = [code[f"i{item}"] for item in own[:-2]]
        for at, chosen in enumerate(train_part):
            for lag in range(1, at + 1):
                before = train_part[at - lag]
                wanted[NEXT][before, chosen] += lag == 1
                wanted[SOON][before, chosen] += 2 <= lag <= 8
                wanted[BEFORE][chosen, before] += lag <= 4
    for kind in (NEXT, SOON, BEFORE):
        out = Counter()
        for (item, _), count in wanted[kind].items():
            out[item] += count
        assert {row: int(n) for row, n in enumerate(found.out_VG[:, kind].tolist()) if n} == {
            k: n for k, n in out.items() if n
        }
        kept = {
            (row, int(neighbour)): int(count)
            for row in range(len(found.out_VG))
            for neighbour, count in zip(found.neighbour_VM[row].tolist(), found.count_VMG[row, :, kind].tolist())
            if neighbour
        }
        assert any(kept.values()) and all(wanted[kind][pair] == count for pair, count in kept.items())
        torch.testing.assert_close(found.share_VG[:, kind].sum(), torch.tensor(1.0))


def test_a_router_that_is_kept_is_the_same_to_the_bit_and_the_levels_are_new(steps, tmp_path):
    folder, _ = steps
    spec = Spec.load(folder / "ranking.yaml")
    deeper = msgspec.structs.replace(
        spec,
        model=msgspec.structs.replace(spec.model, expert_layers=2, transitions=8),
        training=msgspec.structs.replace(spec.training, router="keep"),
    )
    log = f"lmdb:{folder / 'events'}"
    train(deeper, log=log, out=tmp_path / "new", base=folder / "artifact", progress=False)
    old, new = load_artifact(folder / "artifact").model, load_artifact(tmp_path / "new").model
    for part in ("item_features", "request_features", "item_vector", "item_mlp", "router", "summary_norm"):
        before, after = (dict(m.get_submodule(part).state_dict()) for m in (old, new))
        assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before), part
    assert new.transitions.neighbour_VM.shape[1] == 8
    assert new.experts[0].head.weight.any(), "the level has learned"
    wider = msgspec.structs.replace(deeper, model=msgspec.structs.replace(deeper.model, width=32))
    with pytest.raises(ArtifactError, match="cannot keep the router"):
        train(wider, log=log, out=tmp_path / "wider", base=folder / "artifact", progress=False)


def test_transitions_without_codes_to_count_by_and_a_kept_router_without_one_are_refused(steps, tmp_path):
    folder, _ = steps
    text = SPEC.replace("source: item.id", "source: item.kind")
    (tmp_path / "ranking.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"model.transitions.*item\.id"):
        Spec.load(tmp_path / "ranking.yaml")
    spec = Spec.load(folder / "ranking.yaml")
    keep = msgspec.structs.replace(spec, training=msgspec.structs.replace(spec.training, router="keep"))
    with pytest.raises(SpecError, match="--from"):
        train(keep, out=tmp_path / "out", progress=False)


@pytest.mark.parametrize("warm", [False, True])
def test_a_served_request_reads_the_transitions_that_training_read(steps, warm):
    folder, taken = steps
    artifact = load_artifact(folder / "artifact")
    chosen = ["i3", "i7", "nobody knows this one", "i7", *(f"i{item}" for item in range(10, 20))]
    with open_log(f"lmdb:{folder / 'events'}") as log:
        ranker = Ranker.load(folder / "artifact", log=log)
        request = Request(user="u5", candidates=chosen, top=len(chosen), time_ms=10**13, mode="full")
        answers = [ranker.rank(request) for _ in range(2)]
        history = log.histories(["u5"], np.array([10**13]), 40, ["click"])
        codes = HistoryCodes(log, artifact.items, ["click"])
        encoded = encode_history(history, codes, np.array([10**13]), 20)
    model, items_file = artifact.model, artifact.items
    rows = items_file.row_of(chosen)
    columns = artifact.encoder.encode_items(artifact.items)
    with torch.no_grad():
        items = model.encode_items(torch.from_numpy(columns.ids), torch.from_numpy(columns.floats))
        nothing = Encoded(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
        seen = model.begin(request_inputs(nothing, encoded), items)
        none = Encoded(np.zeros((len(chosen), 0), np.int32), np.zeros((len(chosen), 0), np.float32))
        last = model.levels_from(seen, items, candidate_inputs(none, rows, np.zeros(len(chosen), np.int64)))[-1]
        wanted = dict(zip(chosen, model.probabilities(1, last)[:, 0].tolist(), strict=True))
    newest = columns.ids[items_file.row_of([f"i{item}" for item in taken[5][:-4:-1]]), 0].tolist()
    assert seen.recent_RJ[0, :3].tolist() == newest
    found = {item.item: item.scores["click"] for item in answers[warm].items}
    assert found == pytest.approx(wanted, rel=1e-4) and {item.level for item in answers[warm].items} == {1}
