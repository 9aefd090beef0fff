"""Settings for databases and other services: what workers are told, and mistakes that no key can tell alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from perdure.config.remote import BreakerSettings, Neo4jSettings, PostgresSettings, QdrantSettings
from perdure.config.settings import BadConfig, Settings, load_settings
from perdure.wire.dependencies import Dependencies, Neo4jOptions, Policy, PostgresOptions, QdrantOptions

NAME = "must be a name of 1 to 128 letters, digits, and . _ : - that begins with a letter or digit"
DSN = 'dsn = "postgresql://me@db/app"\n'


def load(path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    """The settings of a file of this text, for two workers unless it says otherwise."""
    file = path / "perdure.toml"
    file.write_text(text)
    return load_settings(file, {"PERDURE_WORKERS_COUNT": "2", **(environ or {})}, cwd=path)


def mistakes(path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """What is said about a file of this text."""
    with pytest.raises(BadConfig) as caught:
        load(path, text, environ)
    return [str(one).removeprefix("perdure.toml:") for one in caught.value.mistakes]


@pytest.mark.parametrize(
    ("section", "options"),
    [
        (PostgresSettings, PostgresOptions),
        (Neo4jSettings, Neo4jOptions),
        (QdrantSettings, QdrantOptions),
        (BreakerSettings, Policy),
    ],
)
def test_every_option_can_be_set(section: type[msgspec.Struct], options: type[msgspec.Struct]) -> None:
    """An adapter would read an option that nobody can change, or have another default than the documented one."""
    assert set(section.__struct_fields__) - {"max_connections"} == set(options.__struct_fields__)
    required = {"dsn": ""} if options is PostgresOptions else {"uri": ""} if options is Neo4jOptions else {}
    defaults, given = options(**required), section()
    for name in set(options.__struct_fields__) - {"pool_max"}:
        assert getattr(given, name) == getattr(defaults, name), name


def test_nothing_configured_is_nothing_to_connect_to(tmp_path: Path) -> None:
    """A daemon without databases would open connections, or park its jobs."""
    assert load(tmp_path, "").dependencies() == Dependencies()
    empty = load(tmp_path, '[postgres]\ndsn = ""\npool_max = 4\n[neo4j]\nuri = ""\n[qdrant]\nurl = ""\n')
    assert empty.dependencies() == Dependencies()


def test_all_of_it(tmp_path: Path) -> None:
    """Workers would be told something else than what stands in the file."""
    found = load(
        tmp_path,
        """\
[postgres]
dsn = "postgresql://me@db:5433/app?sslmode=require"
password_file = "secrets/pg"
pool_min = 1
acquire_timeout = "1s"
[neo4j]
uri = "bolt+s://graph:7688"
user = "ada"
pool_max = 3
[qdrant]
url = "https://vectors:6333"
grpc = true
[dependencies.billing-api]
about = "invoices"
[dependencies."mail.out"]
[breakers]
timeout = "4s"
failure_ratio = 0.25
[breakers.billing-api]
timeout = "20s"
break = "1s"
""",
    ).dependencies()
    assert found.postgres == PostgresOptions(
        "postgresql://me@db:5433/app?sslmode=require",
        str(tmp_path / "secrets/pg"),
        pool_min=1,
        pool_max=10,
        acquire_timeout_ms=1_000,
    )
    assert found.neo4j == Neo4jOptions("bolt+s://graph:7688", "ada", pool_max=3)
    assert found.qdrant == QdrantOptions("https://vectors:6333", grpc=True, pool_max=10)
    general = Policy(timeout_ms=4_000, failure_ratio=0.25)
    assert found.policies == {
        **dict.fromkeys(("postgres", "neo4j", "qdrant", "mail.out"), general),
        "billing-api": msgspec.structs.replace(general, timeout_ms=20_000, break_ms=1_000),
    }


def test_variables(tmp_path: Path) -> None:
    """A container could not be pointed at its databases; and a variable that has no effect must not be silent."""
    environ = {
        "PERDURE_POSTGRES_DSN": "postgres://me@db/app",
        "PERDURE_QDRANT_GRPC": "yes",
        "PERDURE_QDRANT_URL": "http://v:1",
        "PERDURE_BREAKERS_FAILURE_RATIO": "0.9",
        "PERDURE_DAEMON_BUILTIN_KINDS": "postgres.execute,http.request",
    }
    settings = load(tmp_path, "", environ)
    assert settings.postgres.dsn == "postgres://me@db/app"
    assert settings.qdrant.grpc is True
    assert settings.dependencies().policies["qdrant"].failure_ratio == 0.9
    assert settings.daemon.builtin_kinds == ("postgres.execute", "http.request")
    (said,) = mistakes(tmp_path, "[dependencies.a]\n", {"PERDURE_BREAKERS_A_WINDOW": "3s"})
    assert "Sections such as [breakers.NAME] have none" in said


def test_shares_of_the_budget(tmp_path: Path) -> None:
    """Workers together would open more connections than the server has."""
    for workers, budget, pool in ((2, 100, 10), (2, 15, 3), (8, 40, 2), (3, 7, 1)):
        text = f"[workers]\ncount = {workers}\n[postgres]\n{DSN}max_connections = {budget}\n"
        found = load(tmp_path, text, {"PERDURE_WORKERS_COUNT": str(workers)}).dependencies().postgres
        assert found is not None
        assert found.pool_max == pool
        assert (2 * workers + 1) * found.pool_max <= budget
    (said,) = mistakes(tmp_path, f"[postgres]\n{DSN}pool_max = 40\n")
    assert said.startswith("3: postgres.pool_max: (2 workers, as many again during a reload, 1 for jobs that run ")
    assert " x 40 connections (pool_max) = 200, which is above postgres.max_connections = 100" in said
    (said,) = mistakes(tmp_path, '[neo4j]\nuri = "bolt://h"\nmax_connections = 2\n')
    assert said.startswith("3: neo4j.max_connections: ")
    (said,) = mistakes(tmp_path, f"[postgres]\n{DSN}pool_min = 5\npool_max = 4\n")
    assert said.startswith("3: postgres.pool_min: must not be above")


def test_files_of_secrets(tmp_path: Path) -> None:
    """A worker would look for the password in the wrong folder."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "pg").write_text("secret")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}

    def path_of(name: str, environ: dict[str, str]) -> str:
        options = load(tmp_path, f'[postgres]\n{DSN}password_file = "{name}"\n', environ).dependencies().postgres
        assert options is not None
        return options.password_file

    assert path_of("pg", environ) == str(credentials / "pg")
    assert path_of("./pg", environ) == str(tmp_path / "pg")
    assert path_of("other", environ) == str(tmp_path / "other")
    assert path_of("pg", {}) == str(tmp_path / "pg")
    assert path_of("/run/pg", environ) == "/run/pg"


def test_the_embedded_mode_of_qdrant(tmp_path: Path) -> None:
    """The second worker would fail with every job, because the folder is locked."""
    (said,) = mistakes(tmp_path, '[qdrant]\npath = "vectors"\n')
    assert said.startswith(
        "2: qdrant.path: the embedded mode locks its folder for one process, and there are 2 workers"
    )
    assert "workers.count = 1" in said
    options = load(tmp_path, '[qdrant]\npath = "vectors"\n', {"PERDURE_WORKERS_COUNT": "1"}).dependencies().qdrant
    assert options is not None
    assert options.path == str(tmp_path / "vectors")
    (said,) = mistakes(tmp_path, '[qdrant]\npath = "vectors"\nurl = "http://h"\n')
    assert said.startswith("2: qdrant.path: qdrant.url is set, too")


def test_names_in_titles(tmp_path: Path) -> None:
    """A slip in a name would leave the defaults in force for the dependency that was meant."""
    assert mistakes(
        tmp_path,
        """\
[dependencies.neo4j]
[dependencies.window]
[dependencies."a b"]
[dependencies.a.b]
[dependencies.billing]
abuot = "x"
[breakers.biling]
window = "5s"
[breakers.billing]
windw = "5s"
tries = 0
""",
    ) == [
        '4: dependencies.a.b: unknown key; a name with dots stands in quotes: [dependencies."a.b"]',
        '6: dependencies.billing.abuot: unknown key, did you mean "about"?',
        '10: breakers.billing.windw: unknown key, did you mean "window"?',
        "11: breakers.billing.tries: must be a whole number from 1 to 100, not 0",
        "1: dependencies.neo4j: has a section of its own, [neo4j]; it needs no declaration",
        '2: dependencies.window: must have another name: "window" is a key of [breakers]',
        f'3: dependencies."a b": {NAME}',
        '7: breakers.biling: unknown dependency, did you mean "billing"? Others are declared with [dependencies.NAME]',
    ]
    (said,) = mistakes(tmp_path, "dependencies.x = 3\n")
    assert said == "1: dependencies.x: unknown key; there are only sections in it, [dependencies.NAME]"
    (said,) = mistakes(tmp_path, "[breakrs]\n")
    assert said == '1: breakrs: unknown section, did you mean "breakers"?'


def test_orders_of_durations(tmp_path: Path) -> None:
    """A cap below what it caps has no meaning; each is said once, where it was set."""
    pair = ("breakers.neo4j.retry_base", "breakers.neo4j.retry_cap")
    assert mistakes(
        tmp_path,
        '[breakers]\nbreak = "10m"\n[breakers.postgres]\ntimeout = "1s"\n[breakers.neo4j]\nretry_cap = "10ms"\n',
    ) == [
        '2: breakers.break: breakers.break must not be above breakers.break_cap: here "10m" and "5m"',
        f'6: {pair[1]}: {pair[0]} must not be above {pair[1]}: here "50ms" and "10ms"',
    ]


def test_kinds_without_their_database(tmp_path: Path) -> None:
    """Jobs of a built-in kind would all fail."""
    found = mistakes(tmp_path, '[daemon]\nbuiltin_kinds = ["postgres.execute", "http.request", "qdrant.upsert"]\n')
    assert [one.split(";")[0] for one in found] == [
        "2: daemon.builtin_kinds: postgres.execute needs [postgres], which is not configured",
        "2: daemon.builtin_kinds: qdrant.upsert needs [qdrant], which is not configured",
    ]
    (said,) = mistakes(tmp_path, '[daemon]\nbuiltin_kinds = ["neo4j.exec"]\n')
    assert said.endswith('did you mean "neo4j.execute"?')


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("postgres.dsn", "db", "must begin with"),
        ("postgres.dsn", "mysql://me:hunter2@db/app", 'must begin with "postgresql://" or "postgres://"'),
        ("postgres.dsn", "postgresql://me:hun/ter2@db/app", "are written %40 %3A"),
        ("postgres.dsn", "postgresql://me:12/hunter2@db/app", "are written %40 %3A"),
        ("postgres.dsn", "postgresql://me:hunter@2@db/app", "are written %40 %3A"),
        ("postgres.dsn", "postgresql://me:hunter#2@db/app", "are written %40 %3A"),
        ("postgres.dsn", "postgresql://me:hunter?2@db/app", "are written %40 %3A"),
        ("postgres.dsn", "postgresql://me:12?hunter2@db/app", "are written %40 %3A"),
        ("postgres.dsn", "postgresql://me:hunter 2@db/app", "must not have spaces"),
        ("postgres.dsn", "postgresql://me:hunter2@[db/app", "is no address"),
        ("postgres.dsn", "postgresql://me@db/app?password=hunter2", "name a password_file"),
        ("postgres.dsn", "postgresql://me@db:99999/app", "port"),
        ("postgres.dsn", "postgresql://me:hunter2@db/app?sslmode=bogus", 'must have "disable"'),
        ("postgres.dsn", "postgresql://db/app?application_name=a&sslmode=verify-ful", 'did you mean "verify-full"?'),
        ("postgres.dsn", "postgresql://db/app?sslmode=", "as sslmode"),
        ("postgres.dsn", "postgresql://db/app?sslmode=REQUIRE", "as sslmode"),
        ("neo4j.uri", "http://graph:7474", 'must begin with "neo4j://"'),
        ("neo4j.uri", "bolt://", "must name a host"),
        ("neo4j.uri", "bolt://ada:hunter2@graph", "must not have a user or password"),
        ("qdrant.url", "localhost:6333", 'must begin with "http://" or "https://"'),
        ("qdrant.url", "http://v:port", "port"),
    ],
)
def test_addresses(tmp_path: Path, key: str, value: str, said: str) -> None:
    """The driver would fail at the first job, with words of its own; or the message would show the password."""
    section, _, name = key.partition(".")
    with pytest.raises(BadConfig) as caught:
        load(tmp_path, f'[{section}]\n{name} = "{value}"\n')
    (mistake,) = caught.value.mistakes
    assert (mistake.line, mistake.key) == (2, key)
    assert said in mistake.message
    assert "hun" not in repr(mistake)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://",
        "postgresql:///app?host=/run/postgresql",
        "postgres://me:p%40ss@db:5432/app",
        "postgresql://me@[::1]:5432,other:5433/app?target_session_attrs=primary",
        "postgresql://%2Frun%2Fpostgresql/app",
        *(f"postgres://db/app?sslmode={mode}" for mode in ("disable", "allow", "prefer", "require")),
        *(f"postgres://db/app?sslmode={mode}&sslrootcert=ca.pem" for mode in ("verify-ca", "verify-full")),
    ],
)
def test_addresses_that_libpq_takes(tmp_path: Path, dsn: str) -> None:
    """A valid address would be refused."""
    assert load(tmp_path, f'[postgres]\ndsn = "{dsn}"\n').postgres.dsn == dsn


def test_two_passwords(tmp_path: Path) -> None:
    """Nobody would know which of the two is used."""
    (said,) = mistakes(tmp_path, '[postgres]\ndsn = "postgresql://me:hunter2@db/app"\npassword_file = "pg"\n')
    assert said == "3: postgres.password_file: postgres.dsn has a password in it, too; take it out there"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[breakers]\nfailure_ratio = 0", "must be a number above 0 and up to 1, such as 0.5, not 0"),
        ("[breakers]\nslow_ratio = 1.1", "not 1.1"),
        ("[breakers]\nslow_ratio = nan", "not nan"),
        ("[breakers]\nslow_ratio = true", "not true"),
        ("[qdrant]\ngrpc = 1", "must be true or false, without quotes, not 1"),
        ('[neo4j]\ndatabase = ""', 'must be the name of a database, not ""'),
    ],
)
def test_other_values(tmp_path: Path, text: str, said: str) -> None:
    """A wrong value would be taken for something else."""
    (one,) = mistakes(tmp_path, text)
    assert said in one


def test_as_tables_has_named_sections(tmp_path: Path) -> None:
    """`perdure config check --show` would leave out what was set for one dependency."""
    text = '[dependencies."a.b"]\nabout = "x"\n[breakers."a.b"]\nslow_after = "3s"\n'
    tables = load(tmp_path, text).as_tables()
    assert tables['dependencies."a.b"'] == {"about": "x"}
    assert tables['breakers."a.b"'] == {"slow_after": "3s"}
    changed = load(tmp_path, text).with_overrides(values={"breakers.tries": 7})
    assert changed.dependencies().policies["a.b"] == Policy(slow_after_ms=3_000, tries=7)
