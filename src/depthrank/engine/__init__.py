"""Runs plans: candidates, history, features, levels, deadlines, order. No HTTP."""

from __future__ import annotations

from depthrank.engine.ranker import Ranker

__all__ = ["Ranker"]
