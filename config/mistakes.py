"""What is wrong with a configuration, said all at once."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.errors import ConfigError


class Mistake(Struct, frozen=True):
    """One mistake.

    `line` counts from 1 and is None where there is none, as in the environment. `key` is "section.key"; it is empty
    when the file as a whole is meant. `value` is what was found there (secrets blotted out), None if it does not
    matter. `source` is the file, or the variable or option that set the value.
    """

    line: int | None
    key: str
    value: object
    message: str
    source: str = ""

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line is not None else self.source
        return ": ".join(part for part in (where, self.key, self.message) if part)


class BadConfig(ConfigError):
    """The configuration has mistakes; `mistakes` has them all, and the message is one line for each."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = list(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))
