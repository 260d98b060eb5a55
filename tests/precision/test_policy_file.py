"""Policies on disk: they survive save and load, and nothing that was altered is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from depthrank.errors import ArtifactError
from depthrank.precision import Format, LayerChoice, PrecisionPolicy, read_policy, write_policy
from depthrank.precision.policy import policy_path, seal_policy

FINGERPRINT = "0123456789abcdef"
POLICY = PrecisionPolicy(
    FINGERPRINT,
    made_for="model",
    choices={
        "experts.0.pool": LayerChoice(Format.INT8_STATIC, 0.031),
        "experts.0.attention.0.query": LayerChoice(Format.BF16),
        "encoder.layers.0.qkv": LayerChoice(Format.INT8_DYNAMIC),
    },
    compiled=(1,),
    hardware={"cpu": "a cpu"},
    ladder=({"widths": [1, 2], "ms": 3.5},),
    limits={"ne_change": 0.0002},
    measured={"speedup_vs_fp32": 2.5},
)


def edited(root: Path, change: str, to: str) -> Path:
    path = policy_path(root, FINGERPRINT)
    text = path.read_text()
    assert change in text
    path.write_text(text.replace(change, to, 1))
    return path


def test_a_policy_survives_save_and_load(tmp_path: Path) -> None:
    path = write_policy(POLICY, tmp_path)
    assert path == tmp_path / "policies" / f"{FINGERPRINT}.json"
    assert read_policy(tmp_path, FINGERPRINT) == POLICY
    assert POLICY.counts == {"bf16": 1, "int8-dynamic": 1, "int8-static": 1}


def test_the_file_is_readable_and_names_every_layer(tmp_path: Path) -> None:
    plain = json.loads(write_policy(POLICY, tmp_path).read_text())
    assert plain["layers"]["experts.0.pool"] == {"format": "int8-static", "input_scale": 0.031}
    assert plain["layers"]["encoder.layers.0.qkv"] == {"format": "int8-dynamic"}
    assert len(write_policy(POLICY, tmp_path).read_text().splitlines()) > 20


def test_no_file_is_no_policy(tmp_path: Path) -> None:
    assert read_policy(tmp_path, FINGERPRINT) is None


def test_an_edit_is_refused_until_it_is_sealed(tmp_path: Path) -> None:
    write_policy(POLICY, tmp_path)
    edited(tmp_path, '"int8-dynamic"', '"bf16"')
    with pytest.raises(ArtifactError, match=r"was altered: its checksum .* `depthrank tune DIR SPEC --seal`"):
        read_policy(tmp_path, FINGERPRINT)
    seal_policy(tmp_path, FINGERPRINT)
    found = read_policy(tmp_path, FINGERPRINT)
    assert found is not None and found.choices["encoder.layers.0.qkv"] == LayerChoice(Format.BF16)


@pytest.mark.parametrize(
    ("change", "to", "told"),
    [
        ('"int8-dynamic"', '"int2"', "layer encoder.layers.0.qkv has format 'int2'; there are fp32, "),
        ("0.031", "-1", "input_scale -1, not above 0"),
        ("0.031", "null", "input_scale None, not above 0"),
        ('"format": 1,', '"format": 9,', "has format 9; this version reads 1: tune again"),
        ('"compiled": [', '"compiled": ["x",', "compiled must be a list of levels"),
        (FINGERPRINT, "ffff", "is no hardware fingerprint"),
    ],
)
def test_an_edit_that_means_nothing_is_not_sealed(tmp_path: Path, change: str, to: str, told: str) -> None:
    write_policy(POLICY, tmp_path)
    edited(tmp_path, change, to)
    with pytest.raises(ArtifactError, match=told):
        seal_policy(tmp_path, FINGERPRINT)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b"[" * 100_000, b"null"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = write_policy(POLICY, tmp_path)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=str(path)):
        read_policy(tmp_path, FINGERPRINT)


def test_another_machine_s_policy_under_this_name_is_refused(tmp_path: Path) -> None:
    other = policy_path(tmp_path, "f" * 16)
    write_policy(POLICY, tmp_path).rename(other)
    with pytest.raises(ArtifactError, match=f"is the policy of another machine \\({FINGERPRINT}\\)"):
        read_policy(tmp_path, "f" * 16)


def test_a_fingerprint_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no hardware fingerprint"):
        PrecisionPolicy("../../etc/passwd", "model", {})
