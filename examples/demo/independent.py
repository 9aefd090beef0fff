"""What must come out, counted from the files alone, and in another way than the handlers count.

The handlers cut a text with one regular expression, and find imports in Python's syntax tree. Here passages are counted
line by line, and imports are read out of the text, after its strings and comments have been taken away.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from examples.demo.corpus import Corpus

STRING_OR_COMMENT = re.compile(
    r"""\#[^\n]* | [rbuf]{0,2} (?: \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3}
        | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
STATEMENT = re.compile(
    r"""(?:^|[;:]) [^\S\n]*
        (?: import [^\S\n]+ (?P<plain>[^\n;]+)
          | from [^\S\n]* (?P<base>[.\w]+(?:[^\S\n]*[.\w]+)*?) [^\S\n]+ import \b [^\S\n]*
            (?: \((?P<many>[^)]*)\) | (?P<few>[^\n;]+) ) )""",
    re.MULTILINE | re.VERBOSE,
)


@dataclass
class Expected:
    """The figures that each store must show. `not_text`, `not_python`: paths whose jobs must die."""

    documents: int = 0
    passages: int = 0
    modules: int = 0
    edges: int = 0
    not_text: set[str] = field(default_factory=set)
    not_python: set[str] = field(default_factory=set)
    with_passages: set[str] = field(default_factory=set)


def count(corpus: Corpus) -> Expected:
    """Read all files once more."""
    known = {dotted(path) for path, _ in corpus.files()}
    expected = Expected(modules=len(corpus.paths) + 1)
    for path, file in corpus.files():
        text = _text(file)
        if text is None:
            expected.not_text.add(path)
            continue
        passages = count_passages(text)
        expected.documents += 1
        expected.passages += passages
        if passages:
            expected.with_passages.add(path)
        if is_python(text):
            expected.edges += count_edges(text, path, known)
        else:
            expected.not_python.add(path)
    return expected


def _text(file: Path) -> str | None:
    raw = file.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding)
    except (SyntaxError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text.replace("\r\n", "\n").replace("\r", "\n")


def count_passages(text: str) -> int:
    """How often a line that is not empty comes first, or after two empty ones or more."""
    passages, empty = 0, 2
    for line in text.split("\n"):
        if line.strip():
            passages += empty >= 2
            empty = 0
        else:
            empty += 1
    return passages


def is_python(text: str) -> bool:
    """Whether Python can parse it; nobody but Python can tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "<document>", "exec", flags=ast.PyCF_ONLY_AST)
        except SyntaxError:
            return False
    return True


def count_edges(text: str, path: str, known: set[str]) -> int:
    """How many other known modules a module imports."""
    module = dotted(path)
    code = STRING_OR_COMMENT.sub("''", text.replace("\\\n", " "))
    return len(set(_targets(code, module, path.endswith("__init__.py"), known)) - {module, ""})


def _targets(code: str, module: str, is_package: bool, known: set[str]) -> Iterator[str]:
    for found in STATEMENT.finditer(code):
        if found["plain"] is not None:
            yield from (_nearest(name, known) for name in _names(found["plain"]))
            continue
        base = re.sub(r"\s", "", found["base"])
        dots = len(base) - len(base.lstrip("."))
        if dots:
            above = module.split(".") if is_package else module.split(".")[:-1]
            base = ".".join([*above[: len(above) - dots + 1], *filter(None, [base.lstrip(".")])])
        yield from (_nearest(f"{base}.{name}".lstrip("."), known) for name in _names(found["many"] or found["few"]))


def _names(listed: str) -> Iterable[str]:
    """The names of "a, b as c"."""
    return [words[0] for words in (part.split() for part in listed.split(",")) if words]


def _nearest(name: str, known: set[str]) -> str:
    """The module itself, else the one that it lies in, else ""."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def dotted(path: str) -> str:
    """a/b.py: a.b."""
    name = path.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")
