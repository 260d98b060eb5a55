"""The work in each stage of ``Ranker.rank``: torch's counted in the very calls that it makes, numpy's by its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np

from counted_work import Work, counted
from depthrank.engine.timings import Timings
from depthrank.schema.wire import decode_request, encode_answer


def counted_stages(ranker: Any, bodies: Sequence[bytes]) -> dict[str, Any]:
    """Work of each stage, and the number of candidates and of history tokens: means of one request from each body."""
    works: dict[str, Work] = {}
    results: list[Any] = []
    stage = Timings.stage

    @contextmanager
    def counting_stage(timings: Timings, name: str) -> Iterator[None]:
        before = len(results)
        with stage(timings, name), counted(works.setdefault(name, Work())):
            yield
        touch(works[name], 2 * sum(map(array_bytes, results[before:])))  # numpy reads as many bytes as it writes

    sizes = {"candidates": 0, "history": 0}
    with remembering(ranker.log, ["histories"], results), remembering(
        ranker.artifact.encoder, ["encode_requests", "encode_history", "encode_candidates"], results
    ):  # fmt: skip
        setattr(Timings, "stage", counting_stage)  # noqa: B010 a method is put in its place for a while
        try:
            for body in bodies:
                results.clear()
                answer = ranker.rank(decode_request(body, ranker.limits))
                num_candidates = answer.candidates_scored[0]
                touch(works.setdefault("decode", Work()), len(body))
                touch(works["candidates"], 8 * num_candidates)
                touch(works["order"], 5 * num_candidates)  # a value and a level each
                touch(works.setdefault("encode", Work()), len(encode_answer(answer)))
                sizes["candidates"] += num_candidates
                sizes["history"] += next(int(r.length[0]) for r in results if hasattr(r, "length"))
        finally:
            setattr(Timings, "stage", stage)  # noqa: B010
    n = len(bodies)
    mean = {name: {f.name: getattr(work, f.name) / n for f in fields(work)} for name, work in works.items()}
    return {"stages": mean, **{name: size / n for name, size in sizes.items()}}


def touch(work: Any, num_bytes: int) -> None:
    """Bytes that something other than torch needs and moves."""
    work.needed_bytes += num_bytes
    work.moved_bytes += num_bytes


@contextmanager
def remembering(owner: Any, names: Sequence[str], results: list[Any]) -> Iterator[None]:
    """While inside, what these methods return is added to ``results`` too."""

    def spy(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            results.append(method(*args, **kwargs))
            return results[-1]

        return call

    for name in names:
        setattr(owner, name, spy(getattr(owner, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(owner, name)  # the class's own shows again


def array_bytes(result: Any) -> int:
    """Bytes of the arrays in a value object."""
    return sum(v.nbytes for f in fields(result) if isinstance(v := getattr(result, f.name), np.ndarray))
