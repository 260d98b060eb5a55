"""The model's metadata names every input that its features read."""

from __future__ import annotations

from pathlib import Path

from depthrank.schema import Spec
from depthrank.schema.spec_reads import columns_read
from depthrank.server.protocols.oip_request import described_inputs

RECIPES = Path(__file__).parents[3] / "recipes"


def test_columns_that_only_a_comparison_with_the_history_reads_are_inputs_too() -> None:
    spec = Spec.load(RECIPES / "trivago" / "ranking.yaml")
    plain = spec.to_plain()
    plain["features"] = {n: f for n, f in plain["features"].items() if n in ("hotel", "platform", "along_page")}
    told = {one["name"]: (one["datatype"], one["shape"]) for one in described_inputs(Spec.from_plain(plain))}
    assert told["place"] == ("FP64", [-1]) and told["context.platform"] == ("BYTES", [1])
    assert "price" not in told


def test_every_column_of_every_recipe_is_an_input() -> None:
    for path in sorted(RECIPES.glob("*/*.yaml")):
        spec = Spec.load(path)
        names, read = {one["name"] for one in described_inputs(spec)}, columns_read(spec)
        assert names >= {f"context.{name}" for name in read.context} | set(read.candidates), path
