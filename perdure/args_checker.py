"""Judge JSON arguments against what a kind declares, in a process that has not imported the handler."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec

from perdure.data_check import decode_object, json_name, refuse_big_integers
from perdure.errors import InvalidArguments
from perdure.type_exprs import parse
from perdure.wire.data import KindSpec, Param

#: More than this in one message is a wall of text.
_MAX_PROBLEMS: Final = 5
_MAX_LISTED: Final = 20

_NOUNS: Final = {"int": "a number", "float": "a number", "bool": "true or false", "null": "null", "list": "a list"}
_LOCATION: Final = re.compile(r"^(.*?)(?: - at `\$(.*)`)?$", re.DOTALL)

#: Types whose values hold no others.
_SCALARS: Final = frozenset({str, int, float, bool, NoneType})

Hook = Callable[[type, object], object]


class ArgsChecker:
    """Checks argument texts of one kind at native speed: one typed decode a text."""

    def __init__(self, spec: KindSpec) -> None:
        self._spec = spec
        self._types = {param.name: _usable(parse(param.type)) for param in spec.params}
        fields = [(f"f{index}", param.name) for index, param in enumerate(spec.params)]
        struct = msgspec.defstruct(
            "Args",
            [
                (field, self._types[name]) if param.required else (field, self._types[name], None)
                for (field, name), param in zip(fields, spec.params, strict=True)
            ],
            rename=dict(fields),
            forbid_unknown_fields=not spec.accepts_extra,
            kw_only=True,
        )
        self._decode = msgspec.json.Decoder(struct).decode
        #: Whether no argument can hold a list or an object: what fits is then no deeper than an object.
        self.flat = not spec.accepts_extra and all(map(_is_flat, self._types.values()))

    def fits(self, args_text: str) -> bool:
        """Whether it fits, where the kind is `flat`, whatever its depth. False: `check` says why."""
        try:
            refuse_big_integers(self._decode(args_text))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
            return False
        return True

    def all_fit(self, args_texts: Iterable[str]) -> bool:
        """The same for many at once."""
        try:
            refuse_big_integers([self._decode(text) for text in args_texts])
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
            return False
        return True

    def check(self, args_text: str | bytes) -> None:
        """Raise InvalidArguments unless the text is an object that fits; its depth must have been checked before."""
        try:
            refuse_big_integers(self._decode(args_text))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            raise explain(self._spec, args_text, self._types, error) from error
        if self._spec.accepts_extra:
            decode_object(args_text)  # the typed decode only skips over what it does not know


def explain(
    spec: KindSpec,
    args_text: str | bytes,
    types: Mapping[str, Any],
    error: Exception,
    dec_hook: Hook | None = None,
) -> InvalidArguments:
    """The whole list of what is wrong with arguments that were refused because of `error`, as an error to raise."""
    try:
        args = decode_object(args_text)
    except InvalidArguments as broken:
        return InvalidArguments(f"{spec.name}: {broken}")
    wrong = [
        problem
        for param in spec.params
        if param.name in args and (problem := _wrong(param, args[param.name], types[param.name], dec_hook))
    ]
    missing = [param.name for param in spec.params if param.required and param.name not in args]
    misnamed = [f'argument "{name}" is missing' for name in missing]
    if not spec.accepts_extra:
        misnamed += [_unknown(name, list(types)) for name in args if name not in types]
    problems = misnamed + wrong or [str(error)]
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"and {len(problems) - _MAX_PROBLEMS} more"]
    listing = f"; it takes: {_listing(spec)}" if misnamed else ""
    return InvalidArguments(f"{spec.name}: {'; '.join(problems)}{listing}")


def _usable(kind: Any) -> Any:
    """The type, or Any where this msgspec cannot check it: a newer perdure may have declared it."""
    try:
        msgspec.json.Decoder(kind)
    except TypeError:
        return Any
    return kind


def _is_flat(kind: Any) -> bool:
    """Whether the values of this type are texts, numbers, booleans and null alone."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return all(map(_is_flat, get_args(kind)))
    return origin is Literal or kind in _SCALARS


def _unknown(name: str, known: list[str]) -> str:
    import difflib  # only mistakes need it

    close = difflib.get_close_matches(name[:128], known, n=1)
    return f'unknown argument "{_clip(name)}"' + (f' (did you mean "{close[0]}"?)' if close else "")


def _wrong(param: Param, value: object, kind: Any, dec_hook: Hook | None) -> str | None:
    """What is wrong with one value, or None."""
    try:
        msgspec.convert(value, type=kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        match = _LOCATION.match(str(error))
        reason, place = match.groups() if match else (str(error), None)
        reason = reason.replace("`", "")
        reason = reason[:1].lower() + reason[1:]
        if place:
            return f'argument "{param.name}" at {place}: {reason}'
        if param.type != "any" and _refuses(value, parse(param.type)):
            reason = f"expected {param.type}, got {json_name(value)} ({_shown(value)})"
        return f'argument "{param.name}": {reason}{_hint(param.name, value, kind, dec_hook)}'
    return None


def _refuses(value: object, kind: Any) -> bool:
    """Whether a decoded JSON value does not fit a type."""
    try:
        msgspec.convert(value, type=kind)
    except msgspec.ValidationError:
        return True
    return False


def _hint(name: str, value: object, kind: Any, dec_hook: Hook | None) -> str:
    """On the command line `n=12` is text: if the text is what was wanted, say how to pass it."""
    if not isinstance(value, str) or len(value) > 100:
        return ""
    try:
        meant = msgspec.json.decode(value)
        msgspec.convert(meant, type=kind, dec_hook=dec_hook)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    return f"; use {name}:={value} to pass {_NOUNS.get(json_name(meant), 'an object')}"


def _listing(spec: KindSpec) -> str:
    listed = [f"{p.name} ({p.type}{'' if p.required else ', optional'})" for p in spec.params[:_MAX_LISTED]]
    if len(spec.params) > _MAX_LISTED:
        listed.append(f"and {len(spec.params) - _MAX_LISTED} more")
    if spec.accepts_extra:
        listed.append("any other")
    return ", ".join(listed) or "no arguments"


def _shown(value: object) -> str:
    return _clip(msgspec.json.encode(value).decode())


def _clip(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
