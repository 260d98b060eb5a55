"""The choice of formats: the fastest member of the family that holds, and never a slower one than fp32."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from depthrank.precision import Format
from depthrank.training.choose_formats import Assignment, Option, assignment_at, choose_formats, family
from depthrank.training.fit_precision import LayerRow, LayerTable
from depthrank.training.judge_precision import Accuracy

OPTIONS = {
    "a": [Option(Format.FP32, 10, 0), Option(Format.BF16, 6, 1e-6), Option(Format.INT8_STATIC, 3, 1e-2)],
    "b": [Option(Format.FP32, 10, 0), Option(Format.INT8_STATIC, 3, 1e-4)],
    "c": [Option(Format.FP32, 1, 0)],
}
lists = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), max_size=3)


def damage(assignment: Assignment) -> float:
    return sum(o.damage for n, of_layer in OPTIONS.items() for o in of_layer if o.format == assignment[n])


def test_without_a_price_every_layer_takes_its_fastest_format() -> None:
    assert assignment_at(0.0, OPTIONS) == {"a": Format.INT8_STATIC, "b": Format.INT8_STATIC, "c": Format.FP32}


def test_the_layer_that_does_most_damage_for_its_time_is_given_up_first() -> None:
    chosen = choose_formats(OPTIONS, lambda assignment: damage(assignment) < 1e-3)
    assert chosen.formats == {"a": Format.BF16, "b": Format.INT8_STATIC, "c": Format.FP32}
    assert chosen.rejected >= 1


def test_where_nothing_holds_all_is_fp32_and_where_all_holds_nothing_is_given_up() -> None:
    assert set(choose_formats(OPTIONS, lambda _: False).formats.values()) == {Format.FP32}
    assert choose_formats(OPTIONS, lambda _: True).formats == family(OPTIONS)[0]


@given(st.lists(lists, min_size=1, max_size=4), st.floats(0, 2))
def test_the_choice_holds_and_is_no_slower_than_fp32(layers: list[list[tuple[float, float]]], limit: float) -> None:
    formats = (Format.BF16, Format.INT8_STATIC, Format.INT8_DYNAMIC)
    options = {
        str(i): [Option(Format.FP32, 5, 0), *(Option(f, *pair) for f, pair in zip(formats, pairs, strict=False))]
        for i, pairs in enumerate(layers)
    }

    def sums(assignment: Assignment) -> tuple[float, float]:
        chosen = [o for n, of_layer in options.items() for o in of_layer if o.format == assignment[n]]
        return sum(o.time for o in chosen), sum(o.damage for o in chosen)

    found = choose_formats(options, lambda assignment: sums(assignment)[1] <= limit).formats
    assert sums(found)[1] <= limit
    assert sums(found)[0] <= 5 * len(options)


def test_layers_that_moved_no_order_alone_still_have_an_order_among_them() -> None:
    nothing = Accuracy(ne_change=0.0, top10_overlap=1.0, kept_gain=1.0, logit_error=0.0)
    rows = {
        name: LayerRow({Format.FP32: 2.0, Format.BF16: 1.0}, 1.0, {Format.BF16: error}, {Format.BF16: nothing})
        for name, error in (("a", 0.01), ("b", 0.02), ("c", 0.03))
    }
    members = family(LayerTable(None, rows, None).options())  # type: ignore[arg-type]
    in_bf16 = [{name for name, format in member.items() if format is Format.BF16} for member in members]
    assert in_bf16 == [{"a", "b", "c"}, {"a", "b"}, {"a"}, set()]
