"""Our own ranker, written pair by pair as anybody would write it, and shared: it agrees with the hand-written
request-centric one, and the compiler finds the same work to share.

Legend: B (request, candidate) pairs, P history positions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from depthrank.model import ElasticRanker
from depthrank.sharing import Shared, share

REQUEST_INPUTS = ["request_ids", "request_floats", "history_rows", "actions", "gaps", "ages", "length"]


class PairwiseRanker(nn.Module):
    """The elastic ranker over pairs: every row brings its own history, and every map is applied to it."""

    def __init__(self, ranker: ElasticRanker, item_columns: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.ranker = ranker
        self.register_buffer("item_ids", item_columns[0])
        self.register_buffer("item_floats", item_columns[1])

    def forward(
        self,
        request_ids: Tensor,
        request_floats: Tensor,
        history_rows: Tensor,
        actions: Tensor,
        gaps: Tensor,
        ages: Tensor,
        length: Tensor,
        item_row: Tensor,
        candidate_floats: Tensor,
    ) -> Tensor:
        """Logits [B, K] of the deepest level."""
        ranker, config = self.ranker, self.ranker.config
        items = ranker.encode_items(self.item_ids, self.item_floats)
        state = ranker.encoder.start(items.vector_UD[history_rows], actions, gaps)
        state = ranker.encoder.deepen_(state, config.router_layers)
        stream = state.x_SPD
        state = ranker.encoder.deepen_(state, config.encoder_layers)
        place = length.view(-1, 1, 1).expand(-1, 1, config.width)
        summary = ranker.summary_norm(stream.gather(1, place).squeeze(1))
        tokens = ranker.request_features(request_ids, request_floats)
        user = ranker.router.user_vector(summary, tokens)
        vector, bias = items.vector_UD[item_row], items.bias_UK[item_row]
        logits = (user.vector_RKD * vector.unsqueeze(1)).sum(-1) + user.bias_RK + bias
        logits = logits + ranker.router.context_term(candidate_floats)
        own = ranker.candidate_features(torch.zeros_like(item_row).unsqueeze(1)[:, :0], candidate_floats)
        candidate_tokens = torch.cat((items.tokens_UTD[item_row], own), dim=1)
        x = ranker.candidate_start(candidate_tokens.flatten(1))
        visible = torch.arange(state.x_SPD.shape[1]).unsqueeze(0) <= length.unsqueeze(1)
        age = nn.functional.pad(ages + 1, (1, 0))
        request_tokens = torch.cat((tokens, summary.unsqueeze(1)), dim=1)
        for expert in ranker.experts:
            attended = x.unsqueeze(1)
            for layer, attention in zip(expert.reads, expert.attention, strict=True):
                attended = attention(attended, state.keys_SHPd[layer], state.values_SHPd[layer], age, visible, length)
            x = attended.squeeze(1)
            mixed = torch.cat((candidate_tokens, x.unsqueeze(1)), dim=1)
            mixed = _interact(expert.interaction, mixed, request_tokens)
            x = x + expert.pool(mixed.flatten(1))
            x = x + expert.head_mlp(expert.head_norm(x))
            logits = logits + expert.head(expert.head_norm(x))
        return logits


def _interact(interaction: nn.Module, candidate: Tensor, request: Tensor) -> Tensor:
    """Wukong over the concatenation of both sides, not split."""
    x = torch.cat((request, candidate), dim=1)
    for layer in interaction.layers:
        mixed, summary = layer.mix_OT @ x, x.transpose(1, 2) @ layer.rank_Tk
        fm = layer.fm_mlp(layer.fm_norm((x @ summary).flatten(1))).view(-1, layer.num_fm, layer.width)
        x = layer.norm(torch.cat((mixed[:, : layer.num_fm] + fm, mixed[:, layer.num_fm :]), dim=1))
    return x


def shared_form(ranker: ElasticRanker, item_columns, make_inputs) -> Shared:
    """The pairwise module, shared over everything that depends on the request."""
    request, candidates = make_inputs([1, 1, 1, 1], [8, 5, 0, 3], seed=3)
    example = (*_columns(request), candidates.rows_N, candidates.floats_NF)
    return share(PairwiseRanker(ranker, item_columns).eval(), example, request_inputs=REQUEST_INPUTS)


def _columns(request) -> tuple[Tensor, ...]:
    columns = (request.ids_RI, request.floats_RF, request.history_rows_SL, request.actions_SL, request.gaps_SL)
    return (*columns, request.age_RL, request.length_R)


@torch.no_grad()
def test_our_ranker_written_pair_by_pair_and_shared_agrees_with_the_hand_written_one(ranker, make_inputs, item_columns):
    shared = shared_form(ranker, item_columns, make_inputs)
    for counts, lengths in (([9], [6]), ([1], [0]), ([3, 5, 2], [8, 0, 4])):
        request, candidates = make_inputs(counts, lengths, seed=11)
        by_hand = ranker(request, ranker.encode_items(*item_columns), candidates)[-1]
        by_name = dict(zip(REQUEST_INPUTS, _columns(request), strict=True))
        own = {"item_row": candidates.rows_N, "candidate_floats": candidates.floats_NF}
        assert_close(shared(by_name, own, candidates.request_of_candidate_N), by_hand, atol=2e-5, rtol=1e-5)


def test_the_compiler_finds_what_the_hand_written_form_shares(ranker, make_inputs, item_columns):
    flops = shared_form(ranker, item_columns, make_inputs).report.flops(1000)
    assert flops["after"] * 3 < flops["before"], "the user encoder alone is most of a pair's work"
