"""Logs to request-grouped batches, with histories joined from the event log as of each request."""

from __future__ import annotations

from depthrank.data.batch import Batch
from depthrank.data.candidates import CandidateSource, evaluation_candidates, training_candidates
from depthrank.data.examples import Examples, concatenate, train_item_counts
from depthrank.data.fit_sample import fit_sample, joined_samples
from depthrank.data.import_log import ImportReport, import_log
from depthrank.data.load import RawDataset, load_dataset
from depthrank.data.load_examples import load_examples
from depthrank.data.loader import BatchLoader
from depthrank.data.served_traffic import examples_from_log

__all__ = [
    "Batch",
    "BatchLoader",
    "CandidateSource",
    "Examples",
    "ImportReport",
    "RawDataset",
    "concatenate",
    "evaluation_candidates",
    "examples_from_log",
    "fit_sample",
    "import_log",
    "joined_samples",
    "load_dataset",
    "load_examples",
    "train_item_counts",
    "training_candidates",
]
