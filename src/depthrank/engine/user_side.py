"""A user's history becomes an encoded state: the cached one where it fits, extended by the new tokens, or a fresh one.

Legend: L history tokens, P = L + 1 positions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from depthrank.engine.item_store import ItemSnapshot
from depthrank.engine.user_states import EncodedUser, HistoryTokens, Key, UserStates, Warmth
from depthrank.features import EncodedHistory
from depthrank.model import ElasticRanker, UserState


@dataclass(frozen=True)
class UserSide:
    """One request's user: the state, private to the request, and how much of it there was already.

    ``new_tokens``: history tokens that had to be encoded; ``found_depth``: layers that were there.
    """

    key: Key
    encoded: EncodedUser
    warmth: Warmth
    new_tokens: int
    found_depth: int

    @property
    def state(self) -> UserState:
        """The state; levels deepen it."""
        return self.encoded.state

    @property
    def worth_keeping(self) -> bool:
        """Whether it knows anything that the cache does not."""
        return self.warmth != "warm" or self.state.depth > self.found_depth


def tokens_of(history: EncodedHistory) -> HistoryTokens:
    """The tokens of one history."""
    length = int(history.length[0])
    return HistoryTokens(np.stack([column[0, :length] for column in (history.rows, history.actions, history.gaps)]))


def encode_user(
    model: ElasticRanker, states: UserStates, key: Key, history: EncodedHistory, items: ItemSnapshot
) -> UserSide:
    """The state of a history, at least as deep as the router reads, and counted in ``states``; nothing is kept yet."""
    tokens = tokens_of(history)
    held = states.find(key)
    kept = 0 if held is None else _tokens_in_common(held, tokens, items)
    with torch.no_grad():
        if held is None or (kept == 0 and len(tokens)):
            user = UserSide(key, _fresh(model, tokens, items), "cold", len(tokens), 0)
        else:
            warmth: Warmth = "warm" if kept == len(tokens) == len(held.tokens) else "extended"
            extended = _extended(model, held, kept, tokens, items)
            user = UserSide(key, extended, warmth, len(tokens) - kept, held.state.depth)
    states.count(user.warmth)
    return user


def _tokens_in_common(held: EncodedUser, tokens: HistoryTokens, items: ItemSnapshot) -> int:
    """Tokens from the start on that are the same and whose items still read as they were encoded."""
    kept = held.tokens.common_prefix(tokens)
    if held.item_version == items.version:
        return kept
    changed_L = items.differs(tokens.rows_L[:kept], held.item_version)
    return int(changed_L.argmax()) if changed_L.any() else kept


def _fresh(model: ElasticRanker, tokens: HistoryTokens, items: ItemSnapshot) -> EncodedUser:
    state = model.encoder.start(*_encoder_inputs(tokens, 0, items))
    return EncodedUser(tokens, model.encoder.deepen_(state, model.config.router_layers), items.version)


def _extended(
    model: ElasticRanker, held: EncodedUser, kept: int, tokens: HistoryTokens, items: ItemSnapshot
) -> EncodedUser:
    state = held.state.prefix(kept + 1)  # the start token, and a private list of layers
    if kept < len(tokens):
        state = model.encoder.extend(state, *_encoder_inputs(tokens, kept, items))
    return replace(held, tokens=tokens, state=state, item_version=items.version)


def _encoder_inputs(
    tokens: HistoryTokens, first: int, items: ItemSnapshot
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Item vectors [1, L, D], actions and gaps [1, L] of the tokens from ``first`` on."""
    rows_L, actions_L, gaps_L = tokens.values_3L[:, first:]
    vectors_LD = items.vectors(rows_L.astype(np.int64))
    return vectors_LD.unsqueeze(0), torch.from_numpy(actions_L).unsqueeze(0), torch.from_numpy(gaps_L).unsqueeze(0)
