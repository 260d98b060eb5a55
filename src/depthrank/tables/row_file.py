"""A table on disk: a header, a checksum a block, and packed rows that are mapped where they lie.

Layout, little-endian throughout (docs/tables.md says it byte by byte):

    0    header, 160 bytes      sizes, offsets, and two BLAKE3 hashes: of the block checksums, and of the header itself
    160  block checksums        16 bytes each: BLAKE3 of a block of rows, cut to 16 bytes
    ...  zeros up to a multiple of 4096
    rows_offset  rows           num_rows * row_bytes, no gaps; the file ends with them

The header's hash covers the hash of the checksums, which cover the rows: it names the whole content (``content_id``),
and a part can be verified without reading the rest.

Mapped files that shrink kill the process that reads them (SIGBUS). So a server maps a copy of its own
(served_copy.py), never the file of an artifact, and ``RowFile`` compares sizes before it maps.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from blake3 import blake3
from torch import Tensor

from depthrank.errors import ArtifactError
from depthrank.tables.row_format import ROW_FORMATS, RowFormat, faulty_rows, row_bytes, stored_dtype, stored_width
from depthrank.tables.row_source import PackedRows

MAGIC = b"DRKROWS\n"
VERSION = 1
BYTE_ORDER = 0x01020304
HEADER = struct.Struct("<8sIIIIQIIQQQQ24x32s")  # then 32 bytes: BLAKE3 of what stands before them
HEADER_BYTES = HEADER.size + 32
CHECKSUM_BYTES = 16
PAGE = 4_096
BLOCK_BYTES = 1 << 20
MOST_WIDTH = 1 << 16
MOST_ROWS = 1 << 48
# Never written to, so no memory is set aside for a copy: a file may be larger than memory (0x4000: Linux).
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_MAP_FLAGS = mmap.MAP_PRIVATE | _NORESERVE


@dataclass(frozen=True)
class RowFileHeader:
    """What the header says: sizes, and where everything lies."""

    form: RowFormat
    width: int
    num_rows: int
    block_rows: int
    checksums_hash: bytes

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.form, self.width)

    @property
    def num_blocks(self) -> int:
        return -(-self.num_rows // self.block_rows)

    @property
    def rows_offset(self) -> int:
        """A multiple of the page size, so that rows are mapped as they lie."""
        return -(-(HEADER_BYTES + self.num_blocks * CHECKSUM_BYTES) // PAGE) * PAGE

    @property
    def file_bytes(self) -> int:
        return self.rows_offset + self.num_rows * self.row_bytes

    def encode(self) -> bytes:
        """The header's bytes, its own hash at the end."""
        body = HEADER.pack(
            MAGIC,
            BYTE_ORDER,
            VERSION,
            ROW_FORMATS.index(self.form),
            self.width,
            self.num_rows,
            self.row_bytes,
            self.block_rows,
            HEADER_BYTES,
            self.num_blocks,
            self.rows_offset,
            self.file_bytes,
            self.checksums_hash,
        )
        return body + blake3(body).digest()


def write_row_file(path: Path, parts: Iterable[Tensor], form: RowFormat, width: int, num_rows: int) -> str:
    """Write packed rows, given in parts of any size, as ``path``: all of it or nothing. Returns the content id.

    parts: tensors [n, stored_width] of the format's type, ``num_rows`` in all. Raises OSError where the disk fails.
    """
    assert sys.byteorder == "little", "rows are stored as this machine holds them"
    size = row_bytes(form, width)
    block_rows = max(1, BLOCK_BYTES // size)
    empty = RowFileHeader(form, width, num_rows, block_rows, b"")
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.seek(empty.rows_offset)
            checksums = bytearray()
            for block in _blocks(parts, block_rows * size):
                file.write(block)
                checksums += block_checksum(block)
            assert file.tell() == empty.file_bytes, f"{file.tell()} bytes of rows came, not {empty.file_bytes}"
            header = RowFileHeader(form, width, num_rows, block_rows, blake3(bytes(checksums)).digest()).encode()
            file.seek(0)
            file.write(header + checksums)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return header[-32:].hex()


def block_checksum(block: bytes | memoryview) -> bytes:
    """16 bytes of BLAKE3."""
    return blake3(block).digest(CHECKSUM_BYTES)


def _blocks(parts: Iterable[Tensor], block_bytes: int) -> Iterator[bytes | memoryview]:
    """The bytes of all parts, cut into blocks; the last one may be shorter."""
    rest = b""
    for part in parts:
        if not part.numel():
            continue
        view = memoryview(part.contiguous().view(torch.uint8).numpy().data).cast("B")
        if rest:
            missing = min(block_bytes - len(rest), len(view))
            rest, view = rest + bytes(view[:missing]), view[missing:]
            if len(rest) < block_bytes:
                continue
            yield rest
            rest = b""
        whole = len(view) // block_bytes * block_bytes
        for start in range(0, whole, block_bytes):
            yield view[start : start + block_bytes]
        rest = bytes(view[whole:])
    if rest:
        yield rest


class RowFile:
    """A row file that is open and mapped. ``content_id``: hex name of the whole content."""

    def __init__(self, path: Path, header: RowFileHeader, content_id: str, descriptor: int) -> None:
        self.path, self.header, self.content_id = path, header, content_id
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, header.file_bytes, _MAP_FLAGS, mmap.PROT_READ | mmap.PROT_WRITE)

    @classmethod
    def open(cls, path: str | Path) -> RowFile:
        """Map a row file whose header and checksums are in order; raises ArtifactError with one clear reason.

        Rows themselves are not read: ``verify`` does, all or some. The mapping is copy-on-write: nothing writes back.
        """
        path = Path(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            header, content_id = read_header(path, descriptor)
            return cls(path, header, content_id, descriptor)
        except OSError as error:
            os.close(descriptor)
            raise ArtifactError(f"{path} cannot be mapped: {error.strerror or error}") from None
        except BaseException:
            os.close(descriptor)
            raise

    def __del__(self) -> None:
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def packed_VB(self) -> Tensor:
        """The packed rows, as a tensor over the mapping."""
        header = self.header
        if not header.num_rows:
            return torch.zeros(0, stored_width(header.form, header.width), dtype=stored_dtype(header.form))
        count = header.num_rows * stored_width(header.form, header.width)
        flat = torch.frombuffer(self._map, dtype=stored_dtype(header.form), count=count, offset=header.rows_offset)
        return flat.view(header.num_rows, -1)

    def source(self) -> PackedRows:
        """Lookups straight from the mapping."""
        return PackedRows(self.packed_VB, self.header.form, self.header.width)

    def resident(self) -> PackedRows:
        """The rows in memory of the process's own, read and verified: no file can take them away."""
        header = self.header
        self.verify()
        return PackedRows(self.packed_VB.clone(), header.form, header.width)

    def lock_shared(self) -> None:
        """Hold a shared lock for as long as the file is open: "somebody serves this"."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def advise_random(self) -> None:
        """Tell the kernel that rows are read one here, one there: no reading ahead."""
        self._map.madvise(mmap.MADV_RANDOM)

    def advise_sequential(self) -> None:
        """Tell the kernel that rows are about to be read from the first to the last."""
        self._map.madvise(mmap.MADV_SEQUENTIAL)

    def prefetch(self, row_n: Tensor) -> None:
        """Ask for the pages of some rows at once, so that the disk reads them beside each other and not in turn."""
        header = self.header
        first_n = header.rows_offset + row_n.to(torch.int64) * header.row_bytes
        pages = torch.unique(torch.cat((first_n, first_n + header.row_bytes - 1)) // PAGE).tolist()
        for page in pages:
            self._map.madvise(mmap.MADV_WILLNEED, page * PAGE, min(PAGE, header.file_bytes - page * PAGE))

    def check_size(self) -> None:
        """Raise ArtifactError where the file is not as long as when it was opened; ask before reading much of it."""
        check_size(self.path, os.fstat(self._descriptor).st_size, self.header.file_bytes)

    def verify(self, blocks: Iterable[int] | None = None) -> None:
        """Compare blocks of rows (default: all) with their checksums, and look for scales that are no numbers.

        Reads by system calls, not through the mapping, so that a file that shrinks meanwhile is an error and no signal.
        Raises ArtifactError that names the block and its rows.
        """
        header = self.header
        checksums = _read(self.path, self._descriptor, HEADER_BYTES, header.num_blocks * CHECKSUM_BYTES)
        size = header.block_rows * header.row_bytes
        for block in range(header.num_blocks) if blocks is None else blocks:
            first = block * header.block_rows
            last = min(first + header.block_rows, header.num_rows)
            given = _read(
                self.path, self._descriptor, header.rows_offset + block * size, (last - first) * header.row_bytes
            )
            if block_checksum(given) != checksums[block * CHECKSUM_BYTES : (block + 1) * CHECKSUM_BYTES]:
                raise ArtifactError(
                    f"{self.path} was altered: rows {first} to {last - 1} (block {block}) do not fit their checksum"
                )
            packed = torch.frombuffer(bytearray(given), dtype=stored_dtype(header.form)).view(last - first, -1)
            faulty = faulty_rows(packed, header.form, header.width)
            if faulty.numel():
                raise ArtifactError(
                    f"{self.path}: row {first + int(faulty[0])} has numbers or a scale that are not finite: train again"
                )

    def blocks_of(self, row_n: Tensor) -> list[int]:
        """The blocks that hold some rows, for ``verify``."""
        found: list[int] = torch.unique(row_n // self.header.block_rows).tolist()
        return found


def read_header(path: Path, descriptor: int) -> tuple[RowFileHeader, str]:
    """The checked header and the content id; raises ArtifactError where anything does not fit the rest.

    Every offset and size follows from format, width and number of rows: what the file says must be just that.
    """
    size = os.fstat(descriptor).st_size
    if size < HEADER_BYTES:
        raise ArtifactError(f"{path} is no row file: {size} bytes, a header alone has {HEADER_BYTES}")
    raw = _read(path, descriptor, 0, HEADER_BYTES)
    magic, order, version, form_code, width, num_rows, _, block_rows, *_, checksums_hash = HEADER.unpack(raw[:-32])
    if magic != MAGIC:
        raise ArtifactError(f"{path} is no row file: it starts with {magic!r}, expected {MAGIC!r}")
    if order != BYTE_ORDER:
        swapped = order == int.from_bytes(BYTE_ORDER.to_bytes(4, "little"), "big")
        what = "of big-endian byte order" if swapped else "of unknown byte order"
        raise ArtifactError(f"{path} is {what}; row files are little-endian: write it again with depthrank")
    if version != VERSION:
        raise ArtifactError(f"{path} has row file version {version}; this version reads {VERSION}: upgrade depthrank")
    if blake3(raw[:-32]).digest() != raw[-32:]:
        raise ArtifactError(f"{path} was altered: its header does not fit its checksum")
    in_bounds = form_code < len(ROW_FORMATS) and 1 <= width <= MOST_WIDTH and num_rows <= MOST_ROWS
    if not in_bounds or not 1 <= block_rows <= MOST_ROWS or (ROW_FORMATS[form_code] == "int4" and width % 2):
        raise ArtifactError(
            f"{path} is out of bounds: format {form_code}, width {width}, {num_rows} rows, {block_rows} rows a block"
        )
    header = RowFileHeader(ROW_FORMATS[form_code], width, num_rows, block_rows, checksums_hash)
    if header.encode() != raw:
        raise ArtifactError(
            f"{path} has offsets or sizes that do not follow from its format, width and {num_rows} rows"
        )
    check_size(path, size, header.file_bytes)
    checksums = _read(path, descriptor, HEADER_BYTES, header.num_blocks * CHECKSUM_BYTES)
    if blake3(checksums).digest() != checksums_hash:
        raise ArtifactError(f"{path} was altered: its block checksums do not fit the header")
    return header, raw[-32:].hex()


def check_size(path: Path, found: int, expected: int) -> None:
    """Raise ArtifactError unless a row file has the size its header says."""
    if found != expected:
        what = "truncated" if found < expected else "longer than it should be"
        raise ArtifactError(f"{path} is {what}: {found} bytes, its header says {expected}; copy or train it again")


def _read(path: Path, descriptor: int, offset: int, size: int) -> bytes:
    """Just these bytes; raises ArtifactError where the file ends before."""
    parts, missing = [], size
    while missing:
        part = os.pread(descriptor, min(missing, 1 << 28), offset + size - missing)
        if not part:
            raise ArtifactError(f"{path} is truncated: it ends within the bytes {offset} to {offset + size}")
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
