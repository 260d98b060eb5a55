"""A row file gives back what was written, wherever it lies; a file that lies is one clear error and never a crash."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.errors import ArtifactError, DataError
from depthrank.tables import ROW_FORMATS, PackedRows, RowFile, pack_rows, row_bytes, unpack_rows, write_row_file
from depthrank.tables.row_file import CHECKSUM_BYTES, HEADER, HEADER_BYTES

V, D = 30_000, 8  # more than one block in fp32


def written(folder: Path, form: str = "int8", rows: torch.Tensor | None = None) -> Path:
    torch.manual_seed(0)
    rows = torch.randn(V, D) if rows is None else rows
    path = folder / f"{form}.rows"
    write_row_file(path, [pack_rows(rows, form)], form, rows.shape[1], rows.shape[0])
    return path


@pytest.mark.parametrize("form", ROW_FORMATS)
def test_what_is_mapped_is_what_was_written_whatever_parts_it_came_in(tmp_path, form):
    torch.manual_seed(0)
    rows = torch.randn(V, D)
    packed = pack_rows(rows, form)
    one = write_row_file(tmp_path / "one", [packed], form, D, V)
    parts = [packed[:1], packed[1:1], packed[1:25_000], packed[25_000:25_003], packed[25_003:]]
    assert write_row_file(tmp_path / "parts", parts, form, D, V) == one
    file = RowFile.open(tmp_path / "parts")
    file.verify()
    assert file.content_id == one and torch.equal(file.packed_VB, packed)
    assert file.packed_VB.data_ptr() % 4096 == 0, "mapped where it lies"
    index = torch.tensor([0, 1, V - 1, 7])
    torch.testing.assert_close(file.source().rows(index), unpack_rows(packed, form, D)[index])
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_sizes_are_those_that_the_documents_promise(tmp_path):
    assert [row_bytes(form, 64) for form in ROW_FORMATS] == [256, 128, 72, 36]
    assert row_bytes("int8", 64) / 256 <= 0.29 and row_bytes("int4", 64) / 256 <= 0.16
    path = written(tmp_path, "int4")
    blocks = -(-V * 8 // (1 << 20))
    assert path.stat().st_size == -(-(160 + 16 * blocks) // 4096) * 4096 + V * 8


def test_a_stranger_reads_it_with_nothing_but_struct(tmp_path):
    torch.manual_seed(0)
    rows = torch.randn(5, 4)
    raw = written(tmp_path, "int4", rows).read_bytes()
    assert raw[:8] == b"DRKROWS\n"
    order, version, form, width = struct.unpack_from("<4I", raw, 8)
    (num_rows,) = struct.unpack_from("<Q", raw, 24)
    size, _ = struct.unpack_from("<2I", raw, 32)
    checksums, num_blocks, offset, total = struct.unpack_from("<4Q", raw, 40)
    assert (order, version, form, width, num_rows, size) == (0x01020304, 1, 3, 4, 5, 6)
    assert (checksums, num_blocks, total) == (160, 1, len(raw)) and offset == 4096
    assert blake3(raw[:128]).digest() == raw[128:160] and blake3(raw[160:176]).digest() == raw[96:128]
    assert blake3(raw[offset:]).digest(16) == raw[160:176]
    for v in range(num_rows):
        q0, q1, scale, bias = struct.unpack_from("<BBee", raw, offset + v * size)
        found = [scale * q + bias for q in (q0 & 15, q0 >> 4, q1 & 15, q1 >> 4)]
        assert found == pytest.approx(rows[v].tolist(), abs=float(scale))
        assert found == pytest.approx(RowFile.open(tmp_path / "int4.rows").source().rows(torch.tensor([v]))[0].tolist())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ROW_FORMATS), st.integers(1, 9), st.integers(1, 12), st.integers(0, 10_000))
def test_quantised_rows_are_within_half_a_step_of_what_they_were(form, num_rows, half_width, seed):
    rows = torch.randn(num_rows, 2 * half_width, generator=torch.Generator().manual_seed(seed)) * 3
    found = unpack_rows(pack_rows(rows, form), form, 2 * half_width)
    step = (rows.amax(1) - rows.amin(1)) / {"int8": 255, "int4": 15}.get(form, 256)
    rounding = rows.abs().amax(1) * (2e-3 if form == "int4" else 1e-5 if form == "int8" else 4e-3)
    assert ((found - rows).abs().amax(1) <= step * 0.5 + rounding + 1e-6).all()


@pytest.mark.parametrize("form", ROW_FORMATS)
def test_rows_of_zeros_stay_zeros(form):
    assert not unpack_rows(pack_rows(torch.zeros(3, 6), form), form, 6).any()


@pytest.mark.parametrize("form", ROW_FORMATS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), bags=st.integers(1, 6))
def test_kernels_over_packed_rows_equal_the_formula(form, seed, bags):
    g = torch.Generator().manual_seed(seed)
    packed = pack_rows(torch.randn(20, 6, generator=g), form)
    source, plain = PackedRows(packed, form, 6), unpack_rows(packed, form, 6)
    rows = torch.randint(0, 20, (15,), generator=g)
    torch.testing.assert_close(source.rows(rows), plain[rows], atol=1e-5, rtol=1e-5)
    offsets = torch.sort(torch.randint(0, 16, (bags,), generator=g)).values
    offsets[0] = 0
    ends = [*offsets[1:].tolist(), 15]
    expected = torch.stack([plain[rows[a:b]].sum(0) for a, b in zip(offsets.tolist(), ends, strict=True)])
    bf16 = {"atol": 1e-2, "rtol": 1e-2} if form == "bf16" else {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(source.pooled(rows.to(torch.int32), offsets), expected, **bf16)


@pytest.mark.parametrize("form", ROW_FORMATS)
@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (torch.tensor([10]), r"10 to 10 asked of a table of 10 rows \(0 to 9\)"),
        (torch.tensor([0, -1]), "-1 to 0 asked of a table of 10 rows"),
        (torch.tensor([1.0]), "float32 .*expected int64 or int32"),
        (torch.tensor([True]), "bool .*expected int64 or int32"),
    ],
)
def test_row_numbers_of_another_type_or_range_are_told(form, rows, match):
    source = PackedRows(pack_rows(torch.randn(10, 4), form), form, 4)
    assert source.rows(torch.tensor([9])).shape == (1, 4)
    for lookup in (source.rows, lambda r: source.pooled(r, torch.tensor([0]))):
        with pytest.raises(DataError, match=match):
            lookup(rows)


def test_rows_that_cannot_be_stored_are_told():
    with pytest.raises(DataError, match="row 1 holds numbers that are not finite"):
        pack_rows(torch.tensor([[1.0, 2.0], [1.0, float("nan")]]), "int8")
    with pytest.raises(DataError, match="rows of width 5 cannot be int4"):
        pack_rows(torch.randn(2, 5), "int4")


# ---------------------------------------------------------------------- hostile files


def resealed(raw: bytes, **fields: int) -> bytes:
    """A header that says something else, its checksums made to fit: what a hostile maker would write."""
    names = ("magic", "order", "version", "form", "width", "num_rows", "row_bytes", "block_rows")
    names += ("checksums_offset", "num_blocks", "rows_offset", "file_bytes", "checksums_hash")
    told = dict(zip(names, HEADER.unpack(raw[: HEADER.size]), strict=True)) | fields
    body = HEADER.pack(*told.values())
    return body + blake3(body).digest() + raw[HEADER_BYTES:]


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda raw: b"", "is no row file: 0 bytes"),
        (lambda raw: raw[:100], "is no row file: 100 bytes"),
        (lambda raw: b"x" * 300, "is no row file: it starts with"),
        (lambda raw: raw[:-1], "is truncated: .* bytes, its header says"),
        (lambda raw: raw[:4096], "is truncated"),
        (lambda raw: raw + b"x", "longer than it should be"),
        (lambda raw: raw[:8] + raw[8:12][::-1] + raw[12:], "big-endian byte order"),
        (lambda raw: raw[:8] + b"abcd" + raw[12:], "unknown byte order"),
        (lambda raw: resealed(raw, version=2), "version 2; this version reads 1: upgrade"),
        (lambda raw: raw[:24] + b"\x01" + raw[25:], "header does not fit its checksum"),
        (lambda raw: raw[:165] + b"\x00\x01" + raw[167:], "block checksums do not fit"),
        (lambda raw: resealed(raw, form=9), "out of bounds: format 9"),
        (lambda raw: resealed(raw, width=0), "out of bounds"),
        (lambda raw: resealed(raw, width=1 << 30), "out of bounds"),
        (lambda raw: resealed(raw, num_rows=1 << 60), "out of bounds"),
        (lambda raw: resealed(raw, num_rows=V + 1), "offsets or sizes that do not follow"),
        (lambda raw: resealed(raw, rows_offset=0), "offsets or sizes that do not follow"),
        (lambda raw: resealed(raw, checksums_offset=1 << 50), "offsets or sizes that do not follow"),
        (lambda raw: resealed(raw, row_bytes=1 << 20), "offsets or sizes that do not follow"),
        (lambda raw: resealed(raw, block_rows=0), "out of bounds"),
        (lambda raw: resealed(raw, num_blocks=0), "offsets or sizes that do not follow"),
    ],
)
def test_a_file_that_lies_is_one_clear_error(tmp_path, spoil: Callable[[bytes], bytes], match):
    path = written(tmp_path)
    RowFile.open(path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ArtifactError, match=match) as caught:
        RowFile.open(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_file_or_a_folder_is_told(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ArtifactError, match=r"cannot be (opened|mapped)"):
            RowFile.open(path)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found(tmp_path_factory, data):
    path = written(
        tmp_path_factory.mktemp("flip"), "int4", torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    )
    raw = bytearray(path.read_bytes())
    padding = range(HEADER_BYTES + CHECKSUM_BYTES, 4096)
    at = data.draw(st.integers(0, len(raw) - 1).filter(lambda i: i not in padding))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    with pytest.raises(ArtifactError):
        RowFile.open(path).verify()


def test_only_the_blocks_that_are_asked_for_are_verified(tmp_path):
    path = written(tmp_path, "fp32", torch.randn(70_000, 8))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    file = RowFile.open(path)
    assert file.blocks_of(torch.tensor([0, 1, 69_999])) == [0, 2]
    file.verify([0, 1])
    with pytest.raises(ArtifactError, match=r"rows 65536 to 69999 \(block 2\) do not fit"):
        file.verify([2])


@pytest.mark.parametrize(("form", "scale_at", "kind"), [("int8", D, "<f"), ("int4", D // 2, "<e"), ("fp32", 0, "<f")])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_scales_that_are_no_numbers_are_found_though_every_checksum_fits(tmp_path, form, scale_at, kind, value):
    if form == "fp32" and value == -1.0:
        pytest.skip("a number like any other")
    packed = pack_rows(torch.randn(9, D), form).view(torch.uint8)
    packed[4, scale_at : scale_at + struct.calcsize(kind)] = torch.tensor(
        list(struct.pack(kind, value)), dtype=torch.uint8
    )
    write_row_file(tmp_path / "x", [packed], form, D, 9)
    with pytest.raises(ArtifactError, match="row 4 has numbers or a scale that are not finite"):
        RowFile.open(tmp_path / "x").verify()


def test_a_file_that_shrinks_while_it_is_open_is_told_by_every_check(tmp_path):
    path = written(tmp_path)
    file = RowFile.open(path)
    path.write_bytes(path.read_bytes()[: 4096 + 500])
    with pytest.raises(ArtifactError, match="truncated"):
        file.check_size()
    with pytest.raises(ArtifactError, match="truncated"):
        file.verify()


def test_a_mapped_file_that_shrinks_kills_its_reader_and_a_resident_one_does_not(tmp_path):
    """Why servers map a copy of their own; the first half is the positive control."""
    path = written(tmp_path, "fp32")
    script = """
        import sys, os, torch
        from depthrank.tables import RowFile
        file = RowFile.open(sys.argv[1])
        source = file.resident() if sys.argv[2] == "resident" else file.source()
        os.truncate(sys.argv[1], 5000)
        print(float(source.rows(torch.tensor([29_999])).sum()))
    """
    raw = path.read_bytes()
    for how, code in (("mapped", -7), ("resident", 0)):
        path.write_bytes(raw)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(path), how], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
