"""Failures that are the same failure: a short digest over what does not change from job to job."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from perdure.wire.data import ErrorData

#: How many of the innermost frames count. More would split one failure by who called.
TOP_FRAMES: Final = 3
#: Longer messages are cut before they are normalised: the head tells failures apart, and time stays bounded.
MAX_MESSAGE_CHARS: Final = 2_000

_FRAME = re.compile(r'^\s*File "([^"\n]+)", line \d+, in (\S+)', re.MULTILINE)

#: In this order: quoted text first, since it may hold all of the others.
_PLACEHOLDERS: Final = (
    (re.compile(r'"[^"\n]*"|(?<!\w)\'[^\'\n]*\'|`[^`\n]*`'), "<text>"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "<uuid>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s,;)]+"), "<url>"),
    (re.compile(r"(?<![\w/])(?:~|\.{1,2})?/[^\s:,;)]+"), "<path>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b|\b(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}\b"), "<hex>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)


def fingerprint(error: ErrorData) -> str:
    """16 hex digits over the error's type, its normalised message, and file:function of the innermost frames.

    The name of the folder does not count, so a deploy to another place keeps the groups; line numbers neither.
    """
    parts = (error.type, normalise(error.message), *_top_frames(error.traceback or ""))
    return hashlib.blake2b("\0".join(parts).encode(errors="replace"), digest_size=8).hexdigest()


def normalise(message: str) -> str:
    """The message with what varies (numbers, hex, uuids, quoted text, paths, addresses) replaced by placeholders."""
    text = message[:MAX_MESSAGE_CHARS]
    for pattern, placeholder in _PLACEHOLDERS:
        text = pattern.sub(placeholder, text)
    return text.strip()


def _top_frames(traceback: str) -> list[str]:
    """The innermost frames as "file:function". The last traceback of a chain is the one that was raised."""
    frames = _FRAME.findall(traceback)
    return [f"{path.rsplit('/', 1)[-1]}:{function}" for path, function in frames[-TOP_FRAMES:]]
