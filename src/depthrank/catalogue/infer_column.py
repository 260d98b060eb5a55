"""Whatever a caller has (lists, numpy, pyarrow) -> a typed column, with the missing row 0 in front."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depthrank.catalogue.columns import Column, ListColumn, NumberColumn, TextColumn, VectorColumn
from depthrank.catalogue.text_of import text_of
from depthrank.errors import CatalogueError

Values = Any  # Sequence[object], numpy array, pyarrow Array or ChunkedArray (pyarrow has no types)


def infer_column(name: str, values: Values) -> Column:
    """A column of len(values) + 1 rows. Raises CatalogueError naming the column where its values have no column kind.

    Integers, booleans, dates and times become int64 (times in ms since 1970, UTC), floats float64; lists of floats of
    one length become vectors, other lists become lists of text; mixed numbers and texts become text.
    """
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "fiu":
        return _vector(np.asarray(values, np.float32), np.zeros(len(values), np.bool_))
    array = _arrow(name, values)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_null(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _floats(array)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _integers(array.cast(pa.timestamp("ms", getattr(kind, "tz", None)), safe=False).cast(pa.int64()))
    if pa.types.is_boolean(kind):
        return _integers(array.cast(pa.int8()))
    if pa.types.is_integer(kind):
        return _integers(array) if _fits_int64(array) else _texts(array.cast(pa.large_string()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _texts(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(name, array)
    raise CatalogueError(f"column {name!r} holds {kind}: expected numbers, texts, times, or lists of them")


def _arrow(name: str, values: Values) -> Any:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, pa.Array):
        return values
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return _mixed(name, list(values))


def _mixed(name: str, values: list[object]) -> Any:
    """Values that have no one Arrow type: numbers of several kinds, or numbers and texts."""
    if all(v is None or isinstance(v, (int, float, np.number)) for v in values):
        try:
            return pa.array([None if v is None else float(v) for v in values], pa.float64(), from_pandas=True)  # type: ignore[arg-type]
        except OverflowError:
            pass  # larger than any float: as text
    try:
        if any(isinstance(v, (list, tuple, np.ndarray)) for v in values):
            lists = [None if v is None else [text_of(e) for e in v] for v in values]  # type: ignore[attr-defined]
            return pa.array(lists, pa.list_(pa.string()))
        return pa.array([text_of(v) for v in values], pa.string())
    except (TypeError, UnicodeEncodeError) as error:
        raise CatalogueError(
            f"column {name!r} mixes kinds: {error}; expected numbers, texts, or lists of them"
        ) from None


def _fits_int64(array: Any) -> bool:
    top = pc.max(array).as_py() if pa.types.is_uint64(array.type) else None
    return top is None or top < 2**63


def _null_mask(array: Any) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _with_row_0(values: NDArray[Any], row_0: Any = 0) -> NDArray[Any]:
    return np.concatenate([np.full((1, *values.shape[1:]), row_0, values.dtype), values])


def _floats(array: Any) -> NumberColumn:
    values = array.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    return NumberColumn(_with_row_0(np.where(missing, 0.0, values)), _with_row_0(missing, True))


def _integers(array: Any) -> NumberColumn:
    values = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return NumberColumn(_with_row_0(values), _with_row_0(_null_mask(array), True))


def _coded(array: Any) -> tuple[NDArray[np.int32], list[str]]:
    """Codes from 1 (0 where null) and the dictionary with its entry 0."""
    encoded = array.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32) + np.int32(1)
    return codes, ["", *(text_of(v) or "" for v in encoded.dictionary.to_pylist())]


def _texts(array: Any) -> TextColumn:
    codes, dictionary = _coded(array)
    return TextColumn(_with_row_0(codes), dictionary)


def _lists(name: str, array: Any) -> Column:
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = array.flatten()
    element = flat.type
    scalar = pa.types.is_integer(element) or pa.types.is_floating(element) or pa.types.is_boolean(element)
    if not (scalar or pa.types.is_string(element) or pa.types.is_large_string(element) or pa.types.is_null(element)):
        raise CatalogueError(f"column {name!r} holds {array.type}: expected lists of numbers or texts")
    given = lengths[lengths > 0]
    if pa.types.is_floating(element) and len(given) and (given == given[0]).all():
        return _vectors_of_lists(flat, lengths, int(given[0]))
    codes, dictionary = _coded(flat if not pa.types.is_null(element) else flat.cast(pa.string()))
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    lengths = np.bincount(row_of[codes > 0], minlength=len(lengths))  # nulls within a list are left out
    codes, stops = codes[codes > 0], np.cumsum(lengths)
    return ListColumn(_with_row_0(stops - lengths), _with_row_0(stops), codes, dictionary)


def _vectors_of_lists(flat: Any, lengths: NDArray[np.int64], size: int) -> VectorColumn:
    values = np.zeros((len(lengths), size), np.float32)
    numbers = flat.cast(pa.float32()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    values[lengths > 0] = numbers.reshape(-1, size)
    return _vector(values, lengths == 0)


def _vector(values_VD: NDArray[np.float32], missing: NDArray[np.bool_]) -> VectorColumn:
    return VectorColumn(_with_row_0(values_VD), _with_row_0(missing, True))
