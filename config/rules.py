"""What values a key may have. A rule reads one value of the TOML file, or one text of the environment.

A refused value raises ValueError with a message that says what is allowed and what was found.
"""

from __future__ import annotations

import os
import re
from typing import ClassVar, Final, Protocol

from msgspec import Struct

from perdure.duration import MAX_DURATION_MS, format_duration, format_size, parse_duration_ms, parse_size_bytes

#: Names of queues and kinds.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Rule(Protocol):
    """What a key's value must be."""

    @property
    def unit(self) -> str:
        """The end of the attribute's name that the key does not have."""
        ...

    def read(self, value: object) -> object:
        """The setting that a TOML value means; raises ValueError."""
        ...

    def read_text(self, text: str) -> object:
        """The setting that the text of an environment variable means; raises ValueError."""
        ...

    def write(self, setting: object) -> object:
        """The TOML value that means this setting: the other way round from `read`."""
        ...


class Whole(Struct, frozen=True):
    """A whole number."""

    minimum: int
    maximum: int
    unit: ClassVar[str] = ""

    def read(self, value: object) -> int:
        """Any integer within the limits. A boolean is not a number."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.minimum <= value <= self.maximum:
            raise ValueError(f"must be a whole number from {self.minimum} to {self.maximum}, not {show(value)}")
        return value

    def read_text(self, text: str) -> int:
        """The digits of a number."""
        stripped = text.strip()
        digits = re.fullmatch(r"[+-]?[0-9]{1,20}", stripped)
        return self.read(int(stripped) if digits else text)

    def write(self, setting: object) -> object:
        """The number."""
        return setting


class Duration(Struct, frozen=True):
    """A length of time, kept in milliseconds. With `zero_is_none`, 0 means that there is no limit: None."""

    minimum_ms: int = 0
    maximum_ms: int = MAX_DURATION_MS
    zero_is_none: bool = False
    unit: ClassVar[str] = "_ms"

    def read(self, value: object) -> int | None:
        """Text such as "30s", or a number of seconds."""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f'must be a duration such as "30s", or a number of seconds, not {show(value)}')
        milliseconds = parse_duration_ms(value)
        if self.zero_is_none and milliseconds == 0:
            return None
        if not self.minimum_ms <= milliseconds <= self.maximum_ms:
            low, high = format_duration(self.minimum_ms), format_duration(self.maximum_ms)
            none = ', or "0" for no limit' if self.zero_is_none else ""
            raise ValueError(f"must be from {low} to {high}{none}, not {show(value)}")
        return milliseconds

    def read_text(self, text: str) -> int | None:
        """The same text; a number alone is seconds."""
        return self.read(text)

    def write(self, setting: object) -> object:
        """Text such as "30s"."""
        assert setting is None or isinstance(setting, int)
        return format_duration(setting) if setting is not None else "0"


class Size(Struct, frozen=True):
    """A number of bytes."""

    minimum: int
    maximum: int
    unit_in_key: bool = False

    @property
    def unit(self) -> str:
        """A key such as "job_bytes" keeps its unit."""
        return "" if self.unit_in_key else "_bytes"

    def read(self, value: object) -> int:
        """Text such as "1MiB", or a number of bytes."""
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError(f'must be a size such as "64KiB", or a number of bytes, not {show(value)}')
        size = parse_size_bytes(value)
        if not self.minimum <= size <= self.maximum:
            raise ValueError(
                f"must be from {format_size(self.minimum)} to {format_size(self.maximum)}, not {show(value)}"
            )
        return size

    def read_text(self, text: str) -> int:
        """The same text; a number alone is bytes."""
        return self.read(text)

    def write(self, setting: object) -> object:
        """Text such as "1MiB"."""
        assert isinstance(setting, int)
        return format_size(setting)


class _TextRule(Struct, frozen=True):
    """What all rules for texts share: the environment's text is the value."""

    unit: ClassVar[str] = ""

    def read(self, value: object) -> object:
        """Any text."""
        return text_of(value)

    def read_text(self, text: str) -> object:
        """The text as it is."""
        return self.read(text)

    def write(self, setting: object) -> object:
        """The text as it is."""
        return setting


class Choice(_TextRule, frozen=True):
    """One of a few words."""

    allowed: tuple[str, ...]

    def read(self, value: object) -> str:
        """The word itself."""
        if not isinstance(value, str) or value not in self.allowed:
            raise ValueError(f"must be {one_of(self.allowed)}, not {show(value)}{did_you_mean(value, self.allowed)}")
        return value


class Name(_TextRule, frozen=True):
    """A name of a queue."""

    def read(self, value: object) -> str:
        """Letters, digits and a few signs."""
        text = text_of(value)
        if not NAME.fullmatch(text):
            raise ValueError(
                "must be a name of 1 to 128 letters, digits, and . _ : - that begins with a letter or digit, "
                f"not {show(value)}"
            )
        return text


class Group(_TextRule, frozen=True):
    """A group of the system, or nothing."""

    def read(self, value: object) -> str:
        """The name or number of a group; that it exists is seen when the socket is made."""
        text = text_of(value)
        if text and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?", text):
            raise ValueError(f'must be the name of a group, or "" for none, not {show(value)}')
        return text


class PathText(_TextRule, frozen=True):
    """The path of a file or folder. With `may_be_empty`, "" stands for a default."""

    may_be_empty: bool = False

    def read(self, value: object) -> str:
        """A path as it is written; what it is relative to is known later."""
        return path_of(value, may_be_empty=self.may_be_empty)


class Mode(_TextRule, frozen=True):
    """Permissions, written in octal digits as text."""

    def read(self, value: object) -> int:
        """Such as "0660". A number is refused: 660 would not be what it looks like."""
        octal = value if isinstance(value, str) else ""
        mode = int(octal, 8) if re.fullmatch(r"0?[0-7]{3}", octal) else 0
        if mode & 0o600 != 0o600:
            raise ValueError(
                f'must be permissions in quotes such as "0660", with at least 0600 for the owner, not {show(value)}'
            )
        return mode

    def write(self, setting: object) -> object:
        """Four octal digits."""
        return f"{setting:04o}"


class Texts(Struct, frozen=True):
    """A list of texts, each of them checked by `read_item`; in the environment with commas between them."""

    unit: ClassVar[str] = ""

    def read_item(self, value: object) -> str:
        """One element."""
        return text_of(value)

    def read(self, value: object) -> tuple[str, ...]:
        """A list. The element that is wrong is named by its number."""
        if not isinstance(value, list):
            raise ValueError(f'must be a list such as ["a", "b"], not {show(value)}')
        items: list[str] = []
        for index, item in enumerate(value):
            try:
                items.append(self.read_item(item))
            except ValueError as error:
                raise BadItem(index, f"element {index + 1} {error}") from None
            if items[-1] in items[:-1]:
                raise BadItem(index, f"element {index + 1}, {show(item)}, stands there twice")
        return tuple(items)

    def read_text(self, text: str) -> tuple[str, ...]:
        """The parts between the commas; nothing at all is the empty list."""
        return self.read([part.strip() for part in text.split(",")] if text.strip() else [])

    def write(self, setting: object) -> object:
        """A list."""
        assert isinstance(setting, tuple)
        return list(setting)


class Modules(Texts, frozen=True):
    """Names of Python modules."""

    def read_item(self, value: object) -> str:
        """As in `import a.b`."""
        text = text_of(value)
        if not all(part.isidentifier() for part in text.split(".")) or text.endswith(".py"):
            name = text.removesuffix(".py").strip("./").replace("/", ".")
            hint = f': write "{name}"' if text.endswith(".py") and name else ""
            raise ValueError(f'must be the name of a module, such as "jobs" or "app.jobs", not {show(value)}{hint}')
        return text


class Folders(Texts, frozen=True):
    """Paths of folders."""

    def read_item(self, value: object) -> str:
        """A path as it is written."""
        return path_of(value)


class BadItem(ValueError):
    """An element of a list is wrong: a ValueError that knows where; `index` counts from 0."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def text_of(value: object) -> str:
    """`value`, if it is text that can be written to a file; raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"must be text in quotes, not {show(value)}")
    if "\0" in value or not value.isprintable():
        raise ValueError(f"has characters that cannot be seen: {show(value)}")
    return value


def path_of(value: object, *, may_be_empty: bool = False) -> str:
    """`value`, if it may be a path; raises ValueError."""
    text = text_of(value)
    if not text and not may_be_empty:
        raise ValueError('must be a path, not ""')
    if text.startswith("~"):
        raise ValueError(f"~ does not stand for the home folder here; write the whole path instead of {show(value)}")
    if text == ":memory:" or text.startswith("file:"):
        raise ValueError(f"must be the path of a file, not {show(value)}")
    if len(os.fsencode(text)) > 4095:
        raise ValueError("is longer than a path can be (4095 bytes)")
    return text


def show(value: object, limit: int = 60) -> str:
    """A value as it may stand in a message: in TOML's words, short, on one line, safe for any terminal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = value if value.isprintable() else value.encode("unicode_escape").decode("ascii")
        text = f'"{plain}"'
    elif isinstance(value, dict):
        return "a section"
    elif isinstance(value, (list, tuple)):
        return "a list" if value else "[]"
    elif isinstance(value, int) and value.bit_length() > 256:
        return "a number that is far too large"
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_of(words: tuple[str, ...]) -> str:
    """`"a", "b" or "c"`."""
    quoted = [f'"{word}"' for word in words]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else quoted[0]


def did_you_mean(value: object, known: tuple[str, ...]) -> str:
    """`, did you mean "x"?`, or nothing."""
    import difflib  # only mistakes need it

    if not isinstance(value, str) or len(value) > 128:
        return ""
    near = difflib.get_close_matches(value.lower(), [word.lower() for word in known], n=1, cutoff=0.6)
    matches = [word for word in known if near and word.lower() == near[0]]
    return f', did you mean "{matches[0]}"?' if matches else ""
