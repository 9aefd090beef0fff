"""Messages that are almost right: an example of each kind, and what an enemy, a bug or another version makes of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect

from perdure.errors import ProtocolError
from perdure.wire import packet

#: Lengths and types that decoders have stumbled over.
TRICKS = (
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xc7\x0c\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xa4\xff\xfe\xed\xa0",
    b"\x91" * 2000,
    b"\x81\xa1x" * 700,
    b"\x00",
    b"\xc0",
)

#: How many structs within each other an example has at most.
DEPTH = 4


def examples(union: Any) -> list[Any]:
    """One instance of every struct in a union of structs, with something in each field."""
    return [_example(inspect.type_info(kind)) for kind in _members(union)]


def _members(union: Any) -> Sequence[type]:
    return tuple(getattr(union, "__args__", (union,)))


def _example(info: inspect.Type, depth: int = 0) -> Any:
    match info:
        case inspect.StructType(cls, fields):
            return cls(**{field.name: _example(field.type, depth + 1) for field in fields})
        case inspect.UnionType(types):
            # What is more than nothing; but errors have causes, which are errors.
            more = next(one for one in types if not isinstance(one, inspect.NoneType))
            return None if depth > DEPTH else _example(more, depth)
        case inspect.IntType():
            return 7
        case inspect.FloatType():
            return 2.5
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return True
        case inspect.ListType(item) | inspect.VarTupleType(item) | inspect.SetType(item):
            return [_example(item, depth)]
        case inspect.TupleType(items):
            return tuple(_example(item, depth) for item in items)
        case inspect.DictType(key, value):
            return {_example(key): _example(value, depth)}
        case inspect.LiteralType(values):
            return values[0]
        case inspect.AnyType() | inspect.NoneType():
            return None
        case inspect.Metadata(inner):
            return _example(inner, depth)
    raise AssertionError(f"no example of {info}")


class Mutator:
    """Makes messages from seeds; the same ones from the same dice."""

    def __init__(self, seeds: Sequence[Any], dice: random.Random) -> None:
        self.seeds = [packet.encode(seed) for seed in seeds]
        self.dice = dice

    def __call__(self) -> bytes:
        """The next message: valid, slightly wrong, or very wrong; never empty."""
        dice = self.dice
        data = bytearray(dice.choice(self.seeds))
        for _ in range(dice.choice((0, 1, 1, 1, 2, 4, 16))):
            self._change(data)
        return bytes(data[:90_000]) or b"\x00"

    def _change(self, data: bytearray) -> None:
        dice = self.dice
        place = dice.randrange(len(data) + 1)
        match dice.randrange(9):
            case 0 if place < len(data):
                data[place] ^= 1 << dice.randrange(8)
            case 1 if place < len(data):
                data[place] = dice.randrange(256)
            case 2:
                del data[place:]
            case 3:
                del data[place : place + dice.randrange(1, 9)]
            case 4:
                data[place:place] = dice.choice(TRICKS)
            case 5:
                data[place : place + dice.randrange(1, 9)] = dice.choice(TRICKS)
            case 6:
                data[place:place] = dice.randbytes(dice.randrange(1, 16))
            case 7:
                other = dice.choice(self.seeds)
                data[place:] = other[dice.randrange(len(other)) :]
            case _:
                data[place:place] = data[place : place + dice.randrange(1, 40)] * dice.randrange(1, 5)


def is_valid(data: bytes, decoder: msgspec.msgpack.Decoder[Any]) -> bool:
    """Whether the other side should take it."""
    try:
        packet.decode(decoder, data)
    except ProtocolError:
        return False
    return True
