"""Rules for keys about databases and other services: addresses, ratios, flags, words.

A message about an address never repeats it: it may hold a password.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, ClassVar, Final

from msgspec import Struct

from perdure.config.rules import Texts, did_you_mean, one_of, show, text_of

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_PORT: Final = re.compile(r"[0-9]{1,5}")
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_ESCAPES: Final = "in user and password, characters such as @ : / ? # are written %40 %3A %2F %3F %23"


class Ratio(Struct, frozen=True):
    """A share of a whole: above 0, up to 1. With 0, a breaker would open although nothing went wrong."""

    unit: ClassVar[str] = ""

    def read(self, value: object) -> float:
        """A number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"must be a number above 0 and up to 1, such as 0.5, not {show(value)}")
        return float(value)

    def read_text(self, text: str) -> float:
        """A number in digits."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        return self.read(number if math.isfinite(number) else text)

    def write(self, setting: object) -> object:
        """The number."""
        return setting


class Flag(Struct, frozen=True):
    """Yes or no."""

    unit: ClassVar[str] = ""

    def read(self, value: object) -> bool:
        """true or false."""
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, without quotes, not {show(value)}")
        return value

    def read_text(self, text: str) -> bool:
        """The words that people use for it."""
        word = text.strip().lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise ValueError(f'must be "true" or "false", not {show(text)}')

    def write(self, setting: object) -> object:
        """true or false."""
        return setting


class Text(Struct, frozen=True):
    """Any text that can be seen, up to 200 characters. `what` names it when it must not be empty."""

    what: str = ""
    unit: ClassVar[str] = ""

    def read(self, value: object) -> str:
        """The text as it is."""
        text = text_of(value)
        if self.what and not text:
            raise ValueError(f'must be {self.what}, not ""')
        if len(text) > 200:
            raise ValueError("is longer than 200 characters")
        return text

    def read_text(self, text: str) -> str:
        """The text as it is."""
        return self.read(text)

    def write(self, setting: object) -> object:
        """The text as it is."""
        return setting


class Words(Texts, frozen=True):
    """A list of some of a few words."""

    allowed: tuple[str, ...]

    def read_item(self, value: object) -> str:
        """One of them."""
        if not isinstance(value, str) or value not in self.allowed:
            raise ValueError(f"must be {one_of(self.allowed)}, not {show(value)}{did_you_mean(value, self.allowed)}")
        return value


class Dsn(Struct, frozen=True):
    """The address of a PostgreSQL database as libpq has it; "" for none. A password may be part of it."""

    unit: ClassVar[str] = ""

    def read(self, value: object) -> str:
        """A URL."""
        text = _address_text(value)
        if not text:
            return text
        url = _split(text, ("postgresql", "postgres"), "postgresql://user@host:5432/database")
        if "@" in url.netloc.partition("@")[2] + url.path + url.query or url.fragment:
            raise ValueError(f"cannot be taken apart: {_ESCAPES}")
        for host in url.netloc.rpartition("@")[2].split(","):
            _check_host(host)
        if "password" in url.query.lower():
            raise ValueError("has a password among its parameters; name a password_file instead")
        _check_sslmode(url.query)
        return text

    def read_text(self, text: str) -> str:
        """The same URL."""
        return self.read(text)

    def write(self, setting: object) -> object:
        """The URL; whoever shows it must blot out the password: perdure.redact.scrub."""
        return setting


class Url(Struct, frozen=True):
    """The address of a server, without user and password; "" for none. `example` is one as it should be."""

    schemes: tuple[str, ...]
    example: str
    unit: ClassVar[str] = ""

    def read(self, value: object) -> str:
        """A URL."""
        text = _address_text(value)
        if not text:
            return text
        url = _split(text, self.schemes, self.example)
        if "@" in text:
            raise ValueError("must not have a user or password in it; there are keys for these")
        if not url.hostname:
            raise ValueError(f'must name a host, such as "{self.example}"')
        _check_host(url.netloc)
        return text

    def read_text(self, text: str) -> str:
        """The same URL."""
        return self.read(text)

    def write(self, setting: object) -> object:
        """The URL."""
        return setting


def _address_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text in quotes, not {show(value)}")
    if not value.isprintable() or any(character.isspace() for character in value):
        raise ValueError("must not have spaces in it, nor characters that cannot be seen")
    if len(value) > 2_000:
        raise ValueError("is longer than 2000 characters")
    return value


def _split(text: str, schemes: tuple[str, ...], example: str) -> SplitResult:
    from urllib.parse import urlsplit  # only addresses need it

    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in schemes:
        known = one_of(tuple(f"{one}://" for one in schemes))
        raise ValueError(f'must begin with {known}, such as "{example}"')
    try:
        return urlsplit(text)
    except ValueError:  # its message may repeat the address
        raise ValueError(f'is no address such as "{example}"') from None


def _check_sslmode(query: str) -> None:
    """A driver that meets a mode which it does not know would say so only when a job calls."""
    from urllib.parse import parse_qsl

    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "sslmode" and value not in _SSL_MODES:
            raise ValueError(f"must have {one_of(_SSL_MODES)} as sslmode{did_you_mean(value, _SSL_MODES)}")


def _check_host(host: str) -> None:
    """The port of "host:5432" or "[::1]:5432", if there is one."""
    _, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65_536:
        raise ValueError(f"has a port that is no number from 1 to 65535; {_ESCAPES}")
