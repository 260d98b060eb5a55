"""What training saw for a request is what serving computes for it, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depthrank.artifact import load_artifact
from depthrank.data import BatchLoader, load_dataset, load_examples
from depthrank.engine import Ranker
from depthrank.engine.candidates import resolve_candidates
from depthrank.engine.job import Job
from depthrank.engine.pace import Pace
from depthrank.engine.timings import Timings
from depthrank.events import open_log
from depthrank.features import Counters
from depthrank.model import candidate_inputs, request_inputs
from depthrank.schema import Request, Spec
from depthrank.schema.wire import check_request


@pytest.fixture(scope="module")
def both(world):
    """A ranker, and test batches made from the files by the training side's own classes."""
    artifact, spec = load_artifact(world.artifact), Spec.load(world.spec)
    with open_log(world.log_url, read_only=True) as log:
        raw = load_dataset(spec)
        counters = Counters.rebuild(spec, log, raw.items, raw.users)
        loader = BatchLoader(
            load_examples(spec, raw),
            "test",
            spec,
            encoder=artifact.encoder,
            log=log,
            counters=counters,
            items=raw.items,
            users=raw.users,
            ahead=0,
        )
        yield Ranker(artifact, log), list(loader)


def request_of(ranker, batch, r: int) -> Request:
    rows = slice(*batch.offsets[r : r + 2].tolist())
    return Request(
        user=batch.user[r],
        candidates={"item": ranker.items.ids_of(batch.item_row[rows]), "price": batch.columns["price"][rows].tolist()},
        context={name: values[r] for name, values in batch.context.items()},
        time_ms=int(batch.time_ms[r]),
        top=100,
        mode="full",
    )


def job_of(ranker, request: Request) -> Job:
    generation = ranker.generation
    checked = check_request(request, ranker.limits)
    snapshot = generation.store.snapshot()
    candidates = resolve_candidates(checked, generation.items, snapshot.size)
    history = ranker._history.read(ranker.generation, str(checked.user), checked.time_ms, Pace(lambda: 0.0), [])
    ones = np.ones(len(candidates))
    return Job(generation, snapshot, checked, candidates, ones, history, checked.time_ms, Timings(), 0)


def test_a_served_request_is_encoded_bit_for_bit_as_its_test_batch(both):
    ranker, batches = both
    compared = 0
    for batch in batches:
        for r in range(0, len(batch), 3):
            job, rows = job_of(ranker, request_of(ranker, batch, r)), slice(*batch.offsets[r : r + 2].tolist())
            assert np.array_equal(job.encoded_request.ids[0], batch.request.ids[r])
            assert np.array_equal(job.encoded_request.floats[0], batch.request.floats[r])
            for name in ("rows", "actions", "gaps", "ages", "length"):
                assert np.array_equal(getattr(job.history, name)[0], getattr(batch.history, name)[r]), name
            floats = batch.candidate.floats[rows]
            assert np.array_equal(job.inputs.floats_NF.numpy(), floats)
            place = ranker.artifact.encoder.layout.candidate.ids[0]
            assert place.feature == "place" and place.stop == 1, "the position is the candidates' only id"
            assert not batch.candidate.ids[rows].any() and not job.inputs.ids_NI.any(), "known to training alone"
            compared += len(floats)
    assert compared > 200


@torch.inference_mode()
def test_served_probabilities_are_those_of_the_batch_without_positions(both):
    ranker, batches = both
    model, batch = ranker.artifact.model, batches[0]
    items = ranker.generation.store.gather(np.arange(ranker.items.size))
    candidates = candidate_inputs(batch.candidate, batch.item_row, batch.request_of_candidate)
    candidates.ids_NI = torch.zeros_like(candidates.ids_NI)
    logits = model(request_inputs(batch.request, batch.history), items, candidates)
    probability_NK = model.probabilities(1, logits[1]).numpy()
    for r in range(0, len(batch), 7):
        start, stop = batch.offsets[r : r + 2].tolist()
        request = request_of(ranker, batch, r)
        served = {i.item: list(i.scores.values()) for i in ranker.rank(request).items}
        for item, expected in zip(request.candidates["item"], probability_NK[start:stop], strict=True):
            assert served[item] == pytest.approx(expected.tolist(), abs=2e-5)


def test_positions_never_matter_when_serving(both):
    ranker, batches = both
    request = request_of(ranker, batches[0], 0)
    before = [(i.item, i.value) for i in ranker.rank(request).items]
    table = ranker.artifact.model.candidate_features.table.source.packed_VB
    kept = table.clone()
    with torch.no_grad():
        table[1:].normal_()  # row 0 is padding, zeros in every table
        changed = [(i.item, i.value) for i in ranker.rank(request).items]
        table.copy_(kept)
    assert changed == before, "the only table of the candidate side is the position's"
