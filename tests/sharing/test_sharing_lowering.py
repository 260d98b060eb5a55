"""What runs is the shared graph lowered: fewer kernels, buffers used again, blocks of rows; equal scores."""

from __future__ import annotations

import sys
from functools import cache

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from zoo import compiled
from zoo.oracle import largest_difference, pairwise

from depthrank.kernels import small_attention_kernel
from depthrank.sharing import Shared, share
from depthrank.sharing.blocks import blocks_of, rows_per_block
from depthrank.sharing.cost import work_by_region
from depthrank.sharing.in_place import writes_in_place
from depthrank.sharing.inputs import Sides, read_example, split_sides
from depthrank.sharing.ir import Graph, Node, Region
from depthrank.sharing.lowering import lower
from depthrank.sharing.lowering.run_alike_together import run_alike_together
from depthrank.sharing.program import Program
from depthrank.sharing.verify import distance, draw_inputs, run_program_in_double

MODELS = ("DCNv2", "AutoInt", "DIN", "PLE")
SIZES = zoo.Sizes(num_user=8, num_item=4, width=8, mlp=(16, 8), history=6, vocab=50)  # wide enough for DCNv2's experts


@cache
def shared_model(name: str) -> tuple[zoo.ZooModel, nn.Module, Shared]:
    model = zoo.make(name, SIZES)
    module = model.build()
    return model, module, share(module, model.example(), request_inputs=model.request_inputs)


def operators(program: Program) -> list[str]:
    return [n.op for n in program.graph.live() if n.region in (Region.REQUEST, Region.MIXED)]


@pytest.mark.parametrize("name", MODELS)
def test_a_lowered_graph_has_the_same_flops_and_the_same_values_in_double_precision(name: str) -> None:
    model, module, shared = shared_model(name)
    lowered = lower(shared.program)
    before, after = (work_by_region(p.graph, 1, 10) for p in (shared.program, lowered))
    assert [before[r].flops for r in before] == [after[r].flops for r in after]
    assert sum(w.launches for w in after.values()) < sum(w.launches for w in before.values())
    inputs = read_example(module, model.example())
    draw = draw_inputs(inputs, split_sides(inputs, model.request_inputs), 3, 9, seed=5)
    for a, b in zip(run_program_in_double(lowered, draw), run_program_in_double(shared.program, draw), strict=True):
        assert distance(a, b) < 1e-12


def test_lowering_a_lowered_graph_changes_nothing() -> None:
    program = lower(shared_model("DCNv2")[2].program)
    assert operators(lower(program)) == operators(program)


def test_contractions_with_weights_become_linears_and_experts_are_mixed_in_one_product() -> None:
    shared = shared_model("DCNv2")[2]
    assert operators(shared.program).count("einsum") > 3 * 4  # a projection an expert and a mixture a layer, at least
    assert "einsum" not in operators(lower(shared.program))


def test_attention_over_fields_runs_head_by_head_and_other_softmaxes_stay() -> None:
    assert operators(lower(shared_model("AutoInt")[2].program)).count("attend_by_heads") == 3
    assert "attend_by_heads" not in operators(lower(shared_model("PLE")[2].program))


def test_lookups_become_one_a_side_unless_their_tables_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    program = shared_model("PLE")[2].program
    assert operators(lower(program)).count("look_up_together") == 2
    assert "embedding" not in operators(lower(program))
    monkeypatch.setattr(sys.modules["depthrank.sharing.lowering.look_up_together"], "MOST_TABLE_BYTES", 100)
    assert "look_up_together" not in operators(lower(program))


def test_products_of_field_pairs_run_as_one_and_are_read_without_a_copy() -> None:
    program = compiled.shared("FiBiNet", zoo.SMALL).program
    products = [n.numel for n in program.graph.live() if n.op == "aten.mul.Tensor" and n.region == Region.MIXED]
    lowered = lower(program)
    joined = [n.numel for n in lowered.graph.live() if n.op == "aten.mul.Tensor" and n.region == Region.MIXED]
    assert len(joined) < len(products) / 3
    assert sum(joined) == sum(products)
    read = [n for n in lowered.graph.live() if n.op == "cat" and n.region == Region.MIXED]
    assert max(len(n.args[0]) for n in read) < 20


def test_operations_that_need_each_other_run_in_turn() -> None:
    graph = Graph()
    x = graph.input("x", Region.MIXED, (4,), torch.float32)
    steps = [x]
    for _ in range(6):
        steps.append(pointwise(graph, "aten.exp.default", steps[-1]))
    sides = [pointwise(graph, "aten.neg.default", node) for node in steps]
    graph.outputs = sides
    program = Program(graph, Sides((), ("x",), {}, {}), (), None, ())
    assert operators(run_alike_together(program)) == operators(program)
    inputs = [graph.input(f"x{k}", Region.MIXED, (4,), torch.float32) for k in range(6)]
    graph.outputs = [pointwise(graph, "aten.neg.default", node) for node in inputs]
    assert operators(run_alike_together(program)).count("aten.neg.default") == 1


def test_a_flat_part_answers_as_its_module() -> None:
    model, _, shared = shared_model("DIN")
    inputs = model.draw(6, 1, 5)
    given = [inputs.request[n] for n in shared.parts.request_names]
    for a, b in zip(shared.parts.request(*given), shared.parts.request_module(*given), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("wrong", [-1, 50])
def test_an_id_outside_its_own_table_raises_although_the_joined_table_is_longer(wrong: int) -> None:
    model, _, shared = shared_model("PLE")
    inputs = model.draw(0, 1, 5)
    shared(inputs.request, inputs.candidate)
    bad = inputs.candidate | {"i0": torch.tensor([1, 2, wrong, 3, 4])}
    with pytest.raises(IndexError):
        shared(inputs.request, bad)


@pytest.mark.parametrize("name", MODELS)
def test_a_call_changes_neither_its_inputs_nor_the_state_nor_tables(name: str) -> None:
    model, module, shared = shared_model(name)
    inputs = model.draw(7, 1, 9)
    bound = shared.bind({n: inputs.candidate[n] for n in model.item_names})
    state, own = shared.encode(inputs.request), bound.encode(inputs.request)
    held = [*state.values, *own.values, *bound.tables, *inputs.request.values(), *inputs.candidate.values()]
    copies = [t.clone() for t in held]
    with torch.no_grad():
        truth = pairwise(model, module, inputs)
    others = {n: inputs.candidate[n] for n in bound.other_names}
    for _ in range(2):
        assert largest_difference(shared.score(state, inputs.candidate), truth) < 1e-5
        assert largest_difference(bound.score(own, torch.arange(9), others), truth) < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_scores_do_not_depend_on_the_size_of_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, module, shared = shared_model(name)
    inputs = model.draw(8, 1, 23)
    with torch.no_grad():
        whole = pairwise(model, module, inputs)
    calls: list[int] = []
    part = shared.parts.candidates(True)
    monkeypatch.setitem(shared.parts._candidates, True, lambda *given: calls.append(1) or part(*given))
    monkeypatch.setattr(shared.parts, "rows_at_once", 5)
    assert largest_difference(shared.score(shared.encode(inputs.request), inputs.candidate), whole) < 1e-5
    assert len(calls) == 5


@given(st.integers(1, 10_000), st.integers(1, 3_000))
def test_blocks_cover_every_row_once_and_are_one_unless_two_are_full(rows: int, at_once: int) -> None:
    blocks = list(blocks_of(rows, at_once))
    assert [r for b in blocks for r in range(b.start, b.stop)] == list(range(rows))
    assert (len(blocks) == 1) == (rows < 2 * at_once or at_once * 2 > rows)
    assert all(b.stop - b.start <= max(at_once, 2 * at_once - 1) for b in blocks)


def test_blocks_are_smaller_where_a_candidate_has_wide_values() -> None:
    def rows(history: int) -> int:
        graph = Graph()
        x = graph.input("x", Region.MIXED, (history, 64), torch.float32)
        graph.outputs = [pointwise(graph, "aten.exp.default", x)]
        return rows_per_block(graph.live())

    assert rows(1000) < rows(100) < rows(10)


def pointwise(graph: Graph, op: str, *operands: Node) -> Node:
    return graph.add(op, operands, Region.MIXED, operands[0].dims, operands[0].dtype)


def written(graph: Graph, *outputs: Node) -> set[str]:
    graph.outputs = list(outputs)
    nodes = [n for n in graph.live() if n.region == Region.MIXED]
    names = {n.index: n.op for n in nodes}
    return {names[index] for index in writes_in_place(nodes, graph.outputs)}


def test_a_buffer_is_written_again_only_when_every_view_of_it_is_read() -> None:
    graph = Graph()
    x = graph.input("x", Region.MIXED, (4,), torch.float32)
    fresh = pointwise(graph, "aten.rsub.Scalar", x)
    view = graph.add("reshape", (fresh, (2, 2)), Region.MIXED, (2, 2), torch.float32)
    done = pointwise(graph, "aten.tanh.default", fresh)
    assert written(graph, done) == {"aten.tanh.default"}
    later = graph.add("reshape", (pointwise(graph, "aten.exp.default", view), (4,)), Region.MIXED, (4,), torch.float32)
    assert written(graph, pointwise(graph, "aten.add.Tensor", done, later)) == {"aten.exp.default", "aten.add.Tensor"}
    assert written(graph, done, view) == set()


def test_inputs_are_never_written() -> None:
    graph = Graph()
    x = graph.input("x", Region.MIXED, (4,), torch.float32)
    view = graph.add("reshape", (x, (2, 2)), Region.MIXED, (2, 2), torch.float32)
    assert written(graph, pointwise(graph, "aten.tanh.default", x), pointwise(graph, "aten.exp.default", view)) == set()


class FieldTransformer(nn.Module):
    """A candidate's fields and the user's vector attend to one another; fields with id 0 are hidden."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.user, self.item = nn.Embedding(20, 8), nn.Embedding(50, 8)
        self.project = nn.Linear(8, 24)
        self.score = nn.Linear(8, 1)

    def forward(self, user: torch.Tensor, fields: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat((self.user(user).unsqueeze(1), self.item(fields)), dim=1)
        heads = self.project(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mask = None
        if self.masked:
            mask = torch.cat((torch.ones_like(user).unsqueeze(1), fields), dim=1)[:, None, None, :] > 0
        mixed = nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask)
        return self.score(torch.tanh(mixed.transpose(1, 2).flatten(2)).mean(dim=1)).squeeze(-1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_within_rows_runs_by_the_kernel_where_there_is_one(masked: bool) -> None:
    torch.manual_seed(0)
    module = FieldTransformer(masked).eval()
    example = {"user": torch.randint(0, 20, (4,)), "fields": torch.randint(0, 50, (4, 6))}
    shared = share(module, example, request_inputs=["user"], timed=False)
    by_kernel = small_attention_kernel() is not None
    assert operators(lower(shared.program)).count("attend_within_rows") == by_kernel
    fields = torch.randint(0, 50, (33, 6)) * (torch.rand(33, 6) < 0.7)
    user = torch.tensor([7])
    ours = shared({"user": user}, {"fields": fields})
    theirs = module(user.expand(33), fields)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
