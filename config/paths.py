"""Where things are: the configuration file, and the files beside the queue."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

#: Looked for in this order when no file is named.
LOCAL_CONFIG: Final = "perdure.toml"
SYSTEM_CONFIG: Final = Path("/etc/perdure/perdure.toml")

SOCKET_NAME: Final = "perdure.sock"
#: What fits into sockaddr_un.sun_path, less the closing NUL.
MAX_SOCKET_PATH_BYTES: Final = 107


class Paths(Struct, frozen=True):
    """The absolute paths that follow from the settings.

    `db` is the queue's file, `socket` the control socket, `import_path` the folders for sys.path.
    """

    db: Path
    socket: Path
    import_path: tuple[Path, ...]

    @property
    def lock(self) -> Path:
        """The file beside the queue whose lock its only writer holds."""
        return Path(f"{self.db}.lock")

    @property
    def data_dir(self) -> Path:
        """The folder beside the queue for all that is not in it."""
        return Path(f"{self.db}.d")

    @property
    def logs_dir(self) -> Path:
        """The folder of the jobs' logs."""
        return self.data_dir / "logs"

    @property
    def spool_dir(self) -> Path:
        """The folder of payloads and results that are files."""
        return self.data_dir / "spool"

    @property
    def recorder_dir(self) -> Path:
        """The folder of the workers' flight recorders."""
        return self.data_dir / "recorder"


def find_config(explicit: str | Path | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The configuration file: the one named, $PERDURE_CONFIG, ./perdure.toml, /etc/perdure/perdure.toml, or None.

    A file that is named need not exist here: load_settings says so. One that is there but cannot be used, such as a
    folder or a file that this user may not read, is returned too, so that it is not passed over in silence.
    """
    named = explicit or environ.get("PERDURE_CONFIG")
    if named:
        return cwd / named
    for candidate in (cwd / LOCAL_CONFIG, SYSTEM_CONFIG):
        if _is_there(candidate):
            return candidate
    return None


def runtime_dir(environ: Mapping[str, str]) -> Path | None:
    """The folder that systemd made for sockets; the first one, if it made several."""
    first = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(first) if first.startswith("/") else None


def credentials_dir(environ: Mapping[str, str]) -> Path | None:
    """The folder in which systemd puts the secrets of a service (LoadCredential=)."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(folder) if folder.startswith("/") else None


def socket_path_problem(path: Path) -> str | None:
    """What is wrong with the path of a socket, and how to mend it; None if nothing is."""
    length = len(os.fsencode(path))
    if length <= MAX_SOCKET_PATH_BYTES:
        return None
    return (
        f"the control socket's path has {length} bytes, and the system allows {MAX_SOCKET_PATH_BYTES}; "
        f'set daemon.socket (or PERDURE_DAEMON_SOCKET) to a shorter one, such as "/run/perdure/{SOCKET_NAME}". '
        f"It is: {path}"
    )


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # it cannot be looked at, so it cannot be ruled out: reading it will tell why
    return True
