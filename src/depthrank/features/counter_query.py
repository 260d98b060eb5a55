"""Counter features of the requests and candidates of one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from depthrank.features.counter_plan import CounterFeature, KeyPart
from depthrank.features.counter_windows import SparseSnapshot, indexed_floats

if TYPE_CHECKING:
    from depthrank.features.counters import Counters

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
_MAX_SNAPSHOTS = 2  # a call whose requests lie in more buckets than this asks the index instead


class CounterQuery:
    """Looks up keys once a call, however many features share them.

    users: R ids; time_ms int64 [R]; item_rows and request_of_candidate int64 [N], for candidate-side counters.
    """

    def __init__(
        self,
        counters: Counters,
        users: Sequence[str],
        time_ms: Int64,
        item_rows: Int64 | None,
        request_of_candidate: Int64 | None,
    ) -> None:
        self._counters, self._users, self._time_ms = counters, users, time_ms
        self._item_rows, self._request_of_candidate = item_rows, request_of_candidate
        self._codes: dict[KeyPart, Int64] = {}

    def floats(self, name: str) -> Float32:
        """float32 [R, F] of a request-side counter, [N, F] of another."""
        feature = self._counters.features[name]
        bucket_R = self._time_ms // feature.table.bucket_ms
        buckets = np.unique(bucket_R) if len(bucket_R) > 1 else bucket_R
        has_index = self._counters.has_index(feature)
        if len(buckets) == 1 and not has_index:
            return self._from_snapshot(feature, int(buckets[0]))
        keys, bucket = self._keys(feature), self._per_row(feature, bucket_R)
        if has_index or len(buckets) > _MAX_SNAPSHOTS:
            per = self._counters.index(feature.per) if feature.per else None
            return indexed_floats(self._counters.index(feature.table), per, feature.windows, keys, bucket)
        out = np.empty((len(keys), feature.windows.num_floats), np.float32)
        for one in buckets.tolist():
            rows = np.flatnonzero(bucket == one)
            out[rows] = self._counters.snapshot(feature, one).lookup(keys[rows])
        return out

    def _from_snapshot(self, feature: CounterFeature, bucket: int) -> Float32:
        snapshot = self._counters.snapshot(feature, bucket)
        first = feature.parts[0]
        if isinstance(snapshot, SparseSnapshot) and first.entity == "user" and len(self._users) == 1:
            second = self._per_row_codes(feature, feature.parts[1])
            return snapshot.lookup_of_first(int(self._part(first)[0]), second)
        return snapshot.lookup(self._keys(feature))

    def _keys(self, feature: CounterFeature) -> Int64:
        codes = [self._per_row_codes(feature, part) for part in feature.parts]
        return codes[0] if len(codes) == 1 else (codes[0] << 32) | codes[1]

    def _per_row_codes(self, feature: CounterFeature, part: KeyPart) -> Int64:
        codes = self._part(part)
        return self._per_row(feature, codes) if part.entity == "user" else codes

    def _per_row(self, feature: CounterFeature, values_R: Int64) -> Int64:
        """Values of requests as values of the feature's rows."""
        if feature.is_request_side:
            return values_R
        assert self._request_of_candidate is not None, "a candidate-side counter needs candidates"
        return values_R[self._request_of_candidate]

    def _part(self, part: KeyPart) -> Int64:
        codes = self._codes.get(part)
        if codes is None:
            keys = self._counters.keys[part]
            if part.entity == "user":
                codes = keys.of_ids(self._users)
            else:
                assert self._item_rows is not None, "an item's counter needs candidates"
                codes = keys.of_rows(self._item_rows)
            self._codes[part] = codes
        return codes
