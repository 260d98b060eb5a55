"""The table of `bench_sharing.py`: medians in words, speed-ups, distance from the floor, geometric means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RIVALS = ("eager", "folded", "graph", "compile", "vmap", "compile_vmap", "ort", "ahead")
COMPILED = ("compile", "compile_vmap", "ahead")


def table(result: dict[str, Any]) -> str:
    """Medians of one (model, threads), one line per N, and why variants are missing."""
    lines = []
    for size, row in result["sizes"].items():
        cells = " ".join(f"{name} {ms:.2f}" for name, ms in row["median_ms"].items())
        verdict = " ".join(f"{k} {v:.2f}" for k, v in ratios(row).items())
        lines.append(f"{result['model']:26} {result['threads']} thr N={size:5} ms: {cells}\n{'':34}{verdict}")
        if "peak_mb" in row:
            lines.append(f"{'':34}peak MB: " + " ".join(f"{k} {v:.0f}" for k, v in row["peak_mb"].items()))
    built = {**result.get("build_seconds", {})}
    first = result.get("first_call_seconds", {})
    seconds = " ".join(f"{k} {built[k] + first.get(k, 0.0):.1f}" for k in built)
    lines.append(f"{'':34}seconds to build and call once: {seconds}")
    lines += [f"{'':34}{name} failed: {why}" for name, why in result.get("failures", {}).items()]
    if "stopped" in result:
        lines.append(f"{result['model']:26} stopped: {result['stopped']}")
    return "\n".join(lines)


def ratios(row: Mapping[str, Any]) -> dict[str, float]:
    """Speed-ups, distance from the floor, and the cap, of one line."""
    ms = row["median_ms"]
    rivals = [ms[name] for name in RIVALS if name in ms]
    out: dict[str, float] = {}
    for ours in ("ours", "bound"):
        best = min((ms[name] for name in (ours, f"{ours}_compiled", f"{ours}_ahead") if name in ms), default=None)
        if best is None or not rivals:
            continue
        out[f"{ours}_vs_eager"] = ms["eager"] / best if "eager" in ms else math.nan
        out[f"{ours}_vs_best_rival"] = min(rivals) / best
        out[f"{ours}_cap"] = row.get(f"cap_{ours}", math.nan)
        out[f"{ours}_floor_ms"] = row.get(f"floor_ms_{ours}", math.nan)
        out[f"{ours}_over_floor"] = best / row[f"floor_ms_{ours}"] if row.get(f"floor_ms_{ours}") else math.nan
    if "eager" in ms and "folded" in ms:
        out["not_sharing_fold"] = ms["eager"] / ms["folded"]
    if "ours" in ms and "ours_plain" in ms:
        out["not_sharing_fold_in_ours"] = ms["ours_plain"] / ms["ours"]
    if "folded" in ms and "graph" in ms:
        out["not_sharing_graph"] = ms["folded"] / ms["graph"]
    if "graph" in ms and "ours" in ms:
        out["sharing_alone"] = ms["graph"] / ms["ours"]
    plain = [ms[name] for name in RIVALS if name in ms and name not in COMPILED]
    if plain and "ours" in ms:
        out["uncompiled_vs_best_rival"] = min(plain) / ms["ours"]
    if "ahead" in ms and "ours_ahead" in ms:
        out["sharing_alone_ahead"] = ms["ahead"] / ms["ours_ahead"]
    if "compile" in ms and "ours_compiled" in ms:
        out["sharing_alone_compiled"] = ms["compile"] / ms["ours_compiled"]
    return out


def geometric_mean(values: list[float]) -> float:
    good = [value for value in values if value > 0 and math.isfinite(value)]
    return math.exp(sum(map(math.log, good)) / len(good)) if good else math.nan


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means over models for every (threads, N), with the caps beside them."""
    rows: dict[tuple[int, str], list[dict[str, float]]] = {}
    for result in results:
        for size, row in result["sizes"].items():
            rows.setdefault((result["threads"], size), []).append(ratios(row))
    keys = ("ours_vs_eager", "ours_vs_best_rival", "ours_cap", "bound_vs_eager", "bound_vs_best_rival", "bound_cap",
            "not_sharing_fold", "not_sharing_graph", "sharing_alone", "sharing_alone_compiled",
            "sharing_alone_ahead", "uncompiled_vs_best_rival")  # fmt: skip
    return [
        {"threads": threads, "candidates": int(size), "models": sum("ours_vs_eager" in r for r in found)}
        | {key: geometric_mean([r[key] for r in found if key in r]) for key in keys}
        for (threads, size), found in sorted(rows.items(), key=lambda item: (item[0][0], int(item[0][1])))
    ]
