"""[shell]: what may be run, and mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.config.settings import BadConfig, load_settings
from perdure.daemon.worker.commands import is_allowed


def load(path: Path, text: str) -> tuple[str, ...]:
    """shell.allow of a file of this text."""
    file = path / "perdure.toml"
    file.write_text(text)
    return load_settings(file, {}, cwd=path).shell.allow


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[daemon]\nbuiltin_kinds = ["shell"]', "shell may run nothing; say what"),
        (
            '[shell]\nallow = ["rsync"]',
            'must be the absolute path of a program, such as "/usr/local/bin/*", not "rsync"',
        ),
        ('[shell]\nallow = ["/srv/../bin/*"]', 'must be a path as it is compared, "/bin/*", not "/srv/../bin/*"'),
        ('[shell]\nallow = ["/srv/"]', 'must be a path as it is compared, "/srv", not "/srv/"'),
        ('[shell]\nallow = "/bin/*"', "must be a list"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, said: str) -> None:
    """A list that allows nothing, or something else than it seems to, would be found out by its first job."""
    with pytest.raises(BadConfig) as caught:
        load(tmp_path, text)
    assert said in str(caught.value.mistakes[0])


def test_nothing_is_allowed_unless_it_is_named(tmp_path: Path) -> None:
    """A default that opens the machine."""
    assert load(tmp_path, "") == ()
    on = '[daemon]\nbuiltin_kinds = ["shell"]\n[shell]\nallow = ["/usr/bin/*", "/srv/**"]'
    assert load(tmp_path, on) == ("/usr/bin/*", "/srv/**")


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/usr/bin/rsync", "/usr/bin/rsync", True),
        ("/usr/bin/rsync", "/usr/bin/rsync2", False),
        ("/usr/bin/*", "/usr/bin/rsync", True),
        ("/usr/bin/*", "/usr/bin/deep/rsync", False),
        ("/srv/**", "/srv/deep/er/x.sh", True),
        ("/srv/**/x.sh", "/srv/deep/er/x.sh", True),
        ("/srv/**", "/srv2/x.sh", False),
        ("/a.b/c+", "/aXb/c+", False),
        ("/a.b/c+", "/a.b/c+", True),
        ("/x?", "/xy", True),
        ("/x?", "/x/", False),
        ("/x*", "/x\n/bin/sh", False),
        ("/[a-z]", "/b", False),
    ],
)
def test_patterns(pattern: str, path: str, fits: bool) -> None:
    """A pattern would allow more than it says."""
    assert is_allowed(path, [pattern]) == fits
    assert not is_allowed(path, [])
