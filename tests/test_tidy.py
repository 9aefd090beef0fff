"""Style as a test, where that is cheap: what a reviewer would otherwise have to look for."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from perdure.cli.main import cli
from perdure.store.states import STATES, TRANSITIONS

ROOT = Path(__file__).resolve().parent.parent
CODE = ("perdure", "config", "daemon", "store", "adapters", "migrations")
LONGEST_FILE, LONGEST_FUNCTION = 450, 70

#: Files that may let time pass, and why. Functions with `@job` may too: their sleep is the work that is tested.
MAY_SLEEP = {
    "tests/support/wait.py": "the pause between two looks",
    "tests/worker/sample_handlers.py": "handlers that hang in every way there is",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> Iterator[Path]:
    """Every module of these top-level folders, links not followed."""
    for folder in folders:
        yield from sorted(path for path in (ROOT / folder).rglob("*.py") if path.is_file())


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """All that is in a module."""
    return list(ast.walk(ast.parse(path.read_text())))


def functions(path: Path) -> Iterator[Function]:
    """Every function of a module, nested ones too."""
    return (node for node in nodes(path) if isinstance(node, Function))


def where(path: Path, line: int = 0) -> str:
    """How a finding is shown."""
    return f"{path.relative_to(ROOT)}:{line}" if line else str(path.relative_to(ROOT))


def documents() -> list[Path]:
    """What people read."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


# --- size


def test_no_file_is_too_long() -> None:
    """A file with more than one subject grows until nobody knows it whole."""
    files = [*python_files(*CODE, "tests", "examples", "benchmarks"), *ROOT.glob("store/*.sql")]
    long = {where(path): count for path in files if (count := len(path.read_text().splitlines())) > LONGEST_FILE}
    assert long == {}


def test_no_function_is_too_long() -> None:
    """A function that does not fit on a screen hides its bugs."""
    long = {}
    for path in python_files(*CODE, "examples", "benchmarks"):
        for function in functions(path):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > LONGEST_FUNCTION:
                long[f"{where(path, function.lineno)} {function.name}"] = length
    assert long == {}


# --- SQL


def statement_names() -> list[str]:
    """The names of all statements, in the order of their files."""
    pattern = re.compile(r"^-- name: *(\S+)", re.MULTILINE)
    return [name for path in sorted(ROOT.glob("store/*.sql")) for name in pattern.findall(path.read_text())]


def test_each_statement_is_used_and_each_use_exists() -> None:
    """SQL that nothing runs rots; a misspelt name fails only when its moment comes."""
    names, strings, looked_up = statement_names(), set(), set()
    for path in python_files("store"):
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "SQL":
                looked_up |= {str(one.value) for one in ast.walk(node.slice) if isinstance(one, ast.Constant)}
    assert len(names) == len(set(names)), "a name is given twice"
    assert sorted(set(names) - strings) == [], "unused"
    assert sorted(looked_up - set(names)) == [], "unknown"


# --- tests


def calls_that_sleep(path: Path) -> Iterator[int]:
    """Lines with time.sleep or asyncio.sleep outside of handlers; asyncio.sleep(0) only gives way."""
    if "sleep" not in path.read_text():
        return
    in_handlers = {
        id(inner)
        for node in functions(path)
        if any(_is_job(decorator) for decorator in node.decorator_list)
        for inner in ast.walk(node)
    }
    bare = {
        alias.asname or alias.name
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}
        for alias in node.names
        if alias.name == "sleep"
    }
    for node in nodes(path):
        if not isinstance(node, ast.Call) or id(node) in in_handlers:
            continue
        name = ast.unparse(node.func)
        gives_way = name == "asyncio.sleep" and node.args and ast.unparse(node.args[0]) == "0"
        if (name in {"time.sleep", "asyncio.sleep"} or name in bare) and not gives_way:
            yield node.lineno


def _is_job(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called).rpartition(".")[2] == "job"


def test_tests_wait_for_events() -> None:
    """A sleep makes a test slow on a fast machine and flaky on a slow one."""
    found = [
        where(path, line)
        for path in python_files("tests")
        if where(path) not in MAY_SLEEP
        for line in calls_that_sleep(path)
    ]
    assert found == []


def test_each_test_says_what_would_be_broken() -> None:
    """A failing test without a word about its purpose is repaired in the wrong place."""
    silent = [
        f"{where(path, function.lineno)} {function.name}"
        for path in python_files("tests")
        if path.name.startswith("test_")
        for function in functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert silent == []


# --- documents


def test_each_setting_is_explained() -> None:
    """A key of default.toml without a comment has no unit and no meaning."""
    text = (ROOT / "config" / "default.toml").read_text()
    lines = text.splitlines()
    bare = [
        f"line {number + 1}: {line}"
        for number, line in enumerate(lines)
        if re.match(r"[a-z_]+ *=", line) and " #" not in line and not lines[number - 1].startswith("#")
    ]
    assert bare == []
    assert tomllib.loads(text), "no settings at all"


def commands(command: click.Command, words: tuple[str, ...] = ("perdure",)) -> Iterator[str]:
    """Every command as it is typed, groups replaced by what is in them."""
    if not isinstance(command, click.Group):
        yield " ".join(words)
        return
    ctx = click.Context(command, info_name=words[-1])
    for name in command.list_commands(ctx):
        found = command.get_command(ctx, name)
        assert found is not None, name
        yield from commands(found, (*words, name))


def test_each_command_is_documented() -> None:
    """A command that only its author knows."""
    text = "\n".join(path.read_text() for path in documents())
    assert [name for name in commands(cli) if name not in text] == []


def test_states_document_shows_each_transition() -> None:
    """docs/states.md and store/states.py would tell two stories."""
    text = (ROOT / "docs" / "states.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| (\w+) \|", text, re.MULTILINE)
    drawn = {verb: (frozenset(before.split(", ")), after) for verb, before, after in rows}
    assert drawn == TRANSITIONS
    assert [state for state in STATES if f"| `{state}` |" not in text] == []


def test_links_lead_somewhere() -> None:
    """A reader who follows a link of the documents finds nothing."""
    broken = [
        f"{where(path)}: {target}"
        for path in documents()
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []


def project_files() -> list[Path]:
    """Every file that is in the repository or would be added to it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the list of files is not known")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_path_of_one_machine() -> None:
    """Something that works on its author's machine only."""
    pattern = re.compile(r"/(?:work/(?:main|shared|notes)\b|root/\.)")
    found = []
    for path in project_files():
        if path == Path(__file__):
            continue
        lines = path.read_bytes().decode(errors="replace").splitlines()
        found += [where(path, number) for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


def test_no_module_is_dead() -> None:
    """Code that nothing imports is code that nobody keeps."""
    files = [*python_files(*CODE, "tests", "examples", "benchmarks"), ROOT / "pyproject.toml"]
    words = {path: set(re.findall(r"\w+", path.read_text())) for path in files}
    files_with = Counter(word for some in words.values() for word in some)
    dead = [
        where(path)
        for path in python_files(*CODE)
        if not path.stem.startswith("__")
        and "templates" not in path.parts
        and files_with[path.stem] == (path.stem in words[path])
    ]
    assert dead == []
