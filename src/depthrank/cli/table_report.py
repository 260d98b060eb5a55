"""The tables of an artifact as ``depthrank inspect`` prints them: what each feature costs, shares and earns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from depthrank.cli.terminal import say, table

COLUMNS = [
    "feature",
    "side",
    "ids",
    "own rows",
    "pool rows",
    "bytes",
    "lookups",
    "exact",
    "ids a row",
    "collide",
    "earns",
]
NUMBERS = tuple(COLUMNS[2:])
MOST_OVERLAPS = 10


def show_tables(told: Mapping[str, Any]) -> None:
    """Print the ``tables`` part of a training report."""
    fit = told.get("fit", {})
    budget = f" of a budget of {told['budget_bytes']:,}" if told.get("budget_bytes") else ""
    say(
        f"tables: {told['bytes']:,} bytes{budget} ({told['bytes_unplanned']:,} with an fp32 row an id), "
        f"width {told['width']}, planned as {told['row_format']}; "
        f"{told['exact_share']:.1%} of the lookups read rows of their own"
    )
    earned = fit.get("importance", {})
    total = sum(earned.values()) or 1.0
    rows = [_line(feature, earned.get(feature["feature"]), total) for feature in told["features"]]
    table("tables: what each feature costs and earns", COLUMNS, rows, right=NUMBERS)
    sharing = told.get("sharing", {})
    for way in sharing.get("tried", []):
        losses = ", ".join(f"{loss:.5f}" for loss in way["losses"])
        taken = ", taken" if way["sharing"] == sharing["chosen"] else ""
        say(f"hashed rows {way['sharing']}: validation loss {way['loss']:.5f} after a short training ({losses}){taken}")
    for overlap in told.get("overlaps", [])[:MOST_OVERLAPS]:
        say(
            f"{overlap['share']:.0%} of the lookups of {overlap['feature']} are of values that {overlap['other']} knows"
        )
    if fit:
        left = ", ".join(fit["pruned_features"]) or "none"
        formats = ", ".join(f"{side} {form}" for side, form in fit["formats"].items())
        say(f"pruned: {fit['pruned_rows']:,} rows; features: {left}; NE {fit['prune_ne_change']:+.4%}")
        beyond = "" if fit["within_limit"] else " (beyond tables.ne_limit: the budget decides)"
        say(f"stored as: {formats}; NE {fit['format_ne_change']:+.4%}{beyond}; {fit['bytes']:,} bytes")
    if "admission" in told:
        moved = told["admission"]
        say(f"admission: {moved['entered']:,} ids entered, {moved['left']:,} left, {moved['waiting']:,} wait for a row")


def _line(feature: Mapping[str, Any], earned: float | None, total: float) -> list[str]:
    """One feature; ``collide``: ids that nothing tells from another one; ``earns``: its share of the importance."""
    return [
        feature["feature"],
        feature["side"],
        f"{feature['num_ids']:,}",
        f"{feature['own_rows']:,}",
        f"{feature['pool_rows']:,}",
        f"{feature['bytes']:,}",
        f"{feature['lookups']:,}",
        f"{feature['exact_share']:.1%}",
        f"{feature['ids_per_pool_row']:.1f}",
        f"{feature['same_share']:.2%}",
        "" if earned is None else f"{earned / total:.1%}",
    ]
