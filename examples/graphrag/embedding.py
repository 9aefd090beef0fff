"""From a text to a vector of 256 numbers, on this machine, without a network.

With the package wordllama (MIT, 19 MB, its weights in the wheel): static embeddings distilled from a language model,
about half a millisecond a passage. Without it: feature hashing, good enough to find passages that share words.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 256
#: What is read of a passage: its first lines say what it is about, and the cost grows with the length.
READ_CHARACTERS = 1_000

Vectors = NDArray[np.float32]
WORD = re.compile(r"[a-z]+|[0-9]+")


def embed(texts: Sequence[str]) -> list[list[float]]:
    """A vector of length 1 for each text; texts that mean something alike have vectors that point alike."""
    if not texts:
        return []
    rows = _model()([text[:READ_CHARACTERS] for text in texts])
    # Five digits are what the vectors are good for, and a third of the JSON.
    rounded: list[list[float]] = rows.astype(np.float64).round(5).tolist()
    return rounded


def name() -> str:
    """Which embedding this is, for people."""
    return "wordllama l2_supercat 256" if _has_model() else f"feature hashing of word pairs, {SIZE} buckets"


def _has_model() -> bool:
    return importlib.util.find_spec("wordllama") is not None


@functools.cache
def _model() -> Callable[[Sequence[str]], Vectors]:
    """Loaded once for each worker process, at the first text (half a second, about 100 MB)."""
    return _wordllama() if _has_model() else hashed


def _wordllama() -> Callable[[Sequence[str]], Vectors]:
    wordllama: Any = importlib.import_module("wordllama")
    # Its weights and its tokenizer lie inside the package, laid out as a cache; so nothing is ever fetched.
    inside = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(dim=SIZE, cache_dir=inside, disable_download=True)

    def encode(texts: Sequence[str]) -> Vectors:
        return np.asarray(model.embed(list(texts), norm=True), dtype=np.float32)

    return encode


def hashed(texts: Sequence[str]) -> Vectors:
    """Feature hashing: each word and each pair of neighbours adds or takes 1 in a bucket that its checksum picks.

    Identifiers fall into their parts (`parse_args` is parse, args). The sum is brought to length 1, so that the dot
    product of two texts is their cosine. A checksum, since Python's hash() differs from process to process.
    """
    rows = np.zeros((len(texts), SIZE), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        words = WORD.findall(text.lower())
        for feature in itertools.chain(words, (f"{a} {b}" for a, b in itertools.pairwise(words))):
            checksum = zlib.crc32(feature.encode())
            row[checksum % SIZE] += 1.0 if checksum & 0x8000_0000 else -1.0
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-9), dtype=np.float32)
