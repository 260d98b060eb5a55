"""Every kind of mistake in a ranking.yaml is told with its path, what was found and what was expected."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from depthrank.errors import SpecError
from depthrank.schema import Spec

GOOD: dict[str, Any] = {
    "name": "shop",
    "dataset": {
        "items": {"path": "items.parquet", "id": "item_id"},
        "users": {"path": "users.parquet", "id": "user_id"},
        "impressions": {
            "path": "log.parquet",
            "user": "user_id",
            "item": "item_id",
            "time": {"column": "time_ms", "unit": "ms"},
            "request": {"gap": "30m"},
            "position": "slot",
            "context": ["device"],
            "candidate": ["price"],
        },
    },
    "features": {
        "item_id": {"kind": "categorical", "source": "item.id"},
        "brand": {"kind": "categorical", "source": "item.brand", "min_count": 2},
        "tags": {"kind": "multi_hot", "source": "item.tags", "separator": " "},
        "title": {"kind": "text", "source": "item.title"},
        "age": {"kind": "numeric", "source": "user.age"},
        "price": {"kind": "numeric", "source": "candidate.price", "within": "request"},
        "image": {"kind": "vector", "source": "item.image", "size": 8},
        "device": {"kind": "categorical", "source": "context.device"},
        "clock": {"kind": "time"},
        "slot": {"kind": "position"},
        "item_clicks": {"kind": "counter", "of": "item", "actions": ["click"], "per": ["impression"]},
    },
    "tasks": {"click": {"column": "is_click"}, "buy": {"column": "is_buy", "action": "purchase"}},
    "value": {"weights": {"click": 1.0, "buy": 5.0}, "times": "price"},
}
EVENTS = {"path": "e.csv", "user": "u", "item": "i", "time": "order", "action": "click"}
KINDS = (
    "categorical, multi_hot, text, numeric, vector, time, position, counter, history_match, history_along, "
    "history_count"
)
SIDES = "user, item, context, candidate, request"
MISSING = object()
Change = tuple[str, Any]


def with_changes(*changes: Change) -> dict[str, Any]:
    """A copy of the good spec with dotted paths set, or taken away where the value is MISSING."""
    plain = copy.deepcopy(GOOD)
    for path, value in changes:
        *folders, last = path.split(".")
        part = plain
        for folder in folders:
            part = part[folder]
        if value is MISSING:
            del part[last]
        else:
            part[last] = value
    return plain


def problems_of(*changes: Change) -> list[str]:
    with pytest.raises(SpecError) as caught:
        Spec.from_plain(with_changes(*changes))
    return [str(p) for p in caught.value.problems]


def test_the_good_spec_has_no_mistake() -> None:
    spec = Spec.from_plain(GOOD)
    assert spec.action_of("click") == "click"
    assert spec.action_of("buy") == "purchase"
    assert spec.history_actions == ("click", "purchase")


ONE_MISTAKE: list[tuple[str, Any, str]] = [
    # names
    ("nane", "x", "$.nane: found 'nane', expected one of name, dataset, features, tasks, value, history, split, "
     "evaluation, model, tables, training"),
    ("modle", {}, "$.modle: found 'modle', expected one of name, dataset, features, tasks, value, history, split, "
     "evaluation, model, tables, training; did you mean 'model'?"),
    ("name", "", "$.name: found '', expected text of length >= 1"),
    ("name", 5, "$.name: found 5, expected text"),
    ("dataset.items.id", MISSING, "$.dataset.items.id: found nothing, expected a value (this field is required)"),
    ("dataset.items", "items.csv", "$.dataset.items: found 'items.csv', expected a mapping with path, id"),
    ("features", [], "$.features: found a list of 0, expected a mapping of names to values"),
    ("features", {}, "$.features: found no feature, expected at least one, such as "
     "item_id: {kind: categorical, source: item.id}"),
    # scalars
    ("history", {"length": 2.5}, "$.history.length: found 2.5, expected a whole number"),
    ("history", {"length": True}, "$.history.length: found True, expected a whole number"),
    ("history", {"length": -1}, "$.history.length: found -1, expected a whole number >= 0"),
    ("history", {"length": 65_537}, "$.history.length: found 65537, expected a whole number <= 65536"),
    ("training", {"learning_rate": "fast"}, "$.training.learning_rate: found 'fast', expected a number"),
    ("training", {"learning_rate": 0}, "$.training.learning_rate: found 0, expected a number > 0.0"),
    ("training", {"learning_rate": float("nan")}, "$.training.learning_rate: found nan, expected a finite number"),
    ("training", {"minutes": float("inf")}, "$.training.minutes: found inf, expected a finite number"),
    ("training", {"batch_requests": 0}, "$.training.batch_requests: found 0, expected a whole number >= 1"),
    ("training", {"precision": "fp23"}, "$.training.precision: found 'fp23', expected one of fp32, bf16; "
     "did you mean 'fp32'?"),
    ("evaluation", {"exclude_seen": "yes"}, "$.evaluation.exclude_seen: found 'yes', expected true or false"),
    ("evaluation", {"max_requests": 0}, "$.evaluation.max_requests: found 0, expected a whole number >= 1"),
    ("model", {"preset": "dmo"}, "$.model.preset: found 'dmo', expected one of demo, small, medium, large; "
     "did you mean 'demo'?"),
    ("model", {"dropout": 1.0}, "$.model.dropout: found 1.0, expected a number < 1.0"),
    # lists, mappings, durations
    ("dataset.impressions.context", "device", "$.dataset.impressions.context: found 'device', expected a list"),
    ("features.item_clicks.bucket", "1 hour", "$.features.item_clicks.bucket: found '1 hour', expected a duration "
     'such as "90s", "30m", "6h", "7d" or "2w"'),
    ("features.item_clicks.windows", ["90m"], "$.features.item_clicks.windows[0]: found 90m, expected a multiple of "
     "the bucket (1h)"),
    ("features.item_clicks.windows", [], "$.features.item_clicks.windows: found an empty list, expected at least one "
     "of the windows to count"),
    ("features.item_clicks.actions", [], "$.features.item_clicks.actions: found an empty list, expected at least one "
     "of the actions to count"),
    # the dataset
    ("dataset.events", EVENTS, "$.dataset: found impressions and events, expected exactly one of requests, "
     "impressions, events"),
    ("dataset.impressions.time", "ordre", "$.dataset.impressions.time: found 'ordre', expected order, or a mapping "
     "with column, unit; did you mean 'order'?"),
    ("dataset.impressions.time.unit", "sec", "$.dataset.impressions.time.unit: found 'sec', expected one of s, ms, "
     "us, ns, iso"),
    ("dataset.impressions.request", {"gap": "30m", "column": "rid"}, "$.dataset.impressions.request: found a mapping "
     "with 2 keys, expected exactly one of column (a request id) and gap (such as 30m)"),
    ("dataset.more_events", [{**EVENTS, "action": 5}], "$.dataset.more_events[0].action: found 5, expected text, or "
     "a mapping with column"),
    # features
    ("features.brand.kind", "categorial", f"$.features.brand.kind: found 'categorial', expected one of {KINDS}; "
     "did you mean 'categorical'?"),
    ("features.brand.kind", ["categorical"], f"$.features.brand.kind: found a list of 1, expected one of {KINDS}"),
    ("features.brand.kind", MISSING, f"$.features.brand.kind: found nothing, expected one of {KINDS}"),
    ("features.brand", "item.brand", f"$.features.brand: found 'item.brand', expected a mapping with kind: one of "
     f"{KINDS}"),
    ("features.brand.min_cuont", 3, "$.features.brand.min_cuont: found 'min_cuont', expected one of source, "
     "min_count"),
    ("features.brand.source", "itm.brand", f"$.features.brand.source: found 'itm.brand', expected <side>.<column>, "
     f"side one of {SIDES}; did you mean item.brand?"),
    ("features.brand.source", "item", f"$.features.brand.source: found 'item', expected <side>.<column>, side one of "
     f"{SIDES}; did you mean item.column?"),
    ("features.device.source", "context.devise", "$.features.device.source: found 'devise', expected a context "
     "column of the dataset: one of device; did you mean 'device'?"),
    ("features.clock.source", "request.tiem", "$.features.clock.source: found 'tiem', expected a request column: one "
     "of time; did you mean 'time'?"),
    ("features.device", {"kind": "categorical", "source": "request.time"}, "$.features.device.kind: found "
     "request.time as another kind, expected time (the one kind that reads request.time)"),
    ("features.clock.parts", [], "$.features.clock.parts: found an empty list, expected at least one of hour, "
     "weekday, age"),
    ("features.clock.parts", ["age"], "$.features.clock.parts: found the age of request.time, expected age of "
     "another column (it is request time minus it)"),
    ("features.age.within", "request", "$.features.age.within: found request, expected within only for a candidate "
     "column"),
    ("features.image.size", 0, "$.features.image.size: found 0, expected a whole number >= 1"),
    ("features.item_clicks.of", "itm", "$.features.item_clicks.of: found 'itm', expected user, item, user.<column>, "
     "item.<column> or a pair joined by *"),
    ("features.item_clicks.of", "user*item*item", "$.features.item_clicks.of: found 'user*item*item', expected "
     "user, item, user.<column>, item.<column> or a pair joined by *"),
    ("features.item_clicks.of", "item.", "$.features.item_clicks.of: found 'item.', expected user, item, "
     "user.<column>, item.<column> or a pair joined by *"),
    ("features.item_clicks.actions", ["clik"], "$.features.item_clicks.actions[0]: found 'clik', expected an action "
     "of the dataset: one of click, purchase, impression; did you mean 'click'?"),
    ("history", {"actions": ["purchas"]}, "$.history.actions[0]: found 'purchas', expected an action of the dataset: "
     "one of click, purchase, impression; did you mean 'purchase'?"),
    # tasks and value
    ("tasks.click", {}, "$.tasks.click: found no label, expected column: the column that holds the label (or ids)"),
    ("tasks.click.ids", "clicked", "$.tasks.click: found both column and ids, expected one of column, ids, action"),
    ("tasks.click", {"ids": "clicked"}, "$.tasks.click.ids: found 'clicked', expected column (ids needs a requests "
     "file)"),
    ("value.weights.clik", 1.0, "$.value.weights.clik: found 'clik', expected one of click, buy; did you mean "
     "'click'?"),
    ("value.weights", {"click": 0}, "$.value.weights: found a mapping with 1 keys, expected at least one weight "
     "above 0"),
    ("value.weights", {"click": -1}, "$.value.weights.click: found -1, expected a number >= 0.0"),
    ("value.times", "prise", "$.value.times: found 'prise', expected a candidate column: one of price; did you mean "
     "'price'?"),
    # the split
    ("split", {"validation": 0.5, "test": 0.5}, "$.split: found 0.5 + 0.5, expected validation + test below 1 (the "
     "rest is for training)"),
    ("split", {"test_from": "last week"}, "$.split.test_from: found 'last week', expected an ISO time such as "
     "2022-04-29 or 2022-04-29T12:00"),
    ("split", {"validation_from": "2022-04-30", "test_from": "2022-04-29"}, "$.split.validation_from: found "
     "'2022-04-30', expected before 2022-04-29"),
    ("split", {"by": "leave_last_out", "test_from": "2022-04-29"}, "$.split.test_from: found '2022-04-29', expected "
     "by: time (leave_last_out has no times)"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), ONE_MISTAKE, ids=[m[2][:60] for m in ONE_MISTAKE])
def test_one_mistake_gives_one_problem_word_by_word(path: str, value: Any, message: str) -> None:
    assert problems_of((path, value)) == [message]


def test_an_events_file_labels_by_action_or_column_and_takes_no_ids() -> None:
    changes = [("dataset.impressions", MISSING), ("dataset.events", EVENTS), ("value", {"weights": {"click": 1}})]
    cut = [(f"features.{f}", MISSING) for f in ("price", "device", "item_clicks")]
    tasks = {"click": {}, "buy": {"ids": "bought"}}
    assert problems_of(*changes, *cut, ("tasks", tasks)) == [
        "$.tasks.buy.ids: found 'bought', expected column or action (ids needs a requests file)"
    ]
    fine = {"click": {}, "buy": {"column": "is_buy"}}
    assert Spec.from_plain(with_changes(*changes, *cut, ("tasks", fine))).dataset.events is not None


def test_a_dataset_without_a_main_file_is_told_once() -> None:
    assert problems_of(
        ("dataset.impressions", MISSING),
        ("value.times", MISSING),
        ("features", {"item_id": {"kind": "categorical", "source": "item.id"}}),
    ) == ["$.dataset: found none of them, expected exactly one of requests, impressions, events"]


def test_item_and_user_columns_need_their_files() -> None:
    assert problems_of(("dataset.users", MISSING)) == [
        "$.features.age.source: found 'user.age', expected a users file in the dataset"
    ]
    no_items = problems_of(("dataset.items", MISSING), ("features.item_clicks.of", "user*item.brand"))
    assert "$.features.brand.source: found 'item.brand', expected an items file in the dataset" in no_items
    assert "$.features.item_clicks.of: found 'item.brand', expected an items file in the dataset" in no_items
    assert not any(p.startswith("$.features.item_id") for p in no_items)  # the id needs no file


def test_an_action_column_may_hold_any_action() -> None:
    spec = Spec.from_plain(
        with_changes(
            ("dataset.more_events", [{**EVENTS, "action": {"column": "what"}}]),
            ("features.item_clicks.actions", ["anything"]),
        )
    )
    assert spec.dataset.more_events[0].path == "e.csv"


def test_more_history_actions_than_a_token_has_bits_are_refused() -> None:
    tasks = {f"t{i}": {"column": f"c{i}"} for i in range(32)}
    assert "$.history.actions: found 32 actions, expected at most 31" in problems_of(("tasks", tasks))
    del tasks["t31"]
    Spec.from_plain(
        with_changes(("tasks", tasks), ("value.weights", {"t0": 1}), ("features.item_clicks", {"kind": "position"}))
    )


def test_all_mistakes_are_told_in_one_run() -> None:
    told = problems_of(
        ("name", MISSING),
        ("vlaue", {"weights": {"click": 1}}),
        ("value", MISSING),
        ("dataset.impressions.usr", "u"),
        ("dataset.impressions.user", MISSING),
        ("features.age.transform", "logg"),
        ("features.item_clicks.windows", ["1d", "61m"]),
        ("tasks.click.at_least", "two"),
        ("split", {"validation": 0.6, "test": 0.6}),
    )
    assert [p.split(":")[0] for p in told] == [
        "$.vlaue",
        "$.name",
        "$.dataset.impressions.usr",
        "$.features.age.transform",
        "$.tasks.click.at_least",
        "$.features.item_clicks.windows[1]",
        "$.split",
    ]


def test_what_hangs_on_a_broken_part_is_not_reported_as_missing() -> None:
    told = problems_of(("dataset.impressions.time", 5), ("tasks.click", {"colum": "x"}))
    assert [p.split(":")[0] for p in told] == ["$.dataset.impressions.time", "$.tasks.click.colum"]


def test_the_title_counts_the_mistakes_and_lists_them_one_a_line() -> None:
    with pytest.raises(SpecError) as caught:
        Spec.from_plain(with_changes(("name", 5), ("history", {"length": -1})), name="ranking.yaml")
    assert str(caught.value).split("\n  - ") == [
        "ranking.yaml has 2 mistakes:",
        "$.name: found 5, expected text",
        "$.history.length: found -1, expected a whole number >= 0",
    ]


@pytest.mark.parametrize("plain", [None, [], "text", 5])
def test_something_that_is_no_mapping_is_told_what_a_spec_holds(plain: object) -> None:
    with pytest.raises(SpecError, match=r"the spec is not a spec:\n  - \$: found .*, expected a mapping with name, "):
        Spec.from_plain(plain)


def test_a_long_value_is_cut_in_the_message() -> None:
    (told,) = problems_of(("training", {"precision": "x" * 1_000}))
    assert len(told) < 160
