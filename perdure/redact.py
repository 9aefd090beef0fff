"""Keeping secrets out of logs, status and errors. Standard library only: everything may import it."""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import Final

#: What stands in place of a secret.
REDACTED: Final = "***"

#: Words that make a key's value a secret, wherever they stand in the key.
_SECRET_WORDS: Final = frozenset(
    {
        *("password", "passwords", "passwd", "pwd", "passphrase", "secret", "secrets", "token", "tokens"),
        *("apikey", "dsn", "credential", "credentials", "authorization", "cookie"),
    }
)
#: The same in two words.
_SECRET_PAIRS: Final = frozenset({("api", "key"), ("private", "key"), ("access", "key"), ("auth", "key")})
#: A token may be a word of a text or the mark of a lease: numbers under these keys are shown.
_COUNTABLE: Final = frozenset({"token", "tokens"})

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NAMES: Final = r"(?:password|passwd|pwd|secret|token|api_?key)"
_URL_PASSWORD = re.compile(r"(://[^\s/?#@:]*):[^\s/?#@]*(?=@)")
#: password=x, db_password = 'x y', ?token=x
_PAIR_PASSWORD = re.compile(rf"(?i)({_NAMES}\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s,;&)]+)")
#: 'password': 'x', as in the text of a dict
_ITEM_PASSWORD = re.compile(rf"(?i)({_NAMES}(['\"])\s*:\s*)('[^']*'|\"[^\"]*\")")

#: How deep nested values are searched; what lies deeper is shown as "...".
_MAX_DEPTH: Final = 6


@lru_cache(maxsize=1_024)
def secret_words(key: str) -> frozenset[str]:
    """The words in `key` that make its value a secret: {"password"} for "pg_password", none for "tokenizer"."""
    words = [word.lower() for word in _WORDS.findall(key)]
    found = _SECRET_WORDS.intersection(words)
    pairs = _SECRET_PAIRS.intersection(itertools.pairwise(words))
    return found | {"_".join(pair) for pair in pairs}


def looks_secret(key: str) -> bool:
    """Whether a key names a secret: password, db_password, apiKey, DSN, session-token, and so on."""
    return bool(secret_words(key))


def redact(key: str, value: object, _depth: int = 0) -> object:
    """`value` as it may be shown under `key`: "***" if the key names a secret; without passwords in its texts.

    What is not data, such as an exception or a path, comes back as text.
    """
    if isinstance(value, bool) or value is None:
        return value
    words = secret_words(key)
    if words and not (words <= _COUNTABLE and isinstance(value, (int, float))):
        return REDACTED
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        if _depth == _MAX_DEPTH:
            return "..."
        if isinstance(value, dict):
            return {name: redact(str(name), item, _depth + 1) for name, item in value.items()}
        return [redact("", item, _depth + 1) for item in value]
    return value if isinstance(value, (int, float)) else scrub(_as_text(value))


def scrub(text: str) -> str:
    """`text` without the passwords of URLs (`postgres://me:***@host`) and of pairs (`password=***`, `'token': ***`)."""
    if "://" in text and "@" in text:
        text = _URL_PASSWORD.sub(rf"\1:{REDACTED}", text)
    if "=" in text:
        text = _PAIR_PASSWORD.sub(rf"\1{REDACTED}", text)
    if ":" in text:
        text = _ITEM_PASSWORD.sub(rf"\1{REDACTED}", text)
    return text


def _as_text(value: object) -> str:
    """An object as text; its own method may fail."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"
