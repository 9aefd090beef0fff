"""What may be said about a job: names, ranges, lengths. One set of rules for declarations, producers and the daemon.

Each check returns nothing and raises InvalidOption that says what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from perdure.duration import MAX_DURATION_MS
from perdure.errors import InvalidOption

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

#: Like nice: lower runs first.
PRIORITY_MIN: Final = -20
PRIORITY_MAX: Final = 19
MOST_ATTEMPTS: Final = 10_000
MOST_INTERRUPTIONS: Final = 1_000
MOST_TAGS: Final = 20
TAG_CHARS: Final = 64
UNIQUE_CHARS: Final = 256
#: Year 9999: the last moment that a datetime can show.
LAST_MS: Final = 253_402_300_799_000


def check_name(what: str, name: str) -> None:
    """A queue's or a kind's name."""
    if not NAME.fullmatch(name):
        raise InvalidOption(
            f"{what} {clip(name)}: a name has 1 to 128 letters, digits, and . _ : - and begins with a letter or digit"
        )


def check_priority(priority: int) -> None:
    """-20 to 19."""
    check_range("priority", priority, PRIORITY_MIN, PRIORITY_MAX, " (lower runs first)")


def check_max_attempts(count: int) -> None:
    """At least one attempt, and an end to them."""
    check_range("max_attempts", count, 1, MOST_ATTEMPTS)


def check_max_interruptions(count: int) -> None:
    """At least one, and an end to them."""
    check_range("max_interruptions", count, 1, MOST_INTERRUPTIONS)


def check_timeout(timeout_ms: int) -> None:
    """Milliseconds; 0 means: no limit."""
    if timeout_ms < 0:
        raise InvalidOption(f"timeout: {timeout_ms} ms is negative; give a duration such as 30s, or 0 for no limit")
    check_range("timeout", timeout_ms, 0, MAX_DURATION_MS, " ms")


def check_unique(key: str) -> None:
    """A unique key: text that can be shown."""
    if not 1 <= len(key) <= UNIQUE_CHARS or not key.isprintable():
        raise InvalidOption(
            f"unique {clip(key)}: a key has 1 to {UNIQUE_CHARS} printable characters; hash a longer one"
        )


def check_tags(tags: Sequence[str]) -> None:
    """A few short labels."""
    if len(tags) > MOST_TAGS:
        raise InvalidOption(f"tags: {len(tags)} given, at most {MOST_TAGS} are allowed")
    for tag in tags:
        if not 1 <= len(tag) <= TAG_CHARS or not tag.isprintable():
            raise InvalidOption(f"tag {clip(tag)}: a tag has 1 to {TAG_CHARS} printable characters")


def check_range(what: str, value: int, lowest: int, highest: int, unit: str = "") -> None:
    """A whole number between two others, both included."""
    if not lowest <= value <= highest:
        raise InvalidOption(f"{what}: {value} is not allowed, it must be between {lowest} and {highest}{unit}")


def clip(text: str) -> str:
    """Text as it may stand in a message: quoted, printable, short."""
    shown = ascii(text) if not text.isprintable() else f'"{text}"'
    return shown if len(shown) <= 70 else f"{shown[:50]}… ({len(text):,} characters)"
