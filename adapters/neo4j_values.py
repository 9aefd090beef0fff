"""From the driver's types to plain data."""

from __future__ import annotations

from typing import Any, NamedTuple

import neo4j
from neo4j import spatial, time

#: The counters of a summary.
_COUNTERS = (
    "nodes_created",
    "nodes_deleted",
    "relationships_created",
    "relationships_deleted",
    "properties_set",
    "labels_added",
    "labels_removed",
    "indexes_added",
    "indexes_removed",
    "constraints_added",
    "constraints_removed",
    "system_updates",
)


class Executed(NamedTuple):
    """What a query came to. `counters`: what it changed, by the driver's names (`nodes_created` …), without zeros."""

    records: list[dict[str, Any]]
    counters: dict[str, int]


async def fetch_all(result: neo4j.AsyncResult) -> Executed:
    """All records of a result as plain data, and its counters."""
    records = [plain_record(record) async for record in result]
    summary = await result.consume()
    counters = {name: count for name in _COUNTERS if (count := getattr(summary.counters, name, 0))}
    return Executed(records, counters)


def plain_record(record: neo4j.Record) -> dict[str, Any]:
    """A record as a dict. Nodes, relationships and paths look as in the driver's `Record.data()`."""
    return {key: _plain(value) for key, value in record.data().items()}


def _plain(value: Any) -> Any:
    """Times become datetime's (nanoseconds are cut off), durations ISO text, points lists of numbers."""
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case spatial.Point():
            return [float(number) for number in value]
        case time.Duration():
            return value.iso_format()
        case list() | tuple():  # a point and a duration are tuples, too
            return [_plain(one) for one in value]
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case time.DateTime() | time.Date() | time.Time():
            return value.to_native()
    return value
