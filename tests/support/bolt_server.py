"""A Bolt server for the tests of the Neo4j adapter.

Which one, in this order:

- the one of PERDURE_TEST_NEO4J_URI, `bolt://USER:PASSWORD@HOST:PORT/DATABASE`; it is never killed or changed;
- Neo4j itself, when its jars are in the cache: `make neo4j` fills it (Maven, three minutes). Never done by a test run:
  on a new machine that would be most of its time. With PERDURE_TEST_NEO4J=maven a run does it all the same;
- ArcadeDB, out of the wheel `arcadedb-embedded`, which brings its own Java: a real server for the same protocol.
  PERDURE_TEST_NEO4J=arcadedb takes it even when Neo4j is there.

The cache is $XDG_CACHE_HOME/perdure-tests (or ~/.cache/perdure-tests). Nothing here needs pytest.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support.wait import wait_until

URI_VARIABLE, KIND_VARIABLE = "PERDURE_TEST_NEO4J_URI", "PERDURE_TEST_NEO4J"
NEO4J_VERSION = "5.26.12"  # of the long-term line that runs on Java 17
START_SECONDS, MAVEN_SECONDS = 50.0, 600.0
PASSWORD = "only-for-tests-1"

#: Quick to start and small, rather than fast. The heap never grows to what the machine has.
JAVA_OPTIONS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx384m"]
#: Runs a command that ends with its parent: the kernel kills it when this test run is killed.
ENDS_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>perdure</groupId><artifactId>neo4j-for-tests</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.neo4j</groupId><artifactId>neo4j</artifactId><version>{NEO4J_VERSION}</version>
  </dependency></dependencies>
</project>
"""
NEO4J_CONF = """
server.bolt.listen_address=127.0.0.1:{port}
server.http.enabled=false
server.https.enabled=false
server.memory.heap.max_size=384m
server.memory.pagecache.size=32m
db.tx_log.preallocate=false
dbms.usage_report.enabled=false
dbms.security.auth_lock_time=100ms
"""


class BoltServer:
    """Where a server is, and who may use it. `kind`: neo4j, arcadedb, or outside (of this test run)."""

    kind = "outside"

    def __init__(self, host: str, port: int, user: str, password: str, database: str = "neo4j") -> None:
        self.host, self.port = host, port
        self.user, self.password, self.database = user, password, database

    def __str__(self) -> str:
        return f"the server at {self.host}:{self.port}"

    @property
    def uri(self) -> str:
        """Where it answers."""
        return f"bolt://{self.host}:{self.port}"

    def begin(self) -> None:
        """Start it without waiting; `start` waits. It comes up while other things are done."""

    def start(self) -> None:
        """Start it and wait until it answers. Does nothing when it runs."""

    def stop(self) -> None:
        """End it in good order."""

    def close(self) -> None:
        """End it, and remove its folder."""


class OwnServer(BoltServer):
    """A Java process on a loopback port that it keeps, and on a folder that survives it."""

    def __init__(self, user: str) -> None:
        super().__init__("127.0.0.1", free_port(), user, PASSWORD)
        self.folder = Path()
        self.process: subprocess.Popen[bytes] | None = None
        self._is_warm = False

    def begin(self) -> None:
        """Start the process, from the thread that lives longest: it ends with that."""
        if self.process is not None and self.process.poll() is None:
            return
        self._is_warm = False
        if self.folder == Path():
            self.folder = Path(tempfile.mkdtemp(prefix=f"{self.kind}-"))
            self.prepare()
        command = [sys.executable, "-ISc", ENDS_WITH_PARENT, str(os.getpid()), *self.command()]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.begin()
        if not self._is_warm:
            wait_until(self._is_ready, START_SECONDS, f"{self} to be ready")
            self._is_warm = True

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it on the same folder and port."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)

    def prepare(self) -> None:
        """Fill the new folder."""

    def command(self) -> list[str]:
        """What to run."""
        raise AssertionError("each server has its own")

    def answers(self) -> bool:
        """Whether it is ready for clients."""
        with socket.socket() as sock:
            return sock.connect_ex((self.host, self.port)) == 0

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"{self} ended: {(self.folder / 'server.log').read_text()[-3000:]}")
        return self.answers() and warm_up(self)

    def _end(self, sig: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(sig)
            process.wait(START_SECONDS)


class Neo4jServer(OwnServer):
    """Neo4j's community edition, from its jars."""

    kind = "neo4j"

    def __init__(self) -> None:
        super().__init__("neo4j")
        #: More of them, for whoever makes the archive.
        self.java_options: list[str] = []

    def prepare(self) -> None:
        """Its settings."""
        if not self.java_options:
            fetch_neo4j()
        (self.folder / "conf").mkdir()
        (self.folder / "conf" / "neo4j.conf").write_text(NEO4J_CONF.format(port=self.port))

    def __str__(self) -> str:
        return f"Neo4j {NEO4J_VERSION}"

    def command(self) -> list[str]:
        """Neo4j's own way in; before the first time it gets its password."""
        folders = [f"--home-dir={self.folder}", f"--config-dir={self.folder / 'conf'}"]
        options = self.java_options or [f"-XX:SharedArchiveFile={archive()}"] * archive().exists()
        java = [str(shutil.which("java")), *JAVA_OPTIONS, *options, "-cp", f"{jars()}/*"]
        server = [*java, "org.neo4j.server.CommunityEntryPoint", *folders]
        plain = [str(shutil.which("java")), *JAVA_OPTIONS, "-cp", f"{jars()}/*"]
        password = [*plain, "org.neo4j.cli.AdminTool", "dbms", "set-initial-password", self.password]
        homes = [f"NEO4J_HOME={self.folder}", f"NEO4J_CONF={self.folder / 'conf'}"]
        first = shlex.join(["env", *homes, *password]) if not (self.folder / "data").exists() else "true"
        return ["/bin/sh", "-c", f'{first} >/dev/null && exec "$@"', "sh", *server]


class ArcadeServer(OwnServer):
    """ArcadeDB with its Bolt plugin, from the wheel."""

    kind = "arcadedb"

    def __init__(self, package: Path) -> None:
        super().__init__("root")
        self._package = package
        self._http_port = free_port()

    def prepare(self) -> None:
        """Its folders."""
        for name in ("config", "databases"):
            (self.folder / name).mkdir()

    def __str__(self) -> str:
        return "ArcadeDB (`make neo4j` puts Neo4j itself in its place)"

    def command(self) -> list[str]:
        """Its server class, with settings as system properties."""
        settings = {
            "server.rootPath": self.folder,
            "server.databaseDirectory": self.folder / "databases",
            "server.rootPassword": self.password,
            "server.defaultDatabases": f"{self.database}[]",
            "server.plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
            "server.httpIncomingHost": self.host,
            "server.httpIncomingPort": self._http_port,
            "bolt.host": self.host,
            "bolt.port": self.port,
        }
        java = [str(self._package / "jre" / "bin" / "java"), *JAVA_OPTIONS, "-cp", f"{self._package / 'jars'}/*"]
        return [*java, *(f"-Darcadedb.{k}={v}" for k, v in settings.items()), "com.arcadedb.server.ArcadeDBServer"]

    def answers(self) -> bool:
        """Its Bolt port opens before its databases do, so ask over HTTP."""
        url = f"http://{self.host}:{self._http_port}/api/v1/ready"
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
                return bool(answer.status == 204)
        except (urllib.error.URLError, OSError):
            return False


def bolt_server() -> BoltServer | str:
    """The server for this test run, not yet started; or the reason why there is none."""
    if uri := os.environ.get(URI_VARIABLE):
        return _outside(uri)
    wanted = os.environ.get(KIND_VARIABLE, "")
    if wanted not in ("", "maven", "neo4j", "arcadedb"):
        return f"{KIND_VARIABLE}={wanted} is none of maven, neo4j, arcadedb"
    there = jars().is_dir() or (wanted == "maven" and shutil.which("mvn"))
    if wanted != "arcadedb" and there and shutil.which("java"):
        return Neo4jServer()
    if wanted in ("maven", "neo4j"):
        return f"{KIND_VARIABLE}={wanted}, but there is no java, or no Neo4j in {jars()} (`make neo4j` puts it there)"
    found = importlib.util.find_spec("arcadedb_embedded")
    if found is None or found.origin is None:
        return "neither Neo4j (`make neo4j`) nor arcadedb-embedded (`pip install arcadedb-embedded`) is there"
    return ArcadeServer(Path(found.origin).parent)


@functools.cache
def shared_bolt_server() -> BoltServer | str:
    """The one for all tests of this process: starting it is slow. Each that uses it may close it at the end."""
    return bolt_server()


def warm_up(server: BoltServer) -> bool:
    """Whether it reads and writes; the first queries after a start take a second."""
    import neo4j

    logging.getLogger("neo4j").setLevel(logging.CRITICAL)
    try:
        with neo4j.GraphDatabase.driver(server.uri, auth=(server.user, server.password)) as driver:
            for query in ("CREATE (n:Warm) RETURN n", "MATCH (n:Warm) DELETE n", "SHOW CONSTRAINTS"):
                driver.execute_query(query, database_=server.database)
    except (neo4j.exceptions.DriverError, neo4j.exceptions.TransientError):
        return False
    return True


def description() -> str:
    """Which server the tests use, in a line."""
    return f"Neo4j: {bolt_server()}"


def jars() -> Path:
    """Where Neo4j is, if it is there. A complete folder, or none."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "perdure-tests" / f"neo4j-{NEO4J_VERSION}"


def archive() -> Path:
    """Neo4j's classes as its Java has read them once: with it a start takes half of the time."""
    return jars().with_name(f"{jars().name}.jsa")


def make_archive() -> None:
    """Make that file, by running Neo4j once, unless it is there."""
    if archive().exists():
        return
    server, made = Neo4jServer(), archive().with_suffix(f".{os.getpid()}")
    server.java_options = [f"-XX:ArchiveClassesAtExit={made}"]
    try:
        server.start()
        server.stop()
        made.rename(archive())
    finally:
        server.close()
        made.unlink(missing_ok=True)


def fetch_neo4j() -> None:
    """Put Neo4j's jars into the cache with Maven, unless they are there. Raises CalledProcessError, OSError."""
    if jars().is_dir():
        return
    jars().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jars().parent) as folder:
        (Path(folder) / "pom.xml").write_text(POM)
        copy = ["mvn", "-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=jars"]
        subprocess.run(copy, cwd=folder, check=True, timeout=MAVEN_SECONDS)
        (Path(folder) / "jars").rename(jars())


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _outside(uri: str) -> BoltServer:
    parts = urlsplit(uri)
    assert parts.hostname, f"{URI_VARIABLE} has no host"
    user, password = unquote(parts.username or "neo4j"), unquote(parts.password or "")
    return BoltServer(parts.hostname, parts.port or 7687, user, password, parts.path.strip("/") or "neo4j")


def main(arguments: Iterable[str]) -> None:
    """`python -m tests.support.bolt_server fetch`: what `make neo4j` runs."""
    assert list(arguments) == ["fetch"], "the only word is: fetch"
    fetch_neo4j()
    make_archive()
    print(f"Neo4j {NEO4J_VERSION} is in {jars()}; the tests use it from now on")


if __name__ == "__main__":
    main(sys.argv[1:])
