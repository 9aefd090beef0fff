"""A bad configuration: every mistake, in its place, with what is allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from perdure.config.paths import SYSTEM_CONFIG, find_config
from perdure.config.settings import BadConfig, Mistake, all_keys, load_settings
from perdure.errors import ConfigError


def mistakes_of(path: Path, text: str | bytes, environ: dict[str, str] | None = None) -> list[Mistake]:
    """What is wrong with a file of this text."""
    file = path / "perdure.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadConfig) as caught:
        load_settings(file, environ or {}, cwd=path)
    assert isinstance(caught.value, ConfigError)
    assert str(caught.value).splitlines() == [str(mistake) for mistake in caught.value.mistakes]
    return caught.value.mistakes


ALL_MISTAKES = """\
perdure.toml:1: retention: unknown key outside of any section
perdure.toml:4: daemon.handlers: element 2 must be the name of a module, such as "jobs" or "app.jobs", \
not "more.py": write "more"
perdure.toml:6: daemon.drain_limit: "-5m" is negative: a duration is not
perdure.toml:7: daemon.socket_mode: must be permissions in quotes such as "0660", \
with at least 0600 for the owner, not 660
perdure.toml:9: workers.cuont: unknown key, did you mean "count"?
perdure.toml:10: workers.count: must be a whole number from 0 to 1024, not true
perdure.toml:11: workers.retention_age: unknown key, did you mean "store.retention_age"?
perdure.toml:12: workers.prefetch: must be a duration such as "30s", or a number of seconds, not a section
perdure.toml:13: stor: unknown section, did you mean "store"?
perdure.toml:17: jobs.queue: must be a name of 1 to 128 letters, digits, and . _ : - \
that begins with a letter or digit, not ""
perdure.toml:18: jobs.password: unknown key; there are max_attempts, max_interruptions, timeout, \
backoff_base, backoff_cap, queue
PERDURE_JOBS_TIMOUT: unknown variable, did you mean "PERDURE_JOBS_TIMEOUT"?
PERDURE_LIMITS_LIST: limits.list: must be a whole number from 1 to 100000, not ""
PERDURE_LOGS_LEVEL: logs.level: must be "debug", "info", "warning", "error" or "critical", not "loud"
perdure.toml:16: jobs.backoff_cap: jobs.backoff_base must not be above jobs.backoff_cap: here "1s" and "10ms"\
"""


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """One would mend a file mistake by mistake, with a start of the daemon for each."""
    text = """\
retention = 3
[daemon]
handlers = ["jobs",
    "more.py",
]
drain_limit = "-5m"
socket_mode = 660
[workers]
cuont = 3
count = true
retention_age = "3d"
prefetch.ms = 20
[stor]
path = ""
[jobs]
backoff_cap = "10ms"
queue = ""
password = "hunter2"
"""
    environ = {"PERDURE_JOBS_TIMOUT": "4", "PERDURE_LOGS_LEVEL": "loud", "PERDURE_LIMITS_LIST": ""}
    assert "\n".join(map(str, mistakes_of(tmp_path, text, environ))) == ALL_MISTAKES


def test_a_mistake_has_its_parts(tmp_path: Path) -> None:
    """`perdure config check --json` would have only prose to show."""
    (one,) = mistakes_of(tmp_path, "[limits]\nbatch = 0\n")
    assert one == Mistake(
        2, "limits.batch", 0, "must be a whole number from 1 to 1000000, not 0", source="perdure.toml"
    )
    for secret in ('[store]\ndb_password = "hunter2"', '[store.path]\ntoken = "hunter2"', 'api_key = "hunter2"'):
        assert "hunter2" not in repr(mistakes_of(tmp_path, secret))
    assert "hunter2" not in repr(mistakes_of(tmp_path, "", {"PERDURE_STORE_PASSWORD": "hunter2"}))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("workers.count", '"4"', 'must be a whole number from 0 to 1024, not "4"'),
        ("workers.count", "1.0", "not 1.0"),
        ("workers.count", "-1", "not -1"),
        ("workers.count", "1025", "not 1025"),
        ("workers.prefetch", "false", 'must be a duration such as "30s", or a number of seconds, not false'),
        ("workers.prefetch", '"11s"', 'must be from 0s to 10s, not "11s"'),
        ("workers.prefetch", "nan", "is not a duration"),
        ("workers.prefetch", '"20 minutes"', 'unknown unit "minutes"'),
        ("store.checkpoint_interval", "0", "must be from 1s to 1h, not 0"),
        ("store.wal_limit", '"1KiB"', 'must be from 1MiB to 64GiB, not "1KiB"'),
        ("store.wal_limit", "1.5", "must be a size such as"),
        ("store.wal_limit", "true", "must be a size such as"),
        ("store.durability", '"Full"', 'must be "full" or "normal", not "Full", did you mean "full"?'),
        ("store.durability", "1", 'must be "full" or "normal", not 1'),
        ("store.path", '""', 'must be a path, not ""'),
        ("store.path", '":memory:"', "must be the path of a file"),
        ("store.path", '"~/q.db"', "~ does not stand for the home folder"),
        ("store.path", '"a\\u0000b"', 'has characters that cannot be seen: "a\\x00b"'),
        ("store.path", "1979-05-27", "must be text in quotes, not 1979-05-27"),
        ("daemon.handlers", '"jobs"', 'must be a list such as ["a", "b"], not "jobs"'),
        ("daemon.handlers", '["a", "a"]', 'element 2, "a", stands there twice'),
        ("daemon.handlers", '[""]', "element 1 must be the name of a module"),
        ("daemon.handlers", "[1]", "element 1 must be text in quotes, not 1"),
        ("daemon.path", '[""]', "element 1 must be a path"),
        ("daemon.socket_mode", '"0066"', "must be permissions"),
        ("daemon.socket_mode", '"rw-"', "must be permissions"),
        ("daemon.socket_group", '"a b"', "must be the name of a group"),
        ("jobs.queue", '"a/b"', "must be a name of 1 to 128 letters"),
        ("jobs.queue", '"' + "q" * 10_000 + '"', "must be a name of 1 to 128 letters"),
        ("jobs.max_attempts", "{}", "not a section"),
        ("jobs.max_attempts", "9" * 200, "not a number that is far too large"),
    ],
)
def test_wrong_values(tmp_path: Path, key: str, value: str, said: str) -> None:
    """A wrong value would be taken for something else, or refused without saying what is allowed."""
    section, name = key.split(".")
    (mistake,) = mistakes_of(tmp_path, f"\n[{section}]\n{name} = {value}\n")
    assert (mistake.line, mistake.key) == (3, key)
    assert said in mistake.message
    assert len(str(mistake)) < 300


def test_sections_in_other_spellings(tmp_path: Path) -> None:
    """Inline tables and dotted keys would have no line, or crash the check."""
    mistakes = mistakes_of(
        tmp_path, 'workers = {async_slots = 2,\tcount = "x"}\n"jobs".queue = ""\nlogs = 3\n[[store]]\n'
    )
    assert [(one.line, one.key) for one in mistakes] == [
        (1, "workers.count"),
        (2, "jobs.queue"),
        (3, "logs"),
        (4, "store"),
    ]
    (odd,) = mistakes_of(tmp_path, '[workers]\n"a\\nb\\u001b[31m" = 1\n')
    assert str(odd).isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[workers]\ncount 3\n", "perdure.toml:2: is not valid TOML, column 7: expected '='"),
        ("[jobs]\ntimeout = 30s\n", 'durations and sizes stand in quotes, like "30s"'),
        (
            "[jobs]\n\nqueue = high\n",
            "perdure.toml:3: is not valid TOML, column 9: invalid value; texts stand in quotes",
        ),
        ("[jobs]\nqueue = 'x'\nqueue = 'y'\n", "perdure.toml:3: is not valid TOML"),
        ("[jobs", "perdure.toml:1: is not valid TOML, end of the file"),
        ("a = " + "[" * 5_000, "nested too deeply"),
        ("a = " + "9" * 5_000, "impossible"),
        (b"[jobs]\nqueue = 'gr\xfc\xdfe'\n", "perdure.toml:2: byte 0xfc is not UTF-8; save the file as UTF-8"),
        (b"x" * ((1 << 20) + 1), "perdure.toml: is larger than 1MiB"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_toml(tmp_path: Path, text: str | bytes, said: str) -> None:
    """A slip of the pen would end in a traceback, or in a message without its place."""
    (mistake,) = mistakes_of(tmp_path, text)
    assert said in str(mistake)
    assert len(str(mistake)) < 300


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    """A file saved by some editors would be refused for what cannot be seen."""
    (tmp_path / "perdure.toml").write_bytes(b"\xef\xbb\xbf[workers]\ncount = 3\n")
    assert load_settings(tmp_path / "perdure.toml", {}).workers.count == 3


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A wrong --config would end in a traceback."""
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "text").write_text("")
    for path, said in (
        ("missing.toml", "missing.toml: there is no such file; `perdure init` makes one"),
        (".", "is a folder; name the file in it, such as"),
        ("link", "link: is a link to a file that does not exist"),
        ("text/perdure.toml", "cannot be read: Not a directory"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_settings(Path(path), {}, cwd=tmp_path)
        assert said in str(caught.value)


def test_a_file_that_this_user_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be passed over, and the daemon would run with the defaults."""
    file = tmp_path / "perdure.toml"
    file.write_text("")

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so it is simulated
    with pytest.raises(ConfigError, match="this user may not read it"):
        load_settings(file, {}, cwd=tmp_path)


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command would use another configuration than the daemon."""
    monkeypatch.setattr("perdure.config.paths.SYSTEM_CONFIG", tmp_path / "system.toml")
    cwd = tmp_path / "here"
    cwd.mkdir()
    assert find_config(None, {"PERDURE_CONFIG": ""}, cwd) is None
    (tmp_path / "system.toml").write_text("")
    assert find_config(None, {}, cwd) == tmp_path / "system.toml"
    (cwd / "perdure.toml").mkdir()
    assert find_config(None, {}, cwd) == cwd / "perdure.toml", "a folder is reported, not passed over"
    assert find_config(None, {"PERDURE_CONFIG": "other.toml"}, cwd) == cwd / "other.toml"
    assert find_config("mine.toml", {"PERDURE_CONFIG": "other.toml"}, cwd) == cwd / "mine.toml"
    assert find_config(Path("/etc/x.toml"), {}, cwd) == Path("/etc/x.toml")
    assert str(SYSTEM_CONFIG) == "/etc/perdure/perdure.toml"


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without rights in /etc/perdure would get a queue of their own in the current folder."""

    def refuse(_path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", refuse)
    assert find_config(None, {}, Path("/srv")) == Path("/srv/perdure.toml")


texts = st.one_of(st.text(max_size=20), st.sampled_from(["1", "-1", "30s", "1MiB", "full", ",", "a,b"]))


@hypothesis_settings(deadline=None)
@given(st.dictionaries(st.sampled_from([key.variable for t in all_keys().values() for key in t.values()]), texts))
def test_any_environment_gives_settings_or_mistakes(environ: dict[str, str]) -> None:
    """An odd variable would end in a traceback."""
    try:
        load_settings(None, environ, cwd=Path("/srv"))
    except BadConfig as error:
        named = {mistake.source for mistake in error.mistakes}
        unnamed = {mistake.key for mistake in error.mistakes if not mistake.source}
        assert named - {""} <= set(environ)
        assert unnamed <= {"daemon.socket"}


@hypothesis_settings(deadline=None)
@given(st.text("[]{}=.\"'#\n\\ ab1,", max_size=40))
def test_any_text_gives_settings_or_mistakes(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """An odd file would end in a traceback."""
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text)
    mistakes: list[Mistake] | None = None
    try:
        load_settings(file, {})
    except BadConfig as error:
        mistakes = error.mistakes
    assert mistakes != []
