"""Evaluation on held-out requests: figures per task and level, slices, intervals, and a report with plots."""

from __future__ import annotations

from depthrank.evaluate.about import About
from depthrank.evaluate.collected import Collected, collect
from depthrank.evaluate.evaluate_artifact import evaluate, score_split
from depthrank.evaluate.evaluation import Evaluation, evaluation_of
from depthrank.evaluate.scorer import LevelScores, ModelScorer, Scorer

__all__ = [
    "About",
    "Collected",
    "Evaluation",
    "LevelScores",
    "ModelScorer",
    "Scorer",
    "collect",
    "evaluate",
    "evaluation_of",
    "score_split",
]
