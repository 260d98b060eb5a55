"""How large a model is: read from an artifact's manifest, or from a file of numbers for one that is yet to be built."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from depthrank.artifact import read_manifest
from depthrank.artifact.fit import HOSTILE
from depthrank.cluster.plan import ModelSize, TableSize
from depthrank.errors import ArtifactError, DataError
from depthrank.model import ModelConfig
from depthrank.tables import RowFormat, RowMap


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    rows: int
    width: int
    name: str = ""
    count: int = 1
    form: RowFormat = "fp32"
    lookups: float = 1.0
    per: Literal["request", "candidate"] = "request"


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    tables: list[_Table]
    dense_bytes: int = 0
    candidates: int = 1_000


def size_of_artifact(path: Path, candidates: int) -> ModelSize:
    """The size of an artifact's model; a table's lookups are its id columns, each with its salts.

    Item-side rows are read once an item, when the catalogue is encoded: a request does not look them up.
    """
    manifest = read_manifest(path)
    try:
        config = ModelConfig.from_plain(manifest.model)
    except HOSTILE as error:
        raise ArtifactError(f"{path} does not hold a model of this version: {error}") from None
    tables = []
    for side in ("request", "item", "candidate"):
        of_side: Any = getattr(config, side)
        if of_side.slots:
            rows = RowMap(of_side.slots)
            lookups = 0 if side == "item" else of_side.slots[-1].stop * rows.num_salts
            per: Literal["request", "candidate"] = "candidate" if side == "candidate" else "request"
            form = of_side.row_format
            tables.append(TableSize(f"{side}_features", max(1, rows.num_rows), config.table_width, form, lookups, per))
    dense = manifest.files["dense.safetensors"].bytes if "dense.safetensors" in manifest.files else 0
    return ModelSize(tuple(tables), dense, candidates)


def size_of_file(path: Path) -> ModelSize:
    """The size that a YAML file says; ``count`` stands for so many tables alike. Raises DataError.

    tables: [{rows: 2000000000, width: 64, count: 10, form: int8, lookups: 1, per: request}], dense_bytes, candidates
    """
    import yaml

    try:
        model = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), _Model)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise DataError(f"{path} is not a model size: {error}; see `depthrank plan --help`") from None
    tables = []
    for number, table in enumerate(model.tables):
        name = table.name or f"table{number}"
        names = [name] if table.count == 1 else [f"{name}.{i}" for i in range(table.count)]
        tables += [TableSize(n, table.rows, table.width, table.form, table.lookups, table.per) for n in names]
    return ModelSize(tuple(tables), model.dense_bytes, model.candidates)
