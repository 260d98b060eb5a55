"""A user's history becomes an encoded state: the cached one where it fits, extended by the new tokens, or a fresh one.
States are filled up to few sizes (``call_size``).

Legend: L history tokens, P = L + 1 positions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.engine.call_size import history_size
from depthrank.engine.item_store import ItemSnapshot
from depthrank.engine.overlay_ages import StateAges
from depthrank.engine.user_states import EncodedUser, HistoryTokens, Key, UserStates, Warmth
from depthrank.features import EncodedHistory
from depthrank.model import ElasticRanker, UserState
from depthrank.precision.product_mode import products_of


@dataclass(frozen=True)
class UserSide:
    """One request's user: the state, private to the request, and how much of it there was already.

    ``new_tokens``: history tokens that had to be encoded; ``found_depth``: layers that were there; ``older``: the state
    was encoded before a delta that changed what it is made of.
    """

    key: Key
    encoded: EncodedUser
    warmth: Warmth
    new_tokens: int
    found_depth: int
    older: bool = False

    @property
    def state(self) -> UserState:
        """The state; levels deepen it."""
        return self.encoded.state

    def told(self) -> dict[str, Any]:
        """How it was found, for explanations and records."""
        return {"found": self.warmth, "new_tokens": self.new_tokens, "older": self.older}

    @property
    def worth_keeping(self) -> bool:
        """Whether it knows anything that the cache does not."""
        return self.warmth != "warm" or self.state.depth > self.found_depth


def tokens_of(history: EncodedHistory) -> HistoryTokens:
    """The tokens of one history."""
    length = int(history.length[0])
    return HistoryTokens(np.stack([column[0, :length] for column in (history.rows, history.actions, history.gaps)]))


@dataclass(frozen=True)
class Now:
    """What a state is made of now: the newest delta, the first one with today's encoder, and how old states may be."""

    sequence: int
    encoder_since: int
    ages: StateAges


def encode_user(
    model: ElasticRanker,
    states: UserStates,
    key: Key,
    history: EncodedHistory,
    items: ItemSnapshot,
    now: Now | None = None,
) -> UserSide:
    """The state of a history, at least as deep as the router reads, and counted in ``states``; nothing is kept yet."""
    tokens = tokens_of(history)
    held = states.find(key)
    kept, older = (None, False) if held is None else _usable(held, tokens, items, now, key[1])
    sequence = 0 if now is None else now.sequence
    with torch.no_grad():
        if held is None or kept is None or (kept == 0 and len(tokens)):
            fresh = _fresh(model, tokens, items, sequence)
            user = UserSide(key, fresh, "cold", len(tokens), 0)
        else:
            warmth: Warmth = "warm" if kept == len(tokens) == len(held.tokens) else "extended"
            extended = _extended(model, held, kept, tokens, items)
            if not older:
                extended = replace(extended, made_by=sequence, made_version=items.version)
            user = UserSide(key, extended, warmth, len(tokens) - kept, held.state.depth, older)
    states.count(user.warmth, user.older)
    return user


def _usable(
    held: EncodedUser, tokens: HistoryTokens, items: ItemSnapshot, now: Now | None, user: str
) -> tuple[int | None, bool]:
    """(tokens from the start on that are the same and still read as they were encoded, whether a delta outdated them);
    None where the encoder is another.

    What a delta outdated counts as the same for as long as it may serve.
    """
    kept = held.tokens.common_prefix(tokens)
    if held.item_version != items.version:
        kept = _until(items.differs(tokens.rows_L[:kept], held.item_version))
    if now is None or held.made_by == now.sequence:
        return kept, False
    if held.made_by > now.sequence:
        return None, False  # this request began before the delta, and stays there
    same_encoder = held.made_by >= now.encoder_since
    fitting = _until(items.outdated(tokens.rows_L[:kept], held.made_version)) if same_encoder else None
    if fitting != kept and now.ages.may_serve(held.made_by, user):
        return kept, True
    return fitting, False


def _until(differs_L: NDArray[np.bool_]) -> int:
    """How many stand before the first that differs."""
    return int(differs_L.argmax()) if differs_L.any() else len(differs_L)


def _fresh(model: ElasticRanker, tokens: HistoryTokens, items: ItemSnapshot, sequence: int) -> EncodedUser:
    inputs = _encoder_inputs(model, tokens, 0, items)
    with products_of(inputs[0].shape[1], model.config.width):
        state = model.encoder.start(*inputs)
        state = model.encoder.deepen_(state, model.config.router_layers)
    return EncodedUser(tokens, state, items.version, sequence, items.version)


def _extended(
    model: ElasticRanker, held: EncodedUser, kept: int, tokens: HistoryTokens, items: ItemSnapshot
) -> EncodedUser:
    if kept == len(tokens) == len(held.tokens):
        state = held.state.prefix(held.state.num_positions)  # all of it, and a private list of layers
    else:
        new = _encoder_inputs(model, tokens, kept, items)
        state = held.state.prefix(kept + 1)  # the start token
        with products_of(new[0].shape[1], model.config.width):
            state = model.encoder.extend(state, *new) if new[0].shape[1] else state
    return replace(held, tokens=tokens, state=state, item_version=items.version)


def _encoder_inputs(
    model: ElasticRanker, tokens: HistoryTokens, first: int, items: ItemSnapshot
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Item vectors [1, L, D], actions and gaps [1, L] of the tokens from ``first`` on, filled up behind the last."""
    size = history_size(len(tokens), model.config.history_length)
    rows_L, actions_L, gaps_L = np.pad(tokens.values_3L[:, first:], ((0, 0), (0, size - len(tokens))))
    vectors_LD = items.vectors(rows_L.astype(np.int64))
    return vectors_LD.unsqueeze(0), torch.from_numpy(actions_L).unsqueeze(0), torch.from_numpy(gaps_L).unsqueeze(0)
