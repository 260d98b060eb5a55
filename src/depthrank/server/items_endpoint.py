"""POST /v1/items upserts catalogue columns; GET /v1/items shows some items."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.catalogue import Catalogue, Column, ListColumn, NumberColumn, TextColumn
from depthrank.schema.wire import decode_upsert
from depthrank.schema.wire_fields import FieldChecks
from depthrank.schema.wire_json import check_length
from depthrank.server.answers import ItemView, ItemViews, Upsert, json_answer
from depthrank.server.bodies import read_body
from depthrank.server.queries import check_query_names
from depthrank.server.service import Service

MAX_VIEWS = 1_000


async def upsert_items(http: HttpRequest) -> Response:
    """Insert or change items; the next request sees them."""
    service: Service = http.app.state.service
    body = await read_body(http, service.settings)
    columns = await service.decode(decode_upsert, body, service.settings.limits)
    result = await service.in_log_pool(service.disk.guarded(service.ranker.upsert_items), columns)
    return json_answer(Upsert(result.inserted, result.updated, result.generation))


async def show_items(http: HttpRequest) -> Response:
    """The catalogue's columns of ``?ids=a,b`` and of each ``?id=`` (for ids that hold a comma)."""
    service: Service = http.app.state.service
    check_query_names(http, ("ids", "id"), service.settings.limits)
    listed = [i for text in http.query_params.getlist("ids") for i in text.split(",") if i]
    ids = listed + http.query_params.getlist("id")
    if not ids:
        checks = FieldChecks(service.settings.limits)
        checks.missing("?.ids", "item ids, such as ?ids=242,302")
        checks.raise_problems("the query has wrong parameters:")
    check_length(len(ids), MAX_VIEWS, "?.ids")
    return json_answer(ItemViews(view_items(service.ranker.generation.items, ids)))


def view_items(items: Catalogue, ids: list[str]) -> list[ItemView]:
    """Each item with its columns as plain values; vectors are left out."""
    rows = items.row_of(ids)
    columns = {name: items.column(name) for name in items.column_names}
    return [
        ItemView(item, bool(row), {name: _plain(column, row) for name, column in columns.items() if _shown(column)})
        for item, row in zip(ids, rows.tolist(), strict=True)
    ]


def _shown(column: Column) -> bool:
    return isinstance(column, (NumberColumn, TextColumn, ListColumn))


def _plain(column: Column, row: int) -> Any:
    """The value of a row; None where it is missing (or the row is younger than the column)."""
    if row >= len(column):
        return None
    if isinstance(column, NumberColumn):
        return None if column.missing[row] else column.values[row].item()
    if isinstance(column, TextColumn):
        code = int(column.codes[row])
        return column.dictionary[code] if code else None
    assert isinstance(column, ListColumn)
    return [column.dictionary[code] for code in column.pool[column.starts[row] : column.stops[row]].tolist()]
