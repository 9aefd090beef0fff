"""From the words of a command to a process that runs it, or to an error that says what is wrong with them."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from perdure.duration import parse_duration_ms
from perdure.errors import CommandFailed, UsageError

#: What commands get of our own environment, besides LC_*. Nothing secret: no tokens, no addresses of databases.
KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR")
#: How shells tell that a program could not be run.
CANNOT_RUN: Final = 126
_SHOWN_CHARS: Final = 200
#: Failures to start a process that pass.
_PASSING: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY})


class Program(NamedTuple):
    """What is run: the file, the words (the first as it was given), and where."""

    path: str
    argv: tuple[str, ...]
    cwd: str

    def __str__(self) -> str:
        return show(self.argv)


class Wishes(NamedTuple):
    """How one command is to be run: see Context.run. `seconds`: its time limit; `environ`: all of its environment."""

    program: Program
    environ: Mapping[str, str]
    input: bytes | None = None
    seconds: float | None = None
    check: bool = True
    capture: bool = False


def read_wishes(
    argv: Sequence[str],
    marks: Mapping[str, str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes | str | None = None,
    timeout: float | str | None = None,
    check: bool = True,
    capture: bool = False,
) -> Wishes:
    """The arguments of Context.run, looked into; `marks` go into the environment. Raises UsageError."""
    environ = clean_environ(os.environ, env, marks)
    program = find_program(argv, cwd, environ)
    data = input.encode() if isinstance(input, str) else input
    return Wishes(program, environ, data, limit_seconds(timeout), check, capture)


def limit_seconds(timeout: float | str | None) -> float | None:
    """A time limit as handlers write it. Raises UsageError."""
    if timeout is None:
        return None
    try:
        milliseconds = parse_duration_ms(timeout)
    except ValueError as error:
        raise UsageError(f"timeout: {error}") from None
    if milliseconds <= 0:
        raise UsageError("timeout: it must be above 0; None is for no limit")
    return milliseconds / 1000


def show(argv: Sequence[str]) -> str:
    """A command as one would type it, cut to a readable length."""
    text = ""
    for word in argv:
        text += f" {shlex.quote(word[: _SHOWN_CHARS + 1])}"
        if len(text) > _SHOWN_CHARS:
            break
    text = "".join(char if char.isprintable() else "?" for char in text[1:])
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def find_program(argv: Sequence[str], cwd: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Program:
    """Look for the program as a shell would: on the PATH, or from `cwd` when its name has a slash.

    Raises UsageError: nothing to run, no such program or folder, not executable.
    """
    if not argv or not argv[0]:
        raise UsageError("there is no command to run; pass the program and its arguments: ctx.run('git', 'log')")
    if any("\0" in word for word in argv):
        raise UsageError(f"a command cannot have NUL characters in it: {show(argv)}")
    folder = _folder(cwd)
    name = argv[0]
    if "/" in name:
        path = os.path.join(folder, name)
        # ".." after a link does not lead back, so a path with it is left to the system.
        path = path if ".." in Path(path).parts else os.path.normpath(path)
        _check_executable(path)
    else:
        path = _on_path(name, folder, environ.get("PATH") or os.defpath)
    return Program(path, tuple(argv), folder)


def _folder(cwd: str | os.PathLike[str] | None) -> str:
    """The absolute path of the folder to run in."""
    try:
        folder = os.path.join(os.getcwd(), os.fspath(cwd)) if cwd is not None else os.getcwd()
        mode = os.stat(folder).st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"the command cannot run in the folder {str(cwd or '.')!r:.200}: {reason}") from None
    if not stat.S_ISDIR(mode):
        raise UsageError(f"the command cannot run in {folder!r:.200}: that is no folder")
    if not os.access(folder, os.X_OK):
        raise UsageError(f"the command cannot run in the folder {folder!r:.200}: this user may not enter it")
    return folder


def _on_path(name: str, folder: str, path: str) -> str:
    refused = ""
    for place in path.split(os.pathsep):
        candidate = os.path.join(folder, place, name)
        if not os.path.isfile(candidate):
            continue
        if os.access(candidate, os.X_OK):
            return candidate
        refused = refused or candidate
    if refused:
        raise UsageError(f"{refused!r:.200} cannot be run: it is not executable (chmod +x)")
    raise UsageError(f"there is no program {name!r:.200} on the PATH ({path}); name its path, or give PATH in `env`")


def _check_executable(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"there is no program {path!r:.200}: {reason}") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path!r:.200} cannot be run: it is a folder")
    if not os.access(path, os.X_OK):
        raise UsageError(f"{path!r:.200} cannot be run: it is not executable (chmod +x)")


def clean_environ(
    environ: Mapping[str, str], added: Mapping[str, str] | None, marks: Mapping[str, str]
) -> dict[str, str]:
    """What a command gets: the little that programs need of `environ`, what was `added`, and `marks` over all.

    Raises UsageError.
    """
    kept = {name: value for name, value in environ.items() if name in KEPT_VARIABLES or name.startswith("LC_")}
    for name, value in (added or {}).items():
        if not name or "=" in name or "\0" in f"{name}{value}":
            raise UsageError(f"env: {name!r:.60} is no name or has no value that a variable can have")
        kept[name] = value
    return {**marks, **kept, **marks}


def spawn(program: Program, environ: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> int:
    """Start it in a session of its own, with these descriptors; the pid, which the caller must wait for.

    A session, so that it has no terminal: what wants to ask a person fails at once. Takes a fraction of a millisecond
    (vfork), whatever the size of this process. Raises UsageError, CommandFailed.
    """
    try:
        process = subprocess.Popen(
            program.argv,
            executable=program.path,
            cwd=program.cwd,
            env=environ,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _cannot_start(program, error) from None
    # It is waited for here and not by Popen, which would otherwise do that when it is garbage.
    process.returncode = 0
    return process.pid


def _cannot_start(program: Program, error: OSError | ValueError) -> UsageError | CommandFailed:
    if not isinstance(error, OSError):
        return UsageError(f"{program} cannot be run: {error}")
    if error.errno in _PASSING:
        return CommandFailed(
            f"{program} cannot be started now: {error.strerror}", command=str(program), returncode=CANNOT_RUN
        )
    reasons = {
        errno.E2BIG: "its arguments and environment are larger than the system allows; pass them in a file or `input`",
        errno.ENOEXEC: "it is neither a program for this machine nor a script that begins with #!",
        errno.ENOENT: "the interpreter that its first line names is not there",
    }
    return UsageError(f"{program} cannot be run: {reasons.get(error.errno or 0, error.strerror)}")
