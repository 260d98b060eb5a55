"""Logs in, artifact out: import, encode, fit, calibrate, save. ``depthrank train`` and ``depthrank.train`` end here."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from blake3 import blake3

from depthrank.artifact import (
    Artifact,
    Contents,
    Manifest,
    default_log_url,
    load_artifact,
    save_artifact,
    with_level_flops,
)
from depthrank.catalogue import Catalogue
from depthrank.data import (
    BatchLoader,
    Examples,
    RawDataset,
    examples_from_log,
    fit_sample,
    import_log,
    joined_samples,
    load_dataset,
    load_examples,
)
from depthrank.data.candidates import OwnCandidates
from depthrank.engine.upserts import replay_upserts
from depthrank.events import EventLog, open_log
from depthrank.features import Counters, FeatureEncoder, FitSample
from depthrank.model import ElasticRanker, ModelConfig, derive_model_config
from depthrank.routing import AdaptivePolicy
from depthrank.schema import Spec
from depthrank.schema.dataset import EventsFile
from depthrank.training.admit_rows import admission_of
from depthrank.training.batch_inputs import ItemColumns
from depthrank.training.batch_stream import batch_stream
from depthrank.training.checkpoint import load_checkpoint, remove_checkpoint, save_checkpoint
from depthrank.training.choose_sharing import SharingTrials, choose_sharing
from depthrank.training.continue_from import check_continues, continued_model, deepened_model, keep_packed_rows_
from depthrank.training.fit_by_replay import FittedPolicy, fit_by_replay
from depthrank.training.fit_statistics import fit_statistics_
from depthrank.training.fit_tables import describe_plan, fit_tables, slot_traffic
from depthrank.training.foreign_modules import Factory, attach, foreign_facts, foreign_modules
from depthrank.training.level_metrics import calibrate, level_metrics, probabilities
from depthrank.training.loop import EpochResult, Scored, TrainingLoop
from depthrank.training.losses import TaskLoss
from depthrank.training.processes import ALONE, Processes
from depthrank.training.progress import TrainingProgress
from depthrank.training.replay_requests import HeldOut
from depthrank.training.report import render_report
from depthrank.training.sharded_tables import shard_tables_, sharded_weights, tables_of, whole_tables_
from depthrank.training.start_processes import check_together, started
from depthrank.training.step_losses import picks_from_catalogue


@dataclass(frozen=True)
class TrainReport:
    """What a training run did: the artifact's manifest and the numbers of its report."""

    out: Path
    manifest: Manifest
    summary: dict[str, Any]


def train(
    spec: Spec | str | Path,
    *,
    log: EventLog | str | None = None,
    out: str | Path,
    seed: int = 0,
    minutes: float | None = None,
    resume: bool = False,
    progress: bool = True,
    modules: Mapping[str, Factory] | None = None,
    base: str | Path | None = None,
    processes: int = 1,
) -> TrainReport:
    """Train a ranker from the spec's files and the event log, and save it as the artifact ``out``.

    ``log``: an event log or its URL; by default ``events`` beside ``out``. The files are imported into it (again is a
    no-op), and histories are read from it, so that serving from the same log sees the same features. Traffic that the
    system served before is trained on too, and the log's catalogue upserts are applied to the items. ``minutes`` bounds
    the fit (the best weights so far are saved); ``resume`` continues a run that was interrupted. ``modules`` holds
    callables that ``model.foreign`` of the spec names and no file does. The same seed, data and machine give the same
    weights. ``base``: an artifact to go on from, with its features and tables as they are, so that a delta can carry
    the result (``depthrank.artifact.make_delta``). ``processes`` train together and share the rows of the tables and
    the batches of a step (docs/cluster.md); the weights are those that one process learns.

    Raises SpecError, DataError (every mistake of the files at once), ArtifactError, StorageFullError, and CapacityError
    where TorchRec is missing or a process ended.
    """
    began = time.monotonic()
    spec = spec if isinstance(spec, Spec) else Spec.load(spec)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    opened = log if isinstance(log, EventLog) else open_log(log or default_log_url(out))
    options = _Options(spec, opened.url, out, seed, minutes, resume, dict(modules or {}), base)
    try:
        with started(processes, partial(_train_elsewhere, options)) as joined:
            return _train(options, opened, joined, TrainingProgress(progress and joined.leads), began)
    finally:
        if opened is not log:
            opened.close()


@dataclass(frozen=True)
class _Options:
    """What a run is asked for, the same in every process."""

    spec: Spec
    log_url: str
    out: Path
    seed: int
    minutes: float | None
    resume: bool
    modules: dict[str, Factory]
    base: str | Path | None


def _train_elsewhere(options: _Options, processes: Processes) -> None:
    """What a process does that was started to train with this one."""
    with open_log(options.log_url) as log:
        _train(options, log, processes, TrainingProgress(enabled=False), time.monotonic())


def _train(
    options: _Options, log: EventLog, processes: Processes, progress: TrainingProgress, began: float
) -> TrainReport:
    spec = options.spec
    continued = None if options.base is None else load_artifact(options.base, verify="all")
    check_continues(spec, continued)
    check_together(spec, processes)
    run = _Run(spec, log, options.out, options.seed, progress, options.modules, continued, processes)
    minutes = options.minutes if options.minutes is not None else spec.training.minutes
    return run.train(began, minutes, options.resume)


class _Run:
    """One training run: its inputs, built in the order they depend on each other."""

    def __init__(
        self,
        spec: Spec,
        log: EventLog,
        out: Path,
        seed: int,
        progress: TrainingProgress,
        modules: Mapping[str, Factory],
        base: Artifact | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.spec, self.log, self.out, self.seed, self.progress = spec, log, out, seed, progress
        self.modules, self.base, self.processes = modules, base, processes
        with progress.phase("reading the data"):
            self.raw: RawDataset = load_dataset(spec)
            replay_upserts(self.raw.items, log)
            self.files = load_examples(spec, self.raw)
        with progress.phase("importing events into the log"):
            if processes.leads:
                import_log(spec, self.raw, log)
            processes.wait()
        self.log_position = log.position()
        with progress.phase("fitting features and counters"):
            self.items: Catalogue = self.raw.items
            self.users: Catalogue | None = self.raw.users
            self.traffic = self._served_traffic()
            self.encoder = self._encoder()
            self.counters = Counters.rebuild(spec, log, self.items, self.users)

    def _encoder(self) -> FeatureEncoder:
        """Fitted to the data, or that of the artifact to go on from."""
        if self.base is not None:
            return self.base.encoder
        return FeatureEncoder.fit(self.spec, self.items, self.users, self._fit_sample())

    def _served_traffic(self) -> Examples | None:
        """Labelled requests that the system served itself, all of them for training; None where there are none."""
        served = examples_from_log(self.spec, self.log, self.raw)
        if served is None:
            return None
        return replace(served, split=np.zeros_like(served.split))

    def _fit_sample(self) -> FitSample:
        """Training values of the files and of the served traffic: an item that came by upsert is in the vocabulary."""
        files = fit_sample(self.files, self.raw)
        return files if self.traffic is None else joined_samples(files, fit_sample(self.traffic))

    def train(self, started: float, minutes: float | None, resume: bool) -> TrainReport:
        torch.manual_seed(self.seed)
        foreign = foreign_modules(self.spec, self.encoder.layout, self.modules)
        configs = [module.config for module in foreign]
        config = derive_model_config(self.spec, self.encoder.layout, self._prior_logit(), configs)
        encoded_items = self.encoder.encode_items(self.items)
        items, traffic = ItemColumns(encoded_items), slot_traffic(self.encoder, encoded_items)
        loader = partial(self._loader, self.files)
        trials = None if self.base or foreign else SharingTrials(self.spec, items, self._task_losses(), loader)
        config, plan, sharing = self.processes.told_by_leader(
            lambda: choose_sharing(config, self.spec.tables, traffic, trials)
        )
        with tables_of(self.processes):
            model = self._model(config)
        shard_tables_(model, self.processes)
        attach(model, foreign)
        picks = picks_from_catalogue(model.config, items.num_rows)
        loaders = [self._loader(examples, "train", picks) for examples in self._training_examples()]
        keeps_router = self.spec.training.router == "keep"
        fit_statistics_(model, items, loaders, floats=self.base is None, counts=self.base is None or keeps_router)
        validation = self._loader(self.files, "validation", picks, self.spec.training.validation_requests)
        loop = self._loop(model, items, sum(loader.num_batches for loader in loaders))
        fingerprint = self._fingerprint()
        if resume:
            load_checkpoint(self.out, loop, fingerprint)

        def on_epoch(result: EpochResult) -> None:
            self.progress.epoch(result)
            if result.finished:
                save_checkpoint(self.out, loop, fingerprint)

        with self.progress.steps(loop.total_steps):
            scored = loop.run(
                lambda epoch: batch_stream(loaders, epoch, self.processes),
                lambda epoch: batch_stream([validation], epoch, self.processes),
                deadline_s=None if minutes is None else started + 60 * minutes,
                on_step=self.progress.step,
                on_epoch=on_epoch,
            )
        whole_tables_(model)
        loop.end_together()
        planned = {**describe_plan(plan, self.encoder), "sharing": sharing}
        return self.processes.told_by_leader(lambda: self._finished(loop, validation, scored, planned, started))

    def _loop(self, model: ElasticRanker, items: ItemColumns, batches: int) -> TrainingLoop:
        """The loop over so many batches an epoch, from the same weights in every process."""
        sharded = {id(weight) for weight in sharded_weights(model)}
        self.processes.tell_([p.data for p in model.parameters() if id(p) not in sharded])
        steps = math.ceil(batches / self.spec.training.batches_per_step)
        return TrainingLoop(
            model,
            items,
            self._task_losses(),
            self.spec.training,
            steps_per_epoch=steps,
            admission=admission_of(model, self.spec.tables, steps) if self.base is None else None,
            processes=self.processes,
        )

    def _finished(
        self, loop: TrainingLoop, validation: BatchLoader, scored: Scored, planned: dict[str, Any], started: float
    ) -> TrainReport:
        """Fit the tables, calibrate, learn how deep to go, and save."""
        model = loop.model
        tables, scored = self._fit_tables(loop, validation, scored)
        calibrate(model, scored)
        fitted = self._fit_policy(model)
        summary = self._summary(loop, model, scored, time.monotonic() - started)
        summary["tables"], summary["adaptive"] = {**planned, **tables}, fitted.report
        html = render_report(
            f"Training of {self.spec.name}", summary, loop.state.history, scored, probabilities(model, scored)
        )
        manifest = save_artifact(self.out, self._contents(model, summary, html, fitted.policy))
        remove_checkpoint(self.out)
        return TrainReport(self.out, manifest, summary)

    def _model(self, config: ModelConfig) -> ElasticRanker:
        """A new one, the base's, or a new one around the base's router."""
        if self.base is None:
            return ElasticRanker(config)
        keeps_router = self.spec.training.router == "keep"
        if keeps_router:
            return deepened_model(self.base, config, self.processes)
        return continued_model(self.base, self.processes)

    def _fit_tables(self, loop: TrainingLoop, validation: BatchLoader, scored: Scored) -> tuple[dict[str, Any], Scored]:
        """Prune tables and choose their formats; what that did, and validation scored by the model as it is then."""
        told: dict[str, Any] = {}
        if loop.admission is not None:
            told["admission"] = loop.admission.to_json()
        if self.base is not None:
            return {**told, "rows_changed": keep_packed_rows_(loop.model, self.base)}, scored
        if not self.spec.tables.fits_after_training:
            return told, scored
        with self.progress.phase("pruning the tables and choosing their formats"):
            weights = [self.spec.value.weights.get(name, 0.0) for name in self.spec.tasks]
            fit, scored = fit_tables(loop, self.spec.tables, weights, lambda: validation.epoch(0))
            return {**told, "fit": fit.to_json()}, scored

    def _fit_policy(self, model: ElasticRanker) -> FittedPolicy:
        """How deep to go, learned by replay of validation requests."""
        held_out = HeldOut(self.spec, self.files, self.encoder, self.log, self.counters, self.items, self.users)
        with self.progress.phase("replaying validation requests to fit the plan ladder"):
            return fit_by_replay(held_out, model, most_seconds=self.spec.training.replay_seconds)

    def _training_examples(self) -> list[Examples]:
        return [self.files] if self.traffic is None else [self.files, self.traffic]

    def _loader(
        self, examples: Examples, split: str, picks: bool = False, max_requests: int | None = None
    ) -> BatchLoader:
        """Batches of a split; ``picks``: the step picks negatives itself, positives are all it needs."""
        return BatchLoader(
            examples,
            split,
            self.spec,
            encoder=self.encoder,
            log=self.log,
            counters=self.counters,
            items=self.items,
            users=self.users,
            seed=self.seed,
            source=OwnCandidates(examples) if picks and examples.sampled else None,
            share_histories=True,
            max_requests=max_requests,
        )

    def _task_losses(self) -> list[TaskLoss]:
        """As the spec says; data with positives only is learned by softmax (which items) in any case."""
        sampled = isinstance(self.spec.dataset.main, EventsFile)
        return [
            TaskLoss(
                task.weight,
                task.loss in ("binary", "both"),
                task.loss in ("softmax", "both") or sampled,
                self.spec.value.weights.get(name, 0.0),
            )
            for name, task in self.spec.tasks.items()
        ]

    def _prior_logit(self) -> tuple[float, ...]:
        """Log-odds of each task among training candidates, the whole catalogue where negatives are sampled."""
        train = self.files.of_split("train")
        label_NK = self.files.label[self.files.candidates_of(train)]
        known_K = np.isfinite(label_NK).sum(axis=0)
        count_K = known_K * (self.items.size - 1) if self.files.sampled else known_K
        rate_K = (np.nansum(label_NK, axis=0) + 0.5) / (count_K + 1.0)
        return tuple(float(math.log(rate / (1.0 - rate))) for rate in np.clip(rate_K, 1e-7, 1 - 1e-7))

    def _fingerprint(self) -> str:
        parts = {
            "spec": self.spec.to_plain(),
            "seed": self.seed,
            "position": self.log_position,
            "processes": self.processes.count,
            "rows": len(self.files),
        }
        return blake3(msgspec.json.encode(parts, order="deterministic")).hexdigest()

    def _summary(self, loop: TrainingLoop, model: ElasticRanker, scored: Scored, seconds: float) -> dict[str, Any]:
        return {
            "tasks": list(self.spec.tasks),
            "seed": self.seed,
            "seconds": seconds,
            "epochs": len(loop.state.history),
            "requests": {s: len(self.files.of_split(s)) for s in ("train", "validation", "test")},
            "traffic_requests": 0 if self.traffic is None else len(self.traffic),
            "parameters": sum(p.numel() for p in model.parameters()),
            "time": loop.clock.to_json(),
            "processes": self.processes.count,
            "threads": torch.get_num_threads(),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "foreign": [foreign_facts(level.config) for level in model.foreign_levels()],
            "validation": {"levels": level_metrics(list(self.spec.tasks), model, scored)},
        }

    def _contents(
        self, model: ElasticRanker, summary: dict[str, Any], html: str, adaptive: AdaptivePolicy | None
    ) -> Contents:
        return Contents(
            spec=self.encoder.spec,
            model=model.eval(),
            encoder=self.encoder,
            items=self.items,
            users=self.users,
            log_position=self.log_position,
            log_url=self.log.url,
            training=with_level_flops(summary, model.config),
            report_html=html,
            adaptive=adaptive,
        )
