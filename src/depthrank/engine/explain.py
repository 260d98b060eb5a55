"""The story of one request, in words and numbers, and what each shown item owes to the user's latest events.

"Because" is counterfactual: the request is scored again with one event of the history left out at a time, and an event
counts for an item by how much the item's value falls without it. Nothing is guessed from similarity. The scoring again
costs several full-depth passes over the shown items, so only the first of them are explained this way.

Legend: N candidates, C copies of the request, K tasks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from depthrank.engine.costs import USER, StageCost
from depthrank.engine.job import Job
from depthrank.engine.pace import USER_STAGE
from depthrank.engine.run_plan import Scores
from depthrank.features import Encoded, EncodedHistory
from depthrank.model import CandidateInputs

NEWEST_EVENTS = 8
REASONS_PER_ITEM = 2
EXPLAINED_ITEMS = 100


def explain(job: Job, scores: Scores, best: list[int]) -> dict[str, Any]:
    """What happened to the request, and for each item of ``best`` its rank by the router alone and its reasons."""
    facts = {
        "user": str(job.request.user),
        "user_known": bool(job.user_row[0] > 0),
        "history_length": job.history_length,
        "user_state": None if job.user is None else job.user.told(),
        "num_candidates": len(job.candidates),
        "scored": scores.scored,
        "decision": None if job.depth is None else job.depth.facts(),
        "costs": [_cost(stage) for stage in job.spent],
        "stopped": scores.stopped,
        "reasons": scores.reasons,
        "timings_ms": dict(job.timings.ms),
    }
    with job.timings.stage("explain"):
        because = _because(job, scores, best[:EXPLAINED_ITEMS])
        because += [[] for _ in best[EXPLAINED_ITEMS:]]
        router_rank = _router_ranks(job, best)
    shown = [
        {"item": job.candidates.id_of(i), "rank": place, "router_rank": at, "because": why}
        for place, (i, at, why) in enumerate(zip(best, router_rank, because, strict=True), start=1)
    ]
    return {**facts, "story": story(facts), "items": shown}


def _cost(stage: StageCost) -> dict[str, Any]:
    name = USER_STAGE if stage.level == USER else f"level{stage.level}"
    told = {"stage": name, "candidates": stage.candidates, "warm": stage.warm}
    return {**told, "predicted_ms": round(stage.predicted_ms, 3), "actual_ms": round(stage.actual_ms, 3)}


def _router_ranks(job: Job, best: list[int]) -> list[int | None]:
    """Where level 0 alone would have put these candidates, from 1; None where there was no time for it."""
    if job.seen is None:
        return [None] * len(best)
    model, n = job.generation.artifact.model, len(job.candidates)
    probability_NK = model.probabilities(0, model.route(job.seen, job.items, job.inputs)).numpy()
    value_N = job.valuation.of(probability_NK, np.arange(n))
    ahead = np.searchsorted(np.sort(-value_N), -value_N[best], side="left")
    return [1 + int(k) for k in ahead]


def _because(job: Job, scores: Scores, best: list[int]) -> list[list[dict[str, Any]]]:
    """Counterfactual reasons of these items, at the deepest level that scored one of them."""
    length = int(job.history.length[0])
    if not length or not best or job.seen is None:
        return [[] for _ in best]
    histories, dropped = leave_one_out(job.history, NEWEST_EVENTS)
    copies = len(dropped) + 1
    request = Encoded(np.repeat(job.encoded_request.ids, copies, 0), np.repeat(job.encoded_request.floats, copies, 0))
    shown = job.inputs.select(torch.tensor(best))
    many = CandidateInputs(
        shown.rows_N.repeat(copies),
        shown.ids_NI.repeat(copies, 1),
        shown.floats_NF.repeat(copies, 1),
        torch.arange(copies).repeat_interleave(len(best)),
    )
    model = job.generation.artifact.model
    logits = model.levels_from(job.begin(request, histories), job.items, many)
    deepest = max(0, int(scores.level_N[best].max()))
    probability_NK = model.probabilities(deepest, logits[deepest]).numpy()
    value_CN = job.valuation.of(probability_NK, np.tile(np.array(best, dtype=np.int64), copies))
    return reasons_of(value_CN.reshape(copies, len(best)), dropped, _tokens(job, length))


def _tokens(job: Job, length: int) -> list[dict[str, Any]]:
    """The history's tokens as a person reads them."""
    ids = job.generation.items.ids_of(job.history.rows[0, :length])
    actions = job.generation.artifact.spec.history_actions
    return [
        {"item": item, "actions": [action for k, action in enumerate(actions) if mask >> k & 1]}
        for item, mask in zip(ids, job.history.actions[0, :length].tolist(), strict=True)
    ]


def leave_one_out(history: EncodedHistory, newest: int) -> tuple[EncodedHistory, list[int]]:
    """The history itself and copies without each of its newest tokens; and the token that each copy lacks."""
    length = int(history.length[0])
    dropped = list(range(length - 1, max(-1, length - 1 - newest), -1))

    def copies(values: np.ndarray) -> np.ndarray:
        rows = [values[0]]
        for token in dropped:
            row = np.zeros_like(values[0])
            row[: length - 1] = np.delete(values[0, :length], token)
            rows.append(row)
        return np.stack(rows)

    shorter = np.array([length, *[length - 1] * len(dropped)], dtype=history.length.dtype)
    return (
        replace(
            history,
            rows=copies(history.rows),
            actions=copies(history.actions),
            gaps=copies(history.gaps),
            ages=copies(history.ages),
            length=shorter,
        ),
        dropped,
    )


def reasons_of(value_CN: np.ndarray, dropped: list[int], tokens: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """For each item, the events whose absence lowers its value most; ``value_CN``: row 0 with all events."""
    found: list[list[dict[str, Any]]] = []
    for n in range(value_CN.shape[1]):
        loss = value_CN[0, n] - value_CN[1:, n]
        best = [i for i in np.argsort(-loss) if loss[i] > 0][:REASONS_PER_ITEM]
        found.append([{**tokens[dropped[i]], "adds": float(loss[i])} for i in best])
    return found


def story(facts: dict[str, Any]) -> list[str]:
    """The request's way in sentences."""
    scored, took_ms = facts["scored"], facts["timings_ms"]
    lines = [
        _about_user(facts),
        f"{facts['num_candidates']} candidates were asked for; level 0 (the router) scored {_router_scored(facts)}.",
    ]
    if facts["user_state"] is not None:
        lines.insert(1, _about_state(facts["user_state"], took_ms.get(USER_STAGE, 0.0)))
    decision = facts["decision"] or {"words": []}
    lines += [f"Plan: {words}." for words in decision["words"]]
    survivors = {told["level"]: told["why"] for told in decision.get("survivors", ())}
    deeper = [level for level, number in enumerate(scored) if level and number]
    for before, level in zip([0, *deeper], deeper, strict=False):
        why = f" ({survivors[before]})" if before in survivors else ""
        ms = took_ms.get(f"level{level}", 0.0)
        lines.append(f"Level {level} scored {scored[level]} of them{why} in {ms:.1f} ms.")
    if not deeper:
        lines.append("No candidate went deeper.")
    lines.append(f"It stopped because {facts['stopped']}.")
    if facts["costs"]:
        predicted, actual = (sum(c[name] for c in facts["costs"]) for name in ("predicted_ms", "actual_ms"))
        lines.append(f"It cost {actual:.1f} ms of the thread; {predicted:.1f} ms were predicted.")
    lines.extend(f"Less than asked for: {reason}." for reason in facts["reasons"])
    return lines


def _about_state(state: dict[str, Any], took_ms: float) -> str:
    new = state["new_tokens"]
    how = {
        "warm": "was in the cache, with nothing to add",
        "extended": f"was in the cache and took {new} new event{'s' * (new != 1)}",
        "cold": "was not in the cache and was encoded from the start",
    }
    return f"The user's state {how[state['found']]}; the user side took {took_ms:.1f} ms."


def _about_user(facts: dict[str, Any]) -> str:
    known = "known from training" if facts["user_known"] else "not in the users file"
    if not facts["history_length"]:
        return f"User {facts['user']!r} ({known}) has no history: ranked by what is known of the request and the items."
    return f"User {facts['user']!r} ({known}) has a history of {facts['history_length']} events as of the request."


def _router_scored(facts: dict[str, Any]) -> str:
    scored = facts["scored"][0]
    return "all" if scored == facts["num_candidates"] else f"{scored} of them"
