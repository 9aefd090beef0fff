"""In which line of a TOML text each key stands. tomllib reads the values and forgets the lines."""

from __future__ import annotations

import ast
from typing import Final

#: The way to a value: names of tables and keys; numbers count the elements of arrays.
KeyPath = tuple[str | int, ...]

_BLANK: Final = " \t"
_BARE_END: Final = ",]}\n#"


def find_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of every section, key and array element in a TOML text that tomllib accepts.

    A table that is opened more than once, as by dotted keys, has the line of the first time.
    Raises IndexError, or finds nonsense, when the text is not TOML.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


class _Scanner:
    """Walks once over the text. Checks nothing: tomllib has done that."""

    def __init__(self, text: str) -> None:
        self._text = text + "\n"
        self._at = 0
        self._line = 1
        self._lines: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        """Read all statements."""
        section: KeyPath = ()
        self._skip_space()
        while self._at < len(self._text):
            if self._peek() == "[":
                section = self._header()
            else:
                self._pair(section)
            self._skip_space()
        return self._lines

    def _header(self) -> KeyPath:
        """`[a.b]` or `[[a.b]]`; the tables of an array are counted."""
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._advance(brackets)
        path = self._key(())
        self._advance(brackets)
        if brackets == 2:
            index = sum(1 for known in self._lines if known[:-1] == path and isinstance(known[-1], int))
            path = (*path, index)
            self._note(path)
        return path

    def _pair(self, parent: KeyPath) -> None:
        """`a.b = value`."""
        path = self._key(parent)
        self._advance(1)  # the equals sign
        self._skip_blank()
        self._value(path)

    def _key(self, parent: KeyPath) -> KeyPath:
        """A dotted key up to what follows it; each of its tables is noted.

        Below an array of tables, a name means its last table.
        """
        path = parent
        while True:
            self._skip_blank()
            path = (*path, self._name())
            self._note(path)
            self._skip_blank()
            if self._peek() != ".":
                return path
            self._advance(1)
            path = self._last_table(path)

    def _last_table(self, path: KeyPath) -> KeyPath:
        """The path itself, or that of the newest element when it is an array of tables."""
        index = -1
        while (*path, index + 1) in self._lines:
            index += 1
        return (*path, index) if index >= 0 else path

    def _name(self) -> str:
        """One part of a key: bare, or in quotes."""
        start = self._at
        if self._peek() in "\"'":
            self._string()
            return _unquote(self._text[start : self._at])
        while self._peek() not in " \t.=]":
            self._advance(1)
        return self._text[start : self._at]

    def _value(self, path: KeyPath) -> None:
        """Any value; what is inside of arrays and inline tables is noted too."""
        character = self._peek()
        if character in "\"'":
            self._string()
        elif character == "[":
            self._array(path)
        elif character == "{":
            self._inline_table(path)
        else:
            while self._peek() not in _BARE_END:
                self._advance(1)

    def _array(self, path: KeyPath) -> None:
        """`[1, 2]`, over as many lines as it likes."""
        self._advance(1)
        index = 0
        self._skip_separators()
        while self._peek() != "]":
            self._note((*path, index))
            self._value((*path, index))
            index += 1
            self._skip_separators()
        self._advance(1)

    def _inline_table(self, path: KeyPath) -> None:
        """`{a = 1, b.c = 2}`."""
        self._advance(1)
        self._skip_separators()
        while self._peek() != "}":
            self._pair(path)
            self._skip_separators()
        self._advance(1)

    def _string(self) -> None:
        """Any of the four kinds of strings."""
        quote = self._peek()
        fence = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._advance(len(fence))
        while not self._text.startswith(fence, self._at):
            self._advance(2 if quote == '"' and self._peek() == "\\" else 1)
        self._advance(len(fence))
        if len(fence) == 3:  # up to two quotes may stand directly before the closing three
            while self._text.startswith(quote, self._at):
                self._advance(1)

    def _skip_separators(self) -> None:
        """Space and commas."""
        self._skip_space()
        while self._peek() == ",":
            self._advance(1)
            self._skip_space()

    def _skip_space(self) -> None:
        """Blanks, ends of lines and comments."""
        while self._at < len(self._text):
            if self._peek() == "#":
                self._advance(self._text.index("\n", self._at) - self._at)
            elif self._peek() in " \t\n":
                self._advance(1)
            else:
                return

    def _skip_blank(self) -> None:
        while self._peek() in _BLANK:
            self._advance(1)

    def _peek(self) -> str:
        return self._text[self._at]

    def _advance(self, count: int) -> None:
        """Step over `count` characters and count the lines among them."""
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _note(self, path: KeyPath) -> None:
        self._lines.setdefault(path, self._line)


def _unquote(quoted: str) -> str:
    """The text of a one-line TOML string. Its escapes are those of Python, which has some more."""
    if quoted.startswith("'"):
        return quoted[1:-1]
    text: str = ast.literal_eval(quoted)
    return text
