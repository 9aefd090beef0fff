"""The package as users get it: what an import costs, what the names mean, what a wheel holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import perdure

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("store", "daemon", "adapters", "migrations", "config")


def python(code: str, cwd: Path = ROOT) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light() -> None:
    """`import perdure` in a shell loop would load a database driver or an event loop."""
    heavy = "{'msgspec', 'click', 'uvloop', 'asyncio', 'sqlite3', 'structlog', 'rich', 'psutil', 'tenacity'}"
    assert python(f"import sys, perdure; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("first", ["perdure", "perdure.job", "perdure.client", "perdure.context"])
def test_job_is_the_decorator_whatever_was_imported_before(first: str) -> None:
    """`from perdure import job` would give the module of that name, and every handler would fail to load."""
    assert python(f"import {first}\nfrom perdure import job\nprint(type(job).__name__)") == "function"


@pytest.mark.parametrize("name", sorted(perdure.__all__))
def test_public_name_exists(name: str) -> None:
    """A documented name could not be imported."""
    assert getattr(perdure, name) is not None
    assert name in dir(perdure)


def test_unknown_name_is_an_attribute_error() -> None:
    """hasattr() and `from perdure import typo` would fail in a strange way."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = perdure.nonsense


@pytest.mark.parametrize("folder", LINKED)
def test_folder_is_linked(folder: str) -> None:
    """A checkout without the links has no engine (a copy made without symlinks, say)."""
    link = ROOT / "perdure" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
    assert (link / "__init__.py").is_file()


def test_wheel_holds_the_linked_folders_and_their_data(tmp_path: Path) -> None:
    """An installed perdure would lack its engine, its migrations or its default configuration."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("perdure", *LINKED, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    python(f"from setuptools import build_meta\nbuild_meta.build_wheel({str(tmp_path)!r})", cwd=source)
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"perdure/py.typed"}
    for folder in (*LINKED, "perdure"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".sql", ".toml", ".service", ".conf"}:
                wanted.add(f"perdure/{path.relative_to(ROOT)}".replace("perdure/perdure/", "perdure/"))
    assert sorted(wanted - held) == []
    assert not [name for name in held if not name.startswith("perdure")]
