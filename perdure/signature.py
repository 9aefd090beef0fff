"""A handler's signature as a contract: read at declaration, checked at enqueue and before the run."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from typing import Any, Final

import msgspec

from perdure.args_checker import ArgsChecker, explain
from perdure.context import Context
from perdure.data_check import decode_object
from perdure.errors import InvalidHandler
from perdure.type_exprs import describe
from perdure.wire.data import KindSpec, Lane, Param

__all__ = ["ArgsChecker", "Signature", "read_signature"]

#: Kinds of parameters that arguments from the queue, which have names, cannot reach.
_UNREACHABLE: Final = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only: remove the / after it, because arguments have names",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of values: take a list instead, because arguments have names",
}


class Signature:
    """What a handler takes. `params` leaves the context out; `accepts_extra`: it has **kwargs."""

    def __init__(
        self, kind: str, lane: Lane, takes_context: bool, accepts_extra: bool, parameters: list[inspect.Parameter]
    ) -> None:
        self.kind = kind
        self.lane: Final = lane
        self.takes_context = takes_context
        self.accepts_extra = accepts_extra
        self.params = [
            Param(p.name, describe(_annotation(p)), p.default is inspect.Parameter.empty) for p in parameters
        ]
        self._types = {p.name: _exact_type(_annotation(p)) for p in parameters}
        # A struct cannot have every name for a field's.
        odd = any(name.startswith("__") for name in self._types)
        #: Names of parameters, by the name that stands for it where all of them are decoded.
        self._names = {f"f{index}" if odd else name: name for index, name in enumerate(self._types)}
        struct = msgspec.defstruct(
            "Args",
            [
                (field, self._types[param.name], *(() if param.required else (msgspec.UNSET,)))
                for field, param in zip(self._names, self.params, strict=True)
            ],
            rename=self._names,
            forbid_unknown_fields=not accepts_extra,
            kw_only=True,
            gc=False,
        )
        #: What is decoded is what is passed on: nothing can be missing, or come besides.
        self._is_plain = not (odd or accepts_extra) and all(param.required for param in self.params)
        self._decode = msgspec.json.Decoder(struct, dec_hook=_build_path).decode

    def bind(self, text: str | bytes) -> dict[str, Any]:
        """The keyword arguments for a call of the handler, converted to its annotations where msgspec knows them.

        Raises InvalidArguments with a message for the producer.
        """
        try:
            decoded = self._decode(text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise explain(self._spec(), text, self._types, error, _build_path) from error
        bound = msgspec.structs.asdict(decoded)
        if self._is_plain:
            return bound
        bound = {self._names[field]: value for field, value in bound.items() if value is not msgspec.UNSET}
        if self.accepts_extra:
            bound |= {name: value for name, value in decode_object(text).items() if name not in self._types}
        return bound

    def _spec(self) -> KindSpec:
        return KindSpec(name=self.kind, lane=self.lane, params=self.params, accepts_extra=self.accepts_extra)


def read_signature(function: Callable[..., Any], kind: str) -> Signature:
    """Read a handler. Raises InvalidHandler that says why a function cannot be one."""
    called = _called(function, kind)
    try:
        parameters = _resolved(function, called)
    except (TypeError, ValueError) as error:
        raise InvalidHandler(f"{kind}: {function!r} does not tell its parameters ({error})") from error
    takes_context = bool(parameters) and _is_context(parameters[0])
    if takes_context:
        _check_context(parameters.pop(0), kind)
    accepts_extra = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    if accepts_extra:
        parameters.pop()
    for position, parameter in enumerate(parameters):
        _check_parameter(parameter, position, kind)
    lane: Lane = "async" if inspect.iscoroutinefunction(called) else "sync"
    return Signature(kind, lane, takes_context, accepts_extra, parameters)


def _called(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """The function that runs when the handler is called: itself, or the __call__ of its class."""
    if isinstance(function, type):
        name = function.__qualname__
        raise InvalidHandler(f"{kind}: {name} is a class; declare a function, or an instance with __call__")
    if not callable(function):
        raise InvalidHandler(f"{kind}: {type(function).__name__} cannot be called; declare a function")
    called: Callable[..., Any] = function
    if not inspect.isroutine(function) and not isinstance(function, partial):
        called = type(function).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise InvalidHandler(f"{kind}: a generator cannot be a handler; collect the values and return them")
    return called


def _resolved(function: Callable[..., Any], called: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters with annotations as objects, whether or not the module postpones their evaluation."""
    parameters = list(inspect.signature(function).parameters.values())
    source: Any = inspect.unwrap(function)
    while isinstance(source, partial):
        source = inspect.unwrap(source.func)
    if not inspect.isroutine(source):
        source = inspect.unwrap(called)
    namespace = getattr(source, "__globals__", {})
    return [p.replace(annotation=_resolve(p.annotation, namespace)) for p in parameters]


def _resolve(annotation: object, namespace: dict[str, Any]) -> object:
    """One annotation as an object; text that cannot be resolved (imported for type checkers only) stays text."""
    if annotation is inspect.Parameter.empty:
        return annotation
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=namespace, include_extras=True)["it"]
    except Exception:  # the annotation is the user's code: it may raise anything
        return annotation


def _annotation(parameter: inspect.Parameter) -> object:
    """The annotation to check against; a default of None allows None, whatever the annotation says."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return Any
    if parameter.default is None and annotation is not Any:
        try:
            return typing.Optional[annotation]  # noqa: UP045 - annotation | None fails for some annotations
        except TypeError:
            return Any
    return annotation


def _is_context(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty or annotation is Any:
        return parameter.name == "ctx"
    if isinstance(annotation, str):
        return annotation.strip("'\" ").rsplit(".", 1)[-1] == "Context"
    candidates = typing.get_args(annotation) or (annotation,)
    return any(isinstance(candidate, type) and issubclass(candidate, Context) for candidate in candidates)


def _check_context(parameter: inspect.Parameter, kind: str) -> None:
    if parameter.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        name = parameter.name
        raise InvalidHandler(f'{kind}: "{name}" gets the context by position: put it first, without * before it')


def _check_parameter(parameter: inspect.Parameter, position: int, kind: str) -> None:
    name = parameter.name
    if parameter.kind in _UNREACHABLE:
        raise InvalidHandler(f'{kind}: "{name}" {_UNREACHABLE[parameter.kind]}')
    if position == 0 and name in ("self", "cls") and parameter.annotation is inspect.Parameter.empty:
        raise InvalidHandler(f'{kind}: it is a method (it takes "{name}"); declare a function outside of the class')
    if parameter.annotation is not inspect.Parameter.empty and _is_context(parameter):
        raise InvalidHandler(f'{kind}: "{name}" is a Context; the context must be the first parameter')


def _exact_type(annotation: Any) -> Any:
    """The annotation if msgspec can decode it, else Any: what it cannot judge is the handler's business."""
    try:
        msgspec.json.Decoder(annotation, dec_hook=_build_path)
        known = not _holds_foreign(msgspec.inspect.type_info(annotation), set())
    except Exception:  # the annotation is the user's code: resolving it may raise anything
        return Any
    return annotation if known else Any


def _holds_foreign(node: object, seen: set[int]) -> bool:
    """Whether a type of msgspec.inspect contains a class that neither msgspec nor `_build_path` can make."""
    if id(node) in seen:
        return False
    seen.add(id(node))
    if isinstance(node, msgspec.inspect.CustomType):
        return not issubclass(node.cls, PurePath)
    if isinstance(node, tuple | list):
        return any(_holds_foreign(item, seen) for item in node)
    if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
        return any(_holds_foreign(getattr(node, name), seen) for name in node.__struct_fields__)
    return False


def _build_path(cls: type, value: object) -> object:
    """msgspec's hook for types that it does not know: paths come as text."""
    if issubclass(cls, PurePath) and isinstance(value, str):
        return cls(value)
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
