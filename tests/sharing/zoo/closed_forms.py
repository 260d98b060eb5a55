"""Closed forms of the work that sharing leaves in torch-rechub's models; the derivations are in docs/sharing-flops.md.

FLOPs are those of matrix products, 2 per multiply-add. ``Work`` adds up: a model's form is the sum of its parts.
Letters of the derivations: d width, U and I user and item features, F = U + I, Du = U d, Di = I d, L history length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .entry import Flops, Sizes, WorkForm

Form = Callable[[Sizes], WorkForm]

ATTENTION_HIDDEN = 36  # DIN's activation unit
AFM_HIDDEN = 64
MIX_RANK, MIX_EXPERTS = 32, 4
CROSS_LAYERS = 3
FEEDFORWARD = 2048  # nn.TransformerEncoderLayer's default


@dataclass(frozen=True)
class Work:
    """FLOPs of one part: per pair before; after: per request, per candidate, and per candidate of the item alone.

    ``bound_request`` is request work that only a bound catalogue adds.
    """

    before: int = 0
    request: int = 0
    candidate: int = 0
    item: int = 0
    bound_request: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.before + other.before,
            self.request + other.request,
            self.candidate + other.candidate,
            self.item + other.item,
            self.bound_request + other.bound_request,
        )

    def __mul__(self, times: int) -> Work:
        each = (self.before, self.request, self.candidate, self.item, self.bound_request)
        return Work(*(flops * times for flops in each))

    def form(self) -> WorkForm:
        """Bound, the item's own part is read from the catalogue's table instead of computed."""
        return WorkForm(
            self.before,
            Flops(self.request, self.candidate + self.item),
            Flops(self.request + self.bound_request, self.candidate),
        )


def mixed(inputs: int, outputs: int, rows: int = 1) -> Work:
    """A linear over mixed values: computed per candidate, before and after."""
    flops = 2 * inputs * outputs * rows
    return Work(before=flops, candidate=flops)


def split(request_dim: int, item_dim: int, outputs: int, mixed_dim: int = 0) -> Work:
    """A linear over [request; item; mixed] columns: each column block runs on the rows it depends on."""
    return Work(
        before=2 * (request_dim + item_dim + mixed_dim) * outputs,
        request=2 * request_dim * outputs,
        candidate=2 * mixed_dim * outputs,
        item=2 * item_dim * outputs,
    )


def passed(request_dim: int, outputs: int) -> Work:
    """The request-side term r of W (m + r) = W m + W r, computed apart so that r is never written out."""
    return Work(request=2 * request_dim * outputs)


def over_embeddings(s: Sizes, outputs: int) -> Work:
    """A linear over all concatenated embeddings."""
    return split(s.user_dim, s.item_dim, outputs)


def mlp_body(s: Sizes) -> Work:
    """An MLP over all embeddings, without its output layer."""
    return over_embeddings(s, s.mlp[0]) + mixed(*s.mlp)


def task_tower(s: Sizes) -> Work:
    hidden = s.mlp[1] // 2
    return mixed(s.mlp[1], hidden) + mixed(hidden, 1)


def wide_and_deep(s: Sizes) -> WorkForm:
    """DeepFM (its FM has no matrix product) and WideDeep: a linear part and an MLP."""
    return (over_embeddings(s, 1) + mlp_body(s) + mixed(s.mlp[1], 1)).form()


def dcn(s: Sizes) -> WorkForm:
    """Every cross layer is a linear of scalar multiples of x0, so only w_l . x0 remains of it."""
    return (over_embeddings(s, 1) * (CROSS_LAYERS + 1) + mlp_body(s) + mixed(s.mlp[1], 1)).form()


def dcn_v2(s: Sizes) -> WorkForm:
    """The first cross layer splits; x1 = x0 * W x0 + b + x0 is mixed throughout."""
    crosses = over_embeddings(s, s.dim) + mixed(s.dim, s.dim) * (CROSS_LAYERS - 1)
    return (crosses + passed(s.user_dim, s.dim) + mlp_body(s) + mixed(s.dim + s.mlp[1], 1)).form()


def dcn_mix(s: Sizes) -> WorkForm:
    """Gates and down-projections of the first layer split; behind the first tanh all is mixed."""
    behind_tanh = mixed(MIX_RANK, MIX_RANK) + mixed(MIX_RANK, s.dim)
    first = (over_embeddings(s, 1) + over_embeddings(s, MIX_RANK) + behind_tanh) * MIX_EXPERTS
    later = (mixed(s.dim, 1) + mixed(s.dim, MIX_RANK) + behind_tanh) * MIX_EXPERTS
    mixture = mixed(MIX_EXPERTS, s.dim)
    crosses = first + later * (CROSS_LAYERS - 1) + mixture * CROSS_LAYERS
    return (crosses + mlp_body(s) + mixed(s.dim + s.mlp[1], 1)).form()


def edcn(s: Sizes) -> WorkForm:
    """The bridge multiplies both streams, so only the first block's linears over embeddings split."""
    first = over_embeddings(s, 1) + over_embeddings(s, s.dim) + mixed(s.dim, s.dim)
    later = mixed(s.dim, 1) + mixed(s.dim, s.dim) * 2
    return (first + passed(s.user_dim, 1) + later * (CROSS_LAYERS - 1) + mixed(3 * s.dim, 1)).form()


def afm(s: Sizes) -> WorkForm:
    """The FM vector is mixed; only the linear part splits."""
    attention = mixed(s.width, AFM_HIDDEN) + mixed(AFM_HIDDEN, 1) + mixed(s.width, 1)
    return (over_embeddings(s, 1) + attention).form()


def pairs_of(s: Sizes) -> tuple[int, int, int]:
    """Field pairs (user, user), (user, item), (item, item)."""
    user, item = s.num_user, s.num_item
    return user * (user - 1) // 2, user * item, item * (item - 1) // 2


def fibinet(s: Sizes) -> WorkForm:
    """W_ij v_i runs where field i lives; SENET scales it by a scalar per field, which commutes with W_ij.

    A (user, user) product scaled by two numbers of the candidate meets its columns once a request: a number remains.
    Unbound, an item's v_i is as mixed as its scale, and W_ij (a_i v_i) is computed anew.
    """
    user_user, user_item, item_item = pairs_of(s)
    per_pair = 2 * s.width * s.width
    bilinear = Work(
        before=2 * per_pair * (user_user + user_item + item_item),
        request=per_pair * (user_user + user_item),
        item=2 * per_pair * item_item,
    )
    reduced = max(1, (s.num_user + s.num_item) // 3)
    senet = split(s.num_user, s.num_item, reduced) + mixed(reduced, s.num_user + s.num_item)
    columns = split(user_user * s.width, item_item * s.width, s.mlp[0], user_item * s.width)
    scaled_columns = Work(
        before=2 * user_user * s.width * s.mlp[0],
        request=2 * user_user * s.width * s.mlp[0],
        candidate=2 * user_user * s.mlp[0],
    )
    gated_columns = scaled_columns + mixed((user_item + item_item) * s.width, s.mlp[0])
    return (bilinear + senet + columns + gated_columns + mixed(*s.mlp) + mixed(s.mlp[1], 1)).form()


def deepffm(s: Sizes) -> WorkForm:
    """The MLP's columns of (user, user) products are the request's, those of (item, item) products the item's."""
    user_user, user_item, item_item = pairs_of(s)
    first = split(user_user * s.width, item_item * s.width, s.mlp[0], user_item * s.width)
    return (first + mixed(*s.mlp) + mixed(s.mlp[1], 1)).form()


def autoint(s: Sizes) -> WorkForm:
    """Projections of the first layer run per field on its own side; behind its softmax all is mixed."""
    fields, projections = s.num_user + s.num_item, 4
    attention = Work(before=4 * fields * fields * s.width, candidate=4 * fields * fields * s.width)
    per_field = 2 * s.width * s.width * projections
    first = Work(before=fields * per_field, request=s.num_user * per_field, item=s.num_item * per_field) + attention
    later = Work(before=fields * per_field, candidate=fields * per_field) + attention
    heads = mixed(s.dim, 1) + over_embeddings(s, 1) + mlp_body(s) + mixed(s.mlp[1], 1)
    return (first + later * 2 + heads).form()


def din(s: Sizes) -> WorkForm:
    """[t, h, t - h, t * h]: (W1 + W3 + W4 diag h) t runs per position, its weights made once per request.

    Bound, (W1 + W3) t would be read from the table, and W4 (t * h) still runs per position: no product is saved.
    """
    block = 2 * s.width * ATTENTION_HIDDEN
    unit = Work(
        before=s.history * 4 * block,
        request=s.history * block,
        candidate=s.history * block,
    )
    scores = mixed(ATTENTION_HIDDEN, 1, rows=s.history)
    pooling = Work(candidate=2 * s.history * s.width)  # written as multiply and sum, run as one product
    body = split(s.user_dim, s.item_dim, s.mlp[0], s.width) + mixed(*s.mlp) + mixed(s.mlp[1], 1)
    return (unit + scores + pooling + body).form()


def bst(s: Sizes) -> WorkForm:
    """Only the target's position is read, so the history gives keys and values, once per request.

    The target's score on its own key is the item's; its weight on its own value only scales a vector.
    """
    d, tokens = s.width, s.history + 1
    projection, feedforward = 2 * d * d, 4 * d * FEEDFORWARD
    before = tokens * (4 * projection + feedforward) + 4 * tokens * tokens * d
    read = 4 * s.history * d + projection + feedforward
    encoder = Work(before, request=s.history * 2 * projection, item=3 * projection + 2 * d, candidate=read)
    return (encoder + split(s.user_dim, s.item_dim, s.mlp[0], d) + mixed(*s.mlp) + mixed(s.mlp[1], 1)).form()


def shared_bottom(s: Sizes) -> WorkForm:
    return (mlp_body(s) + task_tower(s) * 2).form()


def esmm(s: Sizes) -> WorkForm:
    return ((mlp_body(s) + mixed(s.mlp[1], 1)) * 2).form()


def mmoe(s: Sizes, num_experts: int) -> WorkForm:
    return (mlp_body(s) * num_experts + over_embeddings(s, num_experts) * 2 + task_tower(s) * 2).form()


def ple(s: Sizes, num_levels: int, num_specific: int, num_shared: int, num_tasks: int = 2) -> WorkForm:
    """Level 1 reads embeddings and splits; deeper levels read mixed values."""
    experts, seen = num_specific * num_tasks + num_shared, num_specific + num_shared
    first = mlp_body(s) * experts + over_embeddings(s, seen) * num_tasks + over_embeddings(s, experts)
    deeper = (mixed(s.mlp[1], s.mlp[0]) + mixed(*s.mlp)) * experts + mixed(s.mlp[1], seen) * num_tasks
    shared_gates = mixed(s.mlp[1], experts) * (num_levels - 2)
    return (first + deeper * (num_levels - 1) + shared_gates + task_tower(s) * num_tasks).form()


def aitm(s: Sizes) -> WorkForm:
    transfer = mixed(s.mlp[1], s.mlp[1]) + mixed(s.mlp[1], s.mlp[1], rows=2) * 3
    return (mlp_body(s) * 2 + transfer + task_tower(s) * 2).form()
