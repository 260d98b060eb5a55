"""Items and users as mapped columns: load, upsert while serving, generations."""

from __future__ import annotations

from depthrank.catalogue.catalogue import Catalogue, UpsertResult
from depthrank.catalogue.column_files import load_array, load_texts, save_array, save_texts
from depthrank.catalogue.columns import Column, ListColumn, NumberColumn, TextColumn, VectorColumn
from depthrank.catalogue.shown import shown
from depthrank.catalogue.text_of import text_of, texts_of

__all__ = [
    "Catalogue",
    "Column",
    "ListColumn",
    "NumberColumn",
    "TextColumn",
    "UpsertResult",
    "VectorColumn",
    "load_array",
    "load_texts",
    "save_array",
    "save_texts",
    "shown",
    "text_of",
    "texts_of",
]
