"""Ids of points that follow from what the points are."""

from __future__ import annotations

from datetime import date
from pathlib import PurePath
from typing import Final
from uuid import NAMESPACE_DNS, UUID, uuid5

from perdure.errors import UsageError

#: Never to be changed: the ids of all points that were ever written follow from it.
_NAMESPACE: Final = uuid5(NAMESPACE_DNS, "points.perdure")
#: What has one text form everywhere.
_PLAIN: Final = (str, int, float, bool, bytes, UUID, PurePath, date, type(None))


def point_id(*parts: object) -> str:
    """The id of a point that is known by `parts`, a UUID as text: the same parts give the same id, always.

    Each part counts by its text, so 7 and "7" are the same; ("a", "b") and ("ab",) are not. Raises UsageError for parts
    that are not text, numbers, bytes, dates, paths, UUIDs or None.
    """
    for part in parts:
        if not isinstance(part, _PLAIN):
            raise UsageError(f"point_id: {type(part).__name__} has no lasting text form; pass text or numbers")
    texts = [str(part) for part in parts]
    return str(uuid5(_NAMESPACE, "".join(f"{len(text)}:{text}" for text in texts)))
