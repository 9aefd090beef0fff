"""What `--json` prints: views as JSON documents, with the JSON that they carry as text put in place, not re-encoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
import msgspec

from perdure.wire.data import Verdict

#: Fields that hold JSON text, and what they are when the view has none.
_JSON_FIELDS: dict[str, Any] = {
    "args": {},
    "last_args": {},
    "errors": [],
    "history": [],
    "tags": [],
    "result": None,
    "blob": None,
    "result_blob": None,
}


def document(view: msgspec.Struct) -> dict[str, Any]:
    """A view as a dict that encodes to JSON: every field, always."""
    fields = msgspec.structs.asdict(view)
    for name, absent in _JSON_FIELDS.items():
        value = fields.get(name, ...)
        if value is None:
            fields[name] = absent
        elif isinstance(value, str):
            fields[name] = msgspec.Raw(value.encode())
    return fields


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """What became of one id."""
    found: dict[str, Any] = {"id": verdict.id, "ok": verdict.error is None}
    if verdict.error is not None:
        found["error"] = {"type": verdict.error.type, "message": verdict.error.message}
    return found


def print_document(value: Any) -> None:
    """One JSON document on one line of stdout, in UTF-8 whatever the locale."""
    click.echo(msgspec.json.encode(value))


def print_documents(values: Iterable[Any]) -> None:
    """One JSON document a line."""
    for value in values:
        print_document(value)


def parse_json(text: str | None, absent: Any = None) -> Any:
    """JSON text that the queue holds, for showing it; the text itself where it cannot be parsed."""
    if text is None:
        return absent
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
