"""[queues] and [queues.NAME]: what holds for which queue, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.config.queues import QueueSettings
from perdure.config.settings import BadConfig, Settings, load_settings


def load(path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    """The settings of a file of this text."""
    file = path / "perdure.toml"
    file.write_text(text)
    return load_settings(file, environ or {}, cwd=path)


def mistakes(path: Path, text: str) -> list[str]:
    """What is said about a file of this text."""
    with pytest.raises(BadConfig) as caught:
        load(path, text)
    return [str(one).removeprefix("perdure.toml:") for one in caught.value.mistakes]


def test_without_limits_there_are_none(tmp_path: Path) -> None:
    """The hot path of every daemon would pay for limits that nobody has set."""
    limits = load(tmp_path, '[queues]\nwhen_full = "block"\n').queue_limits()
    assert not limits.any
    assert limits.of("default") is None
    assert limits.longest_patience_ms == 0


def test_a_queue_takes_from_the_general_section_what_it_does_not_say(tmp_path: Path) -> None:
    """A queue would lose the limit that holds for all when it gets a section of its own, or keep one that it lifts."""
    text = (
        '[queues]\nmax_depth = 10\n[queues.mail]\nwhen_full = "block"\nmax_age = "5m"\n[queues."a.b"]\nmax_depth = 0\n'
    )
    limits = load(tmp_path, text).queue_limits()
    assert limits.any
    assert limits.of("other") == QueueSettings(max_depth=10)
    assert limits.of("mail") == QueueSettings(max_depth=10, max_age_ms=300_000, when_full="block")
    assert limits.of("a.b") is None
    assert list(limits.named()) == ["mail"]
    assert limits.longest_patience_ms == 10_000


def test_the_environment_sets_the_general_section(tmp_path: Path) -> None:
    """A container without a file could have no limits."""
    limits = load(tmp_path, "", {"PERDURE_QUEUES_MAX_DEPTH": "7", "PERDURE_QUEUES_WHEN_FULL": "shed"}).queue_limits()
    assert limits.of("default") == QueueSettings(max_depth=7, when_full="shed")


def test_tables_say_what_was_set(tmp_path: Path) -> None:
    """`perdure config check --show` would not show the limits of a queue."""
    tables = load(tmp_path, '[queues.mail]\nmax_depth = 5\nmax_age = "90s"\n').as_tables()
    assert tables["queues.mail"] == {"max_depth": 5, "max_age": "1m30s"}
    assert tables["queues"] == {"max_depth": 0, "max_age": "0s", "when_full": "reject", "patience": "10s"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[queues]\nwhen_full = "drop"\n', '2: queues.when_full: must be "reject", "block" or "shed", not "drop"'),
        ("[queues]\nmax_dept = 1\n", '2: queues.max_dept: unknown key, did you mean "max_depth"?'),
        (
            "[queues.mail]\nmax_depth = -1\n",
            "2: queues.mail.max_depth: must be a whole number from 0 to 100000000, not -1",
        ),
        ('[queues."no/good"]\nmax_depth = 1\n', '1: queues."no/good": must be a name of 1 to 128 letters, digits'),
        (
            '[queues.mail]\nwhen_full = "shed"\n',
            "1: queues.mail: does nothing without a limit: set max_depth or max_age in it",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    """A limit that is misspelt would be no limit, and nobody would know before the disk is full."""
    (found,) = mistakes(tmp_path, text)
    assert found.startswith(said)
