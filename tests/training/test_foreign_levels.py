"""Somebody's own PyTorch rankers as levels: trained with the others, stored as graphs, served without their Python."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
from depthrank.errors import ArtifactError, SharingError, SpecError
from depthrank.events import open_log
from depthrank.model import example_inputs
from depthrank.schema import Request, Spec
from depthrank.training import train
from planted_world import WORLD_SPEC, write_world

RANKERS = '''
import torch
from torch import nn

class InterestRanker(nn.Module):
    """The way people write DIN: one row a (user, item) pair, batch norm, dropout, a sigmoid at the end."""

    def __init__(self, inputs, width=16):
        super().__init__()
        self.item = nn.Embedding(inputs["item"].num_rows, width, padding_idx=0)
        self.genre = nn.Embedding(inputs["genre"].num_rows, width, padding_idx=0)
        self.attention = nn.Sequential(nn.Linear(8 * width, 16), nn.ReLU(), nn.Linear(16, 1))
        self.top = nn.Sequential(
            nn.Linear(4 * width + inputs["price"].shape[0], 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(32, 2),
        )

    def forward(self, item, genre, price, history_item, history_genre, history_length):
        query = torch.cat([self.item(item), self.genre(genre)], -1).unsqueeze(1)
        history = torch.cat([self.item(history_item), self.genre(history_genre)], -1)
        query = query.expand(-1, history.shape[1], -1)
        weight = self.attention(torch.cat([query, history, query - history, query * history], -1)).squeeze(-1)
        past = torch.arange(history.shape[1]) >= history_length.unsqueeze(1)
        interest = (weight.masked_fill(past, 0.0).unsqueeze(-1) * history).sum(1)
        score = torch.sigmoid(self.top(torch.cat([interest, query[:, 0], price], -1)))
        return {"click": score[:, 0], "buy": score[:, 1]}

class TwoTowers(nn.Module):
    def __init__(self, inputs, width=8):
        super().__init__()
        self.genre = nn.Embedding(inputs["genre"].num_rows, width, padding_idx=0)
        self.device = nn.Embedding(inputs["device"].num_rows, width)
        self.user = nn.Linear(2 * width, width)

    def forward(self, batch):
        taste = self.genre(batch["history_genre"]).sum(1)
        user = self.user(torch.cat([taste, self.device(batch["device"])], -1))
        return (user * self.genre(batch["genre"])).sum(-1)

class InBatch(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.item = nn.Embedding(inputs["item"].num_rows, 4)

    def forward(self, item, age):
        return torch.softmax(self.item(item).sum(-1), dim=0) + age[:, 0]
'''
DIN = {"level": 1, "module": "rankers.py:InterestRanker", "outputs": "probabilities"}
TOWERS = {"level": 0, "module": "rankers.py:TwoTowers", "tasks": ["click"]}


def write_spec(folder: Path, *foreign: dict[str, Any], **training: Any) -> Path:
    """A small world whose spec names these foreign levels."""
    path = write_world(folder, num_users=24, visits=10)
    (folder / "rankers.py").write_text(RANKERS)
    spec = {**WORLD_SPEC, "model": {"preset": "demo", "width": 16, "heads": 2, "foreign": list(foreign)}}
    spec["training"] = {**WORLD_SPEC["training"], "epochs": 3, "batch_requests": 32, **training}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def trained(folder: Path, *foreign: dict[str, Any], **options: Any) -> Path:
    """The artifact of that world; the Python of the foreign modules is gone when it is served."""
    torch.set_num_threads(1)
    spec = write_spec(folder, *foreign)
    train(spec, log=f"lmdb:{folder / 'log'}", out=folder / "artifact", progress=False, **options)
    (folder / "rankers.py").unlink()
    return folder / "artifact"


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("expert"), DIN)


def ranked(artifact: Path, **asked: Any) -> Any:
    with open_log(f"lmdb:{artifact.parent / 'log'}", read_only=True) as log:
        ranker = Ranker(load_artifact(artifact), log)
        items = [f"i{i}" for i in range(30)]
        prices = np.linspace(1, 9, 30).tolist()
        candidates = {"item": items, "price": prices}
        return ranker.rank(Request(user="u1", context={"device": "ios"}, candidates=candidates, top=30, **asked))


def test_a_foreign_expert_learns_and_answers_at_its_level(expert):
    levels = load_artifact(expert).manifest.training["validation"]["levels"]
    assert levels[1]["buy"]["auc"] > 0.6
    answer = ranked(expert, mode="full")
    assert {item.level for item in answer.items} == {1}
    assert [item.level for item in ranked(expert, mode="router").items] == [0] * 30


def test_a_served_foreign_level_gives_what_its_module_gives(tmp_path):
    """The same module object, trained, asked pair by pair for the pairs of a request."""
    made: list[nn.Module] = []
    write_spec(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(RANKERS, "rankers", "exec"), scope)

    def factory(inputs: Any, **options: Any) -> nn.Module:
        made.append(scope["InterestRanker"](inputs, **options))
        return made[-1]

    artifact = trained(tmp_path, {**DIN, "module": "mine"}, modules={"mine": factory})
    loaded = load_artifact(artifact)
    level = loaded.model.foreign_levels()[0]
    pairs = example_inputs(level.config.inputs, 7, seed=3)
    expected = made[0].eval()(**pairs)
    request = {i.name: pairs[i.name] for i in level.config.inputs if i.is_request}
    candidate = {i.name: pairs[i.name] for i in level.config.inputs if not i.is_request}
    found = level.scorer.score(level.scorer.encode(request), candidate, torch.arange(7))
    for task in ("click", "buy"):
        torch.testing.assert_close(found[task], expected[task], rtol=1e-5, atol=1e-5)


def test_a_foreign_router_scores_the_tasks_it_names_and_ours_goes_on_from_there(tmp_path):
    artifact = trained(tmp_path, TOWERS)
    router = ranked(artifact, mode="router")
    assert len({item.scores["click"] for item in router.items}) > 1
    assert len({round(item.scores["buy"], 6) for item in router.items}) == 1  # a task it does not score: the prior
    assert {item.level for item in ranked(artifact, mode="full").items} == {1}
    assert load_artifact(artifact).model.config.router_layers == 0


def test_all_levels_may_be_foreign_and_one_may_come_after_ours(tmp_path):
    corrects = {**TOWERS, "level": 2, "adds": True}
    artifact = trained(tmp_path, TOWERS, corrects)
    assert load_artifact(artifact).model.config.num_levels == 3
    assert {item.level for item in ranked(artifact, mode="full").items} == {2}


def test_the_artifact_holds_no_python_of_the_module(expert):
    names = {p.name for p in expert.rglob("*") if p.is_file()}
    assert {"graph.json", "tensors.safetensors"} <= names
    assert not any(name.endswith((".py", ".pkl", ".pt")) for name in names)


@pytest.mark.parametrize("budget", [0.3, 1.0])
def test_a_budget_counts_the_flops_that_sharing_leaves(expert, budget):
    answer = ranked(expert, budget=budget)
    assert answer.plan[0] == 30 and 0 <= answer.plan[1] <= 30


def test_a_graph_of_another_level_is_refused_when_the_artifact_is_loaded(expert, tmp_path):
    other = tmp_path / "artifact"
    shutil.copytree(expert, other)
    (graph,) = other.rglob("graph.json")
    graph.write_text(graph.read_text().replace('"history_length"', '"history_width"'))
    with pytest.raises(ArtifactError):
        load_artifact(other, verify="sizes")


def build(folder: Path, **changes: Any) -> None:
    spec = write_spec(folder, {**DIN, **changes})
    train(spec, log=f"lmdb:{folder / 'log'}", out=folder / "artifact", progress=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"module": "rankers.py:InterestRankr"}, "did you mean 'InterestRanker'"),
        ({"module": "nowhere.py:Thing"}, "there is no file"),
        ({"module": "no_such_package:Thing"}, "no module 'no_such_package'"),
        ({"module": "InterestRanker"}, "expected file.py:Name"),
        ({"options": {"depth": 3}}, "cannot be called"),
        ({"inputs": ["item", "genr"]}, "did you mean 'genre'"),
        ({"inputs": ["device"], "module": "rankers.py:TwoTowers"}, "nothing of a candidate"),
        ({"tasks": ["clik"]}, "did you mean 'click'"),
        ({"module": "rankers.py:TwoTowers"}, "expected one score per candidate for each of click, buy"),
        ({"level": 4}, "number it 2"),
    ],
)
def test_a_mistake_is_told_before_training_with_its_fix(tmp_path, changes, words):
    with pytest.raises(SpecError, match=words):
        build(tmp_path, **changes)


def test_a_module_that_mixes_the_rows_of_a_batch_is_refused_before_training(tmp_path):
    with pytest.raises(SharingError, match="batch"):
        build(tmp_path, module="rankers.py:InBatch", tasks=["click"])


def test_two_modules_at_one_level_are_a_mistake_of_the_spec():
    twice = {**WORLD_SPEC, "model": {"preset": "demo", "foreign": [DIN, DIN]}}
    with pytest.raises(SpecError, match="level 1"):
        Spec.from_plain(twice)


def test_sparse_experts_and_skipped_layers_train_and_are_served(tmp_path):
    path = write_spec(tmp_path)
    spec = yaml.safe_load(path.read_text())
    spec["model"] = {"preset": "demo", "width": 16, "heads": 2, "feed_forward_experts": 3, "layer_skipping": 0.5}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    train(path, log=f"lmdb:{tmp_path / 'log'}", out=tmp_path / "artifact", progress=False)
    config = load_artifact(tmp_path / "artifact").model.config
    assert (config.levels[0].experts, config.levels[0].skipping) == (3, 0.5)
    assert {item.level for item in ranked(tmp_path / "artifact", mode="full").items} == {1}


def test_a_score_that_is_no_number_keeps_the_level_before(expert):
    artifact = load_artifact(expert)
    level = artifact.model.foreign_levels()[0]
    score = level.scorer.score

    def broken(*inputs: Any) -> Any:
        return {task: torch.full_like(p, float("nan")) for task, p in score(*inputs).items()}

    level.scorer.score = broken
    with open_log(f"lmdb:{expert.parent / 'log'}", read_only=True) as log:
        ranker = Ranker(replace(artifact), log)
        request = Request(user="u1", candidates={"item": ["i1", "i2"], "price": [1.0, 2.0]}, top=2, mode="full")
        answer = ranker.rank(request)
    assert [item.level for item in answer.items] == [0, 0]
    assert any("no number" in reason for reason in answer.degraded.reasons)
