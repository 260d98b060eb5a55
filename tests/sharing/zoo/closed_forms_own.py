"""Closed forms of the work that sharing leaves in our own awkward models; derivations are in docs/sharing-flops.md.

Letters as in ``closed_forms``. In the feature-cross models a user and b item fields are half the full set, F = a + b.
"""

from __future__ import annotations

from .closed_forms import Work, mixed, passed, split
from .entry import Sizes, WorkForm


def request(flops: int) -> Work:
    """Products of request-side values alone."""
    return Work(before=flops, request=flops)


def item(flops: int) -> Work:
    """Products of item-only values alone."""
    return Work(before=flops, item=flops)


def candidate(flops: int) -> Work:
    """Products that stay once per candidate."""
    return Work(before=flops, candidate=flops)


def fields(s: Sizes) -> tuple[int, int]:
    return max(2, s.num_user // 2), max(2, s.num_item // 2)


def pairs(s: Sizes) -> tuple[int, int, int]:
    """Field pairs (user, user), (user, item), (item, item)."""
    a, b = fields(s)
    return a * (a - 1) // 2, a * b, b * (b - 1) // 2


def tail(s: Sizes) -> Work:
    """A tower behind its first layer."""
    return mixed(*s.mlp) + mixed(s.mlp[1], 1)


def tower(s: Sizes, request_dim: int, item_dim: int, mixed_dim: int = 0) -> Work:
    return split(request_dim, item_dim, s.mlp[0], mixed_dim) + tail(s)


def embeddings(s: Sizes, outputs: int) -> Work:
    """A linear over all stacked embeddings of the cross models."""
    a, b = fields(s)
    return split(a * s.width, b * s.width, outputs)


def dim(s: Sizes) -> int:
    return sum(fields(s)) * s.width


# --- Histories -------------------------------------------------------------------------------------------------------


def target_attention(s: Sizes) -> Work:
    """The encoder is the request's; keys and values once, the candidate's query is the item's."""
    d, tokens = 2 * s.width, s.history + 1
    layer = tokens * (3 + 1 + 8) * 2 * d * d + 4 * tokens * tokens * d
    attend = item(2 * d * d) + request(tokens * 4 * d * d) + candidate(4 * tokens * d + 2 * d * d)
    return request(2 * layer) + attend + tower(s, d, d, d)


def hstu(s: Sizes) -> Work:
    """Causal: history rows never see the candidate; of the last block they give keys and values only."""
    d, past = 2 * s.width, s.history
    tokens = past + 1
    before = 2 * (tokens * (8 + 2) * d * d + 4 * tokens * tokens * d)
    encoder = past * 10 * d * d + 4 * past * past * d + past * 4 * d * d
    first = Work(item=8 * d * d + 2 * d, candidate=4 * past * d + 2 * d * d)
    second = Work(candidate=8 * d * d + 4 * past * d + 2 * d + 2 * d * d)
    return Work(before, request=encoder) + first + second + mixed(d, 3)


def causal_transformer(s: Sizes) -> Work:
    """As HSTU; a candidate's weight on its own value scales a vector and is no product."""
    d, past = 2 * s.width, s.history
    tokens, rest = past + 1, (2 + 16) * d * d
    before = 2 * (tokens * (6 * d * d + rest) + 4 * tokens * tokens * d)
    encoder = past * (6 * d * d + rest) + 4 * past * past * d + past * 4 * d * d
    first = Work(item=6 * d * d + 2 * d, candidate=4 * past * d + rest)
    second = Work(candidate=6 * d * d + 4 * past * d + 2 * d + rest)
    return Work(before, request=encoder) + first + second + mixed(d, 1)


def early_fusion(s: Sizes) -> Work:
    """Bidirectional: behind the first softmax every row has seen the candidate; the last layer is read at one row.

    The class token is a constant. Of the first scores, (history, history) and (history, class) are the request's,
    (candidate, class) and (candidate, candidate) the item's; weights on the class and own values only scale vectors.
    """
    d, past, dd = s.width, s.history, s.width**2
    tokens, rest = past + 2, 10 * s.width**2
    before = 2 * (tokens * 16 * dd + 4 * tokens * tokens * d)
    first = Work(request=past * 6 * dd + 2 * d * (past * past + 2 * past), item=6 * dd + 3 * 2 * d)
    first += Work(candidate=2 * d * 2 * past + 2 * d * tokens * past + tokens * rest)
    last = Work(candidate=2 * dd + tokens * 4 * dd + 4 * tokens * d + rest)
    return Work(before) + first + last + mixed(d, d) + mixed(d, 2)


def user_gru(s: Sizes) -> Work:
    hidden = 2 * s.width
    steps = s.history * 2 * 3 * hidden * ((s.width + hidden) + 2 * hidden)
    return request(steps) + tower(s, hidden, s.width)


def user_lstm(s: Sizes) -> Work:
    """Both directions are the request's, and so is u W of the bilinear u W v, which torch does not count."""
    bilinear = Work(request=2 * 2 * s.width * s.width, candidate=2 * s.width)
    return request(2 * s.history * 2 * 4 * s.width * 2 * s.width) + bilinear


def candidate_gru(s: Sizes) -> Work:
    return item(5 * 2 * 3 * s.width * (2 + s.width)) + request(2 * s.width**2) + mixed(2 * s.width, 1)


def length_masked_attention(s: Sizes) -> Work:
    return item(2 * s.width**2) + candidate(4 * s.history * s.width) + tower(s, s.width, s.width, s.width)


def masked_din(s: Sizes) -> Work:
    d, block = 2 * s.width, 2 * 2 * s.width * 32
    unit = Work(s.history * 4 * block, request=s.history * block, candidate=s.history * block)
    later = (mixed(32, 16) + mixed(16, 1)) * s.history
    pooling = Work(candidate=2 * s.history * d)
    return unit + later + pooling + split(3 * s.width, d, s.mlp[0], d) + mixed(s.mlp[0], 1)


def serving_dien(s: Sizes) -> Work:
    """The extractor is the request's; AUGRU is sequential in the candidate, but its input columns split."""
    d, steps = s.width, s.history
    extract = request(steps * 2 * 3 * d * 2 * d + steps * 2 * d * d)
    scores = candidate(2 * steps * d)
    evolve = (split(d, 0, 2 * d, d) + split(d, 0, d, d)) * (steps - 1)
    start = Work(before=12 * d * d, request=8 * d * d)  # the first state is zero, and so is its reset
    return extract + scores + evolve + start + tower(s, 0, d, d)


def multi_interest(s: Sizes) -> Work:
    interests = 4
    encoder = s.history * (2 * s.width * 4 * s.width + 2 * 4 * s.width * interests + 2 * interests * s.width)
    return request(encoder) + candidate(2 * interests * s.width) + Work(candidate=2 * interests * s.width)


def search_based(s: Sizes) -> Work:
    """Keys and values of the whole history are projected once, and the candidate picks rows of the projection."""
    d, picked = s.width, max(2, s.history // 5)
    search = item(2 * d * d) + request(s.history * 2 * d * d) + candidate(2 * s.history * d)
    project = item(2 * d * d) + Work(picked * 4 * d * d, request=s.history * 4 * d * d)
    attend = project + candidate(4 * picked * d + 2 * d * d)
    return search + attend + tower(s, 0, d, d)


def time_gap(s: Sizes) -> Work:
    d = s.width
    attend = item(2 * d * d) + request(s.history * 2 * d * d) + candidate(4 * s.history * d)
    return attend + tower(s, 0, d, 2 * d)


# --- Crosses ---------------------------------------------------------------------------------------------------------


def fwfm(s: Sizes) -> Work:
    user_user, user_item, item_item = pairs(s)
    return split(user_user, item_item, 1, user_item)


def matrix_fwfm(s: Sizes) -> Work:
    a, b = fields(s)
    per_field = 2 * (a + b) * s.width
    return Work(before=(a + b) * per_field, request=a * per_field, item=b * per_field) + candidate(per_field)


def pnn(s: Sizes) -> Work:
    a, b = fields(s)
    user_user, user_item, item_item = pairs(s)
    run_as_products = Work(item=2 * user_item * 2 * s.width)  # bound, they stay multiply-and-sum
    return run_as_products + tower(s, a * s.width + 2 * user_user, b * s.width + 2 * item_item, 2 * user_item)


def xdeepfm(s: Sizes, maps: int = 8) -> Work:
    a, b = fields(s)
    num = a + b
    first = split(a * a * s.width, b * b * s.width, maps, 2 * a * b * s.width)
    return first + candidate(2 * num * maps * maps * s.width) + mixed(2 * maps, 1) + tower(s, a * s.width, b * s.width)


def senet_bilinear(s: Sizes) -> Work:
    a, b = fields(s)
    user_user, user_item, item_item = pairs(s)
    gates = split(2 * a, 2 * b, (a + b) // 2) + mixed((a + b) // 2, a + b)
    per_pair = 2 * s.width * s.width
    bilinear = Work((user_user + user_item + item_item) * per_pair, request=a * per_pair, item=(b - 1) * per_pair)
    crossed = tower(s, user_user * s.width, item_item * s.width, user_item * s.width)
    return gates + bilinear + crossed + mixed(dim(s), s.mlp[0])


def final_mlp(s: Sizes, num_heads: int = 2) -> Work:
    """One gate is the request's, one the item's; each meets the other side's embeddings per candidate."""
    (a, b), d, (h1, h2) = fields(s), s.width, s.mlp
    gate = 2 * d * h2 + 2 * h2 * dim(s)
    streams = split(a * d, 0, h1, b * d) + split(0, b * d, h1, a * d) + mixed(h1, h2) * 2
    width = h2 // num_heads
    fusion = candidate(2 * num_heads * width * width + 2 * num_heads * width)
    return request(gate) + item(gate) + streams + mixed(h2, 1) * 2 + fusion


def dcn_mix_einsum(s: Sizes, rank: int = 8, num_experts: int = 3) -> Work:
    behind = candidate(num_experts * (2 * rank * rank + 2 * rank * dim(s)) + 2 * num_experts * dim(s))
    first = embeddings(s, num_experts * rank) + embeddings(s, num_experts) + behind
    second = mixed(dim(s), num_experts * rank) + mixed(dim(s), num_experts) + behind
    return first + second + mixed(dim(s), 1)


def gated_cross(s: Sizes) -> Work:
    crosses = embeddings(s, dim(s)) * 2 + (mixed(dim(s), dim(s)) + passed(fields(s)[0] * s.width, dim(s))) * 2
    return crosses + embeddings(s, 1) + mixed(dim(s), 1)


def wukong(s: Sizes) -> Work:
    (a, b), d = fields(s), s.width
    num = a + b
    half = num - num // 2
    compress, linear = 2 * 3 * d, 2 * (num // 2) * d
    over_fields = Work(num * (compress + linear), request=a * (compress + linear), item=b * (compress + linear))
    block = candidate(2 * num * d * 3) + mixed(3 * num, 32) + mixed(32, half * d)
    return over_fields + candidate(num * (compress + linear)) + block * 2 + mixed(num * d, 1)


def field_attention(s: Sizes) -> Work:
    (a, b), dd = fields(s), 2 * s.width * s.width
    num = a + b
    attend = candidate(4 * num * num * s.width + num * dd)
    first = Work(num * 4 * dd, request=a * 4 * dd, item=b * 4 * dd)
    return first + attend + candidate(num * 4 * dd) + attend + mixed(s.width, 1)


def einsum_bilinear(s: Sizes) -> Work:
    (a, b), d = fields(s), s.width
    return request(2 * a * 3 * d * d) + candidate(2 * 3 * a * b * d) + mixed(3 * a * b, 1)


def dlrm(s: Sizes) -> Work:
    """Dot products of two user embeddings are the request's, of two item embeddings the item's.

    Only a triangle is read. Unbound the items and the mixed dense vector are one block of rows, which is read on both
    sides of the users'; bound, each block of pairs stands alone, and those below the diagonal are never computed.
    """
    (a, b), d = fields(s), s.width
    user_user, user_item, item_item = pairs(s)
    num, per_dot = a + b + 1, 2 * d
    bottom = split(4, 3, s.mlp[1]) + mixed(s.mlp[1], d)
    unbound, bound = num * num - a * a, a + b + a * b
    dots = Work(num * num * per_dot, request=a * a * per_dot, item=(unbound - bound) * per_dot)
    dots += Work(candidate=bound * per_dot)
    return bottom + dots + tower(s, user_user, item_item, d + a + b + user_item)


def nfm(s: Sizes) -> Work:
    """The pooled vector is mixed: sharing leaves every product, and saves lookups only.

    Bound, the request's part of it passes through the first layer apart.
    """
    return tower(s, 0, 0, s.width) + Work(bound_request=2 * s.width * s.mlp[0])


# --- Gates -----------------------------------------------------------------------------------------------------------


def layer_norm_concat(s: Sizes) -> Work:
    """A norm scales and shifts all columns by two numbers per row, which pass through the linear."""
    return embeddings(s, s.mlp[0]) + tail(s)


def rms_norm_swiglu(s: Sizes) -> Work:
    residual = mixed(dim(s), 1) + passed(fields(s)[0] * s.width, 1)
    return embeddings(s, s.mlp[0]) * 2 + mixed(s.mlp[0], dim(s)) + residual


def residual_mlp(s: Sizes) -> Work:
    unit, width = s.mlp[1], dim(s)
    return embeddings(s, unit) + mixed(unit, width) * 3 + mixed(width, unit) * 2 + mixed(width, 1)


def input_batch_norm(s: Sizes) -> Work:
    a, b = fields(s)
    return tower(s, a * s.width + 4, b * s.width + 2)


def mask_net(s: Sizes) -> Work:
    h2 = s.mlp[1]
    block = embeddings(s, 2 * h2) + mixed(2 * h2, dim(s)) + mixed(dim(s), h2)
    return block * 2 + tower(s, 0, 0, 2 * h2)


def sparse_experts(s: Sizes, num_experts: int = 4) -> Work:
    h1, h2 = s.mlp
    experts = (embeddings(s, h1) + mixed(h1, h2)) * num_experts
    return embeddings(s, num_experts) + experts + candidate(2 * num_experts * h2) + mixed(h2, 2)


def user_gate(s: Sizes) -> Work:
    """Gates are the request's; the item's gated embeddings meet them per candidate."""
    (a, b), d, (h1, h2) = fields(s), s.width, s.mlp
    return request(2 * d * (dim(s) + h1 + h2)) + tower(s, a * d, 0, b * d)


def co_action(s: Sizes) -> Work:
    """The user's vector runs through the item's own matrices."""
    return candidate(2 * s.width * 4 + 2 * 4 * 4) + mixed(8, 1)


def generated_weights(s: Sizes, rank: int = 4) -> Work:
    d, h2 = s.width, s.mlp[1]
    made = request(2 * d * 16 + 2 * 16 * rank * rank)
    entered = item(2 * d * d + 2 * d * rank)
    return made + entered + candidate(2 * rank * rank + 2 * rank * h2) + mixed(h2, 1)


def hadamard_towers(s: Sizes) -> Work:
    d = 2 * s.width
    return tower(s, d, d) + mixed(2 * d + 2, 1)


def snapshot_gate(s: Sizes) -> Work:
    a, b = fields(s)
    return embeddings(s, a + b) + tower(s, 8 + 4, 2, dim(s))


def contextual_gate(s: Sizes) -> Work:
    """Slot and bid are context, so the slot's column block stays per candidate when items are bound."""
    d, h1 = s.width, s.mlp[0]
    return request(2 * d * d) + item(2 * (d + 2) * h1 + 2 * h1 * d) + tower(s, d, 0, 2 * d)


# --- Layouts ---------------------------------------------------------------------------------------------------------


def packed_fm(s: Sizes) -> Work:
    return tower(s, s.user_dim, s.item_dim)


def packed_floats(s: Sizes) -> Work:
    return tower(s, s.user_dim + s.width + 2, s.item_dim + 2) + split(2, 2, 1)


def two_towers(s: Sizes) -> Work:
    one_tower = 2 * 2 * s.width * s.mlp[0] + 2 * s.mlp[0] * s.mlp[1]
    return request(one_tower) + item(one_tower)


def siamese(s: Sizes) -> Work:
    h1, h2 = s.mlp
    encode = 2 * 3 * s.width * h1 + 2 * h1 * h2
    return request(encode) + item(encode) + tower(s, h2, h2, 2 * h2)


def in_place_writes(s: Sizes) -> Work:
    """The price is added to one of the user's columns, which makes that column mixed."""
    d = s.width
    return split(d - 1, d, s.mlp[0], d + 1) + mixed(s.mlp[0], 1) * 3


def boolean_masks(s: Sizes) -> Work:
    return item(2 * s.width) + tower(s, s.width, s.width, 2 * s.width + 2)


def three_blocks(s: Sizes, extra: int = 0) -> Work:
    """A tower over [u, v, u * v] and ``extra`` mixed columns."""
    return tower(s, s.width, s.width, s.width + extra)


def named_outputs(s: Sizes) -> Work:
    return item(2 * s.width) + request(2 * s.width) + tower(s, s.width, s.width)


def dict_outputs(s: Sizes) -> Work:
    return split(3 * s.width, 2 * s.width, s.mlp[0]) + mixed(s.mlp[0], 1) * 3


def optional_keywords(s: Sizes) -> Work:
    """Both of its multiply-and-sums against the history run as products."""
    attention = Work(candidate=4 * s.history * s.width)
    return item(2 * s.width**2) + attention + tower(s, 0, s.width + 1, s.width)


def conv_text(s: Sizes, query: int = 8, title: int = 12) -> Work:
    per_token = 2 * 3 * s.width * 2 * s.width
    return request(query * per_token) + item(title * per_token) + split(2 * s.width, 2 * s.width, 1, 2 * s.width)


def kernel_pooling(s: Sizes, query: int = 8, title: int = 12) -> Work:
    return candidate(2 * query * title * s.width) + mixed(7, 1)


WORK = {
    "TargetAttentionTransformer": target_attention,
    "HSTU": hstu,
    "CausalTransformer": causal_transformer,
    "EarlyFusionBert": early_fusion,
    "UserGRU": user_gru,
    "UserLSTM": user_lstm,
    "CandidateGRU": candidate_gru,
    "LengthMaskedAttention": length_masked_attention,
    "MaskedDIN": masked_din,
    "ServingDIEN": serving_dien,
    "MultiInterest": multi_interest,
    "SearchBasedInterest": search_based,
    "TimeGapAttention": time_gap,
    "FwFM": fwfm,
    "MatrixFwFM": matrix_fwfm,
    "PNN": pnn,
    "XDeepFM": xdeepfm,
    "SENETBilinear": senet_bilinear,
    "FinalMLP": final_mlp,
    "DCNMixEinsum": dcn_mix_einsum,
    "GatedCross": gated_cross,
    "Wukong": wukong,
    "FieldAttention": field_attention,
    "EinsumBilinear": einsum_bilinear,
    "DLRM": dlrm,
    "NFM": nfm,
    "LayerNormConcat": layer_norm_concat,
    "RMSNormSwiGLU": rms_norm_swiglu,
    "ResidualMLP": residual_mlp,
    "InputBatchNorm": input_batch_norm,
    "MaskNet": mask_net,
    "SparseExperts": sparse_experts,
    "UserGate": user_gate,
    "CoAction": co_action,
    "GeneratedWeights": generated_weights,
    "HadamardTowers": hadamard_towers,
    "SnapshotGate": snapshot_gate,
    "ContextualHistoryGate": contextual_gate,
    "PackedFM": packed_fm,
    "PackedFloats": packed_floats,
    "TwoTowers": two_towers,
    "Siamese": siamese,
    "InPlaceWrites": in_place_writes,
    "BooleanMasks": boolean_masks,
    "Bags": three_blocks,
    "TextHash": lambda s: three_blocks(s, extra=1),
    "NamedOutputs": named_outputs,
    "DictOutputs": dict_outputs,
    "OptionalKeywords": optional_keywords,
    "ConvText": conv_text,
    "KernelPooling": kernel_pooling,
}


def form(name: str, s: Sizes) -> WorkForm:
    """The closed form of our own model of this name."""
    return WORK[name](s).form()
