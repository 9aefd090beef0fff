"""Settings from files, the environment and options."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from perdure.config.keys import Key
from perdure.config.paths import MAX_SOCKET_PATH_BYTES
from perdure.config.rules import Choice, Duration, Folders, Group, Mode, Modules, Name, PathText, Size, Whole
from perdure.config.rules_remote import Dsn, Flag, Ratio, Text, Url, Words
from perdure.config.settings import DEFAULT_TOML, Settings, all_keys, load_settings
from perdure.config.shell import ProgramPatterns
from perdure.errors import ConfigError

MODULE = 'the name of a module, such as "jobs" or "app.jobs"'
ROOT = Path(__file__).resolve().parents[2]


def load(text: str, environ: dict[str, str] | None = None) -> Settings:
    """The settings of a file with this text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "perdure.toml"
        path.write_text(text)
        return load_settings(path, environ or {}, cwd=Path(folder))


def sections(settings: Settings) -> dict[str, object]:
    """What came from keys, without the folders."""
    return {name: getattr(settings, name) for name in all_keys()}


# --- the documented defaults


def test_default_toml_has_every_key_and_its_default() -> None:
    """The documentation of the keys would be wrong."""
    documented = tomllib.loads(DEFAULT_TOML.read_text())
    assert {name: list(table) for name, table in documented.items()} == {
        name: list(keys) for name, keys in all_keys().items()
    }
    assert sections(load_settings(DEFAULT_TOML, {})) == sections(Settings())


def test_every_field_of_settings_is_a_key() -> None:
    """A setting could be read by the daemon, and be set by nobody."""
    settings = Settings()
    for name, keys in all_keys().items():
        section = getattr(settings, name)
        assert {key.attribute for key in keys.values()} == set(section.__struct_fields__)
    others = {"base", "source", "runtime", "credentials", "declared", "breaker_overrides", "queue_overrides"}
    assert set(settings.__struct_fields__) == {*all_keys(), *others}


def test_every_key_is_explained() -> None:
    """A key would stand in default.toml without a word, or the page on configuration would not lead there."""
    commented = False
    for line in DEFAULT_TOML.read_text().splitlines():
        if re.match(r"[a-z_]+ = ", line):
            assert commented, line
        commented = line.startswith("#")
    assert "default.toml" in (ROOT / "docs/configuration.md").read_text()


def test_defaults_with_their_units() -> None:
    """The engine reads these names."""
    settings = Settings()
    assert settings.daemon.drain_limit_ms == 30_000
    assert settings.store.wal_limit_bytes == 64 << 20
    assert settings.jobs.timeout_ms == 3_600_000
    assert settings.daemon.socket_mode == 0o660
    assert settings.logs.job_bytes == 1 << 20
    assert settings.workers.effective_count == len(os.sched_getaffinity(0))
    assert load('[jobs]\ntimeout = "0"').jobs.timeout_ms is None
    assert load("[jobs]\ntimeout = 1.5").jobs.timeout_ms == 1_500
    assert load("[workers]\ncount = 3").workers.effective_count == 3


# --- any settings


def values_for(key: Key) -> st.SearchStrategy[object]:
    """Any value that a key may have, as Settings holds it."""
    rule = key.rule
    paths = st.text("abc/. äé-", min_size=1, max_size=20)
    strategies: dict[type, st.SearchStrategy[object]] = {
        Whole: st.integers(rule.minimum, rule.maximum) if isinstance(rule, Whole) else st.none(),
        Size: st.integers(rule.minimum, rule.maximum) if isinstance(rule, Size) else st.none(),
        Duration: st.integers(max(rule.minimum_ms, 1), rule.maximum_ms) if isinstance(rule, Duration) else st.none(),
        Choice: st.sampled_from(rule.allowed) if isinstance(rule, Choice) else st.none(),
        Name: st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,20}", fullmatch=True),
        Group: st.sampled_from(["", "perdure", "1000"]),
        PathText: paths,
        Mode: st.integers(0, 0o177).map(lambda bits: 0o600 | bits),
        Folders: st.lists(paths, unique=True, max_size=3).map(tuple),
        Dsn: st.sampled_from(["", "postgresql://u:p%40@h:1,[::1]:2/d?sslmode=require", "postgres:///d?host=/run"]),
        Flag: st.booleans(),
        Ratio: st.floats(0, 1, exclude_min=True),
        Text: st.text("abc/. äé-", min_size=1, max_size=20),
        Url: st.just("") if not isinstance(rule, Url) else st.sampled_from(["", rule.example]),
        Words: st.lists(st.just("http.request"), max_size=1).map(tuple),
        ProgramPatterns: st.lists(st.from_regex(r"/[a-z*?]{1,5}", fullmatch=True), unique=True).map(tuple),
        Modules: st.lists(st.from_regex(r"[a-z_]{1,5}(\.[a-z_]{1,5})?", fullmatch=True), unique=True).map(tuple),
    }
    if isinstance(rule, Duration) and rule.zero_is_none:
        return st.one_of(st.none(), strategies[Duration])
    return strategies[type(rule)]


#: Keys that are checked together with others.
BOUND = (
    *("workers.restart_", "jobs.backoff_", "breakers.break", "breakers.retry_", "postgres.pool_", "neo4j.pool_"),
    *("qdrant.pool_", "postgres.max_c", "neo4j.max_c", "qdrant.max_c", "postgres.password_file"),
)


@st.composite
def any_settings(draw: st.DrawFn) -> dict[str, dict[str, object]]:
    """Values for some keys, by section and key, as Settings holds them."""
    chosen: dict[str, dict[str, object]] = {}
    flat = [key for table in all_keys().values() for key in table.values() if not key.path.startswith(BOUND)]
    for key in draw(st.lists(st.sampled_from(flat), unique=True, max_size=8)):
        if key.path not in ("qdrant.path", "workers.count"):
            chosen.setdefault(key.section, {})[key.name] = draw(values_for(key))
    return chosen


@hypothesis_settings(deadline=None, max_examples=60)
@given(any_settings())
def test_settings_survive_file_and_environment(chosen: dict[str, dict[str, object]]) -> None:
    """A value would change on its way through the file or a variable."""
    lines, environ = [], {}
    for section, table in chosen.items():
        lines.append(f"[{section}]")
        for name, value in table.items():
            key = all_keys()[section][name]
            written = key.rule.write(value)
            lines.append(f"{name} = {json.dumps(written, ensure_ascii=False)}")
            environ[key.variable] = ",".join(written) if isinstance(written, list) else str(written)
    environ = {name: text for name, text in environ.items() if text == text.strip() and ", " not in text + " "}
    by_file = load("\n".join(lines))
    for section, table in chosen.items():
        for name, value in table.items():
            key = all_keys()[section][name]
            assert getattr(getattr(by_file, section), key.attribute) == value
            if key.variable in environ and not isinstance(key.rule, Folders):
                by_variable = load("", {key.variable: environ[key.variable]})
                assert getattr(getattr(by_variable, section), key.attribute) == value
    assert load_tables(by_file) == sections(by_file)


def load_tables(settings: Settings) -> dict[str, object]:
    """What as_tables gives, read again."""
    flat = {f"{name}.{key}": value for name, table in settings.as_tables().items() for key, value in table.items()}
    return sections(Settings().with_overrides(values=flat))


# --- the environment and options


def test_variables_override_the_file() -> None:
    """A container could not be configured without writing a file."""
    environ = {
        "PERDURE_STORE_PATH": "/data/q.db",
        "PERDURE_DAEMON_HANDLERS": "jobs, app.more",
        "PERDURE_DAEMON_PATH": "",
        "PERDURE_WORKERS_COUNT": "4",
        "PERDURE_JOBS_TIMEOUT": "90",
        "PERDURE_LIMITS_ARGS": "2MiB",
        "PERDURE_DAEMON_SOCKET_MODE": "0600",
        "PERDURE_CONFIG": "not a key",
        "PERDURE_TEST_SEED": "not a key",
        "PATH": "/bin",
    }
    settings = load('[store]\npath = "other.db"\n[workers]\ncount = 1\nprefetch_jobs = 8', environ)
    assert settings.store.path == "/data/q.db"
    assert settings.daemon.handlers == ("jobs", "app.more")
    assert settings.daemon.path == ()
    assert (settings.workers.count, settings.workers.prefetch_jobs) == (4, 8)
    assert settings.jobs.timeout_ms == 90_000
    assert settings.limits.args_bytes == 2 << 20
    assert settings.daemon.socket_mode == 0o600


def test_options_override_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`perdure run jobs --db x.db` without any file would not do what it says."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {}, cwd=Path("/srv")).with_overrides(
        db="x.db", handlers=["jobs"], values={"workers.count": 2, "workers.prefetch": "1s"}
    )
    assert settings.paths.db == tmp_path / "x.db"
    assert settings.daemon.handlers == ("jobs",)
    assert (settings.workers.count, settings.workers.prefetch_ms) == (2, 1_000)
    assert settings.with_overrides() == settings
    with pytest.raises(ConfigError) as caught:
        settings.with_overrides(db="", handlers=["jobs.py"], values={"workers.cout": 1}, source="command line")
    assert [one.split(": ")[1:] for one in str(caught.value).splitlines()] == [
        ["workers.cout", 'unknown key, did you mean "count"?'],
        ["store.path", 'must be a path, not ""'],
        ["daemon.handlers", f'element 1 must be {MODULE}, not "jobs.py"', 'write "jobs"'],
    ]
    assert str(caught.value).startswith("command line: workers.cout: ")


# --- paths


def test_relative_paths_start_from_the_files_folder(tmp_path: Path) -> None:
    """The daemon and a command started elsewhere would use two queues."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "perdure.toml").write_text('[store]\npath = "data/q.db"\n[daemon]\npath = [".", "/opt/app", "lib"]\n')
    settings = load_settings(Path("etc/perdure.toml"), {}, cwd=tmp_path)
    assert settings.base == folder
    assert settings.source == folder / "perdure.toml"
    paths = settings.paths
    assert paths.db == folder / "data/q.db"
    assert paths.lock == folder / "data/q.db.lock"
    assert paths.socket == folder / "data/perdure.sock"
    assert paths.data_dir == folder / "data/q.db.d"
    assert paths.logs_dir == folder / "data/q.db.d/logs"
    assert paths.recorder_dir == folder / "data/q.db.d/recorder"
    assert paths.import_path == (folder, Path("/opt/app"), folder / "lib")


def test_without_a_file_they_start_from_the_current_folder(tmp_path: Path) -> None:
    """`perdure run jobs` would make its queue in another folder."""
    settings = load_settings(None, {}, cwd=tmp_path)
    assert settings.source is None
    assert settings.paths.db == tmp_path / "perdure.db"
    assert settings.paths.import_path == (tmp_path,)


def test_where_the_socket_is(tmp_path: Path) -> None:
    """The client would look for the daemon where it is not."""
    runtime = {"RUNTIME_DIRECTORY": "/run/perdure:/run/more"}
    assert load_settings(None, runtime, cwd=tmp_path).paths.socket == Path("/run/perdure/perdure.sock")
    assert load_settings(None, {"RUNTIME_DIRECTORY": ""}, cwd=tmp_path).paths.socket == tmp_path / "perdure.sock"
    set_by_key = load_settings(None, {**runtime, "PERDURE_DAEMON_SOCKET": "my.sock"}, cwd=tmp_path)
    assert set_by_key.paths.socket == tmp_path / "my.sock"


def test_a_socket_path_that_is_too_long() -> None:
    """The daemon would fail to listen, with a message of the system that says nothing."""
    fits = "/" + "x" * (MAX_SOCKET_PATH_BYTES - 1)
    assert load(f'[daemon]\nsocket = "{fits}"').paths.socket == Path(fits)
    with pytest.raises(ConfigError, match=r'perdure.toml:2: daemon.socket: .* has 108 bytes.*daemon.socket .*"/run/'):
        load(f'[daemon]\nsocket = "{fits}y"')
    with pytest.raises(ConfigError, match=r"set daemon\.socket"):
        load_settings(None, {}, cwd=Path("/" + "ä" * 60))


def test_importing_it_is_light() -> None:
    """Each `perdure enqueue` in a shell loop would load what it does not need."""
    code = "import sys, perdure.config.settings; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"rich", "structlog", "asyncio", "tomllib", "difflib", "click", "sqlite3"} & set(done.stdout.split())
