"""Reading ranking.yaml: the file itself, YAML's traps, and the way back to plain data."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import SpecError
from depthrank.schema import Counter, Duration, Spec
from depthrank.schema.strict_yaml import read_yaml

TEXT = """
name: films
dataset:
  items: {path: items.parquet, id: item}
  events: {path: events.parquet, user: user, item: item, time: {column: t, unit: s}, action: click}
features:
  item_id: {kind: categorical, source: item.id}
  clicks: {kind: counter, of: item, actions: [click], windows: [6h, 7d], bucket: 1h}
tasks:
  click: {}
value: {weights: {click: 1}}
split: {test_from: 2022-04-29}
training: {learning_rate: 1e-3}
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "ranking.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_becomes_frozen_structs_and_knows_its_folder(tmp_path: Path) -> None:
    spec = Spec.load(written(tmp_path, TEXT))
    assert spec.folder == str(tmp_path)
    assert spec.features["clicks"] == Counter(
        of="item", actions=("click",), windows=(Duration(21_600_000), Duration(604_800_000)), bucket=Duration(3_600_000)
    )
    assert spec.split.test_from == "2022-04-29"  # no date object
    assert spec.training.learning_rate == 0.001  # no text
    with pytest.raises(AttributeError):
        spec.name = "other"  # type: ignore[misc]


def test_to_plain_and_back_is_the_same_spec(tmp_path: Path) -> None:
    spec = Spec.load(written(tmp_path, TEXT))
    plain = spec.to_plain()
    assert plain["features"]["clicks"]["windows"] == ["6h", "1w"]  # as people write it
    assert plain["features"]["clicks"]["kind"] == "counter"
    assert Spec.from_plain(plain) == spec
    assert Spec.from_plain(plain, folder="elsewhere").folder == "elsewhere"


def test_a_folder_in_the_file_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        Spec.load(written(tmp_path, TEXT + "folder: /data\n"))
    assert [str(p) for p in caught.value.problems] == [
        "$.folder: found '/data', expected nothing (paths start at the folder of this file)"
    ]


def test_a_missing_file_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no spec at .*absent.yaml: give the path of a ranking.yaml"):
        Spec.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", b"\xff\xfe\x00bad", "[" * 5_000, "a: !!python/object:os.system {}"]
)
def test_what_is_not_yaml_is_one_clear_error(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(SpecError, match=r"ranking.yaml is not YAML: "):
        Spec.load(written(tmp_path, text))


def test_an_empty_file_is_told_what_a_spec_holds(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"is not a spec:\n  - \$: found nothing, expected a mapping with name, dataset"
    ):
        Spec.load(written(tmp_path, ""))


def test_a_name_given_twice_is_told_with_its_line(tmp_path: Path) -> None:
    twice = TEXT.replace("  click: {}", "  click: {}\n  click: {weight: 2}")
    with pytest.raises(SpecError) as caught:
        Spec.load(written(tmp_path, twice))
    assert [str(p) for p in caught.value.problems] == ["line 11: found 'click' a second time, expected each name once"]


def test_scalars_are_those_of_yaml_1_2() -> None:
    plain, problems = read_yaml("[1e-3, 2022-04-29, 12:30, no, 007, -5, -1.5, .5, true, ~, null, '5', 1_000, .inf, ]")
    assert plain == [0.001, "2022-04-29", "12:30", "no", 7, -5, -1.5, 0.5, True, None, None, "5", "1_000", float("inf")]
    assert problems == []


def test_merge_keys_still_merge() -> None:
    assert read_yaml("a: &base {x: 1}\nb: {<<: *base, y: 2}") == ({"a": {"x": 1}, "b": {"x": 1, "y": 2}}, [])


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("1ms", 1), ("90s", 90_000), ("1.5h", 5_400_000), (" 7d ", 604_800_000), ("2w", 1_209_600_000)],
)
def test_durations_are_milliseconds(text: str, milliseconds: int) -> None:
    assert Duration.parse(text) == milliseconds


@pytest.mark.parametrize("text", ["0s", "0.1ms", "5201w", "9" * 400 + "w"])
def test_a_duration_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration from 1ms to 5200w"):
        Duration.parse(text)


@pytest.mark.parametrize("text", ["", "h", "1 hour", "-5m", "5", 5, None, "1e3s", "٣s x"])
def test_what_is_no_duration_is_told_the_forms(text: object) -> None:
    with pytest.raises(ValueError, match='a duration such as "90s", "30m", "6h", "7d" or "2w"'):
        Duration.parse(text)


@given(st.integers(min_value=1, max_value=5_200 * 604_800_000))
def test_a_duration_prints_as_what_reads_back_the_same(milliseconds: int) -> None:
    assert Duration.parse(str(Duration(milliseconds))) == milliseconds


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["item.id", "click", "1h"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(
    section=st.sampled_from([*Spec.__struct_fields__]),
    part=st.sampled_from(["", "events", "click", "clicks"]),
    junk=JUNK,
)
def test_no_junk_anywhere_raises_anything_but_a_spec_error(section: str, part: str, junk: object) -> None:
    plain, _ = read_yaml(TEXT)
    if part and isinstance(plain.get(section), dict):
        plain[section][part] = junk
    else:
        plain[section] = junk
    try:
        Spec.from_plain(plain)
    except SpecError as error:
        assert error.problems
