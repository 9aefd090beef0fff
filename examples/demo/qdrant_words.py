"""From the words of Qdrant's REST interface to those of qdrant-edge. What has no translation raises ValueError."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import qdrant_edge as edge
from qdrant_client.http import models


def to_id(point_id: Any) -> Any:
    """An integer or a UUID."""
    return UUID(point_id) if isinstance(point_id, str) else point_id


def to_vector(vector: Any) -> Any:
    """A dense, sparse or multi vector, or several of them by name."""
    if isinstance(vector, models.SparseVector):
        return edge.SparseVector(vector.indices, vector.values)
    if isinstance(vector, dict):
        return {name: to_vector(one) for name, one in vector.items()}
    if isinstance(vector, list):
        return vector
    raise ValueError(f"this front does not know vectors of the type {type(vector).__name__}")


def to_query(query: Any, using: str | None) -> Any:
    """A search for the nearest points; None: no order."""
    if query is None:
        return None
    if isinstance(query, models.NearestQuery):
        query = query.nearest
    return edge.Query.Nearest(to_vector(query), using)


def to_payload_selector(wanted: Any) -> Any:
    """Which fields of the payload come back."""
    if isinstance(wanted, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(wanted.include)
    if isinstance(wanted, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(wanted.exclude)
    return wanted


def to_filter(given: models.Filter | None) -> Any:
    """A filter with all that is in it."""
    if given is None:
        return None
    lists = {name: _conditions(getattr(given, name)) for name in ("must", "should", "must_not")}
    least = given.min_should
    min_should = None if least is None else edge.MinShould(_conditions(least.conditions) or [], least.min_count)
    return edge.Filter(min_should=min_should, **lists)


def _conditions(given: Any) -> list[Any] | None:
    if given is None:
        return None
    return [to_condition(one) for one in (given if isinstance(given, list) else [given])]


def to_condition(given: Any) -> Any:
    """One condition of a filter."""
    match given:
        case models.Filter():
            return to_filter(given)
        case models.FieldCondition():
            return _field_condition(given)
        case models.HasIdCondition():
            return edge.HasIdCondition({to_id(point_id) for point_id in given.has_id})
        case models.IsEmptyCondition():
            return edge.IsEmptyCondition(given.is_empty.key)
        case models.IsNullCondition():
            return edge.IsNullCondition(given.is_null.key)
        case models.HasVectorCondition():
            return edge.HasVectorCondition(given.has_vector)
        case models.NestedCondition():
            return edge.NestedCondition(given.nested.key, to_filter(given.nested.filter))
    raise ValueError(f"this front does not know {type(given).__name__}")


def _field_condition(given: models.FieldCondition) -> Any:
    known = {"key", "match", "range", "values_count", "is_empty", "is_null"}
    unknown = sorted(name for name in given.model_fields_set - known if getattr(given, name) is not None)
    if unknown:
        raise ValueError(f"this front does not know {', '.join(unknown)}")
    count = given.values_count
    return edge.FieldCondition(
        given.key,
        match=None if given.match is None else _match(given.match),
        range=None if given.range is None else _range(given.range),
        values_count=None if count is None else edge.ValuesCount(count.lt, count.gt, count.lte, count.gte),
        is_empty=given.is_empty,
        is_null=given.is_null,
    )


def _match(given: Any) -> Any:
    match given:
        case models.MatchValue():
            return edge.MatchValue(given.value)
        case models.MatchAny():
            return edge.MatchAny(given.any)
        case models.MatchExcept():
            return edge.MatchExcept(given.except_)
        case models.MatchText():
            return edge.MatchText(given.text)
        case models.MatchPhrase():
            return edge.MatchPhrase(given.phrase)
    raise ValueError(f"this front does not know {type(given).__name__}")


def _range(given: Any) -> Any:
    if isinstance(given, models.DatetimeRange):
        ends = [None if end is None else end.isoformat() for end in (given.gte, given.gt, given.lte, given.lt)]
        return edge.RangeDateTime(*ends)
    return edge.RangeFloat(given.gte, given.gt, given.lte, given.lt)
