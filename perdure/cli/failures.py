"""What goes wrong, as one or two lines on stderr and an exit code. The only place that maps one to the other."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

import click

from perdure.errors import PerdureError

#: As a shell reports a program that SIGINT ended.
INTERRUPTED = 130
#: As a shell reports a program that SIGPIPE ended.
BROKEN_PIPE = 141


def report(error: BaseException) -> int:
    """Print what the user should know about `error`, and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        _abandon_stdout()
        return BROKEN_PIPE
    lines, code = describe(error)
    if not lines and code == 1:
        traceback.print_exception(error)
        lines = ["perdure: this is a bug in perdure; please report it with the lines above"]
    with contextlib.suppress(OSError):
        for line in lines:
            click.echo(line, err=True)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):  # what could not be written is still in the buffer, and would change the exit code
        _abandon_stdout()
    return code


def describe(error: BaseException) -> tuple[list[str], int]:
    """The lines for stderr, and the exit code. No lines and code 1: not an error that we know."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return [], INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return [error.format_message()], 2
    if isinstance(error, click.ClickException):
        return _usage(error), 2
    if isinstance(error, PerdureError):
        return _ours(error), error.exit_code
    if isinstance(error, UnicodeError):
        return [f"perdure: {_excerpt(error)} is not valid UTF-8; nothing was done"], 2
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        return [f"perdure: {where}{error.strerror or error}"], 1
    if isinstance(error, MemoryError):
        return ["perdure: not enough memory for this"], 1
    return [], 1


def exit_code_of(error_type: str) -> int:
    """The exit code that belongs to an error which came as data, by the name of its class."""
    import perdure.errors

    found = getattr(perdure.errors, error_type, None)
    return found.exit_code if isinstance(found, type) and issubclass(found, PerdureError) else 1


def _excerpt(error: UnicodeError) -> str:
    """The text that cannot be encoded, or the bytes that cannot be decoded."""
    text = ascii(getattr(error, "object", "a text"))
    return text if len(text) <= 60 else f"{text[:50]}…"


def _usage(error: click.ClickException) -> list[str]:
    message = error.format_message()
    lines = [f"perdure: {message[:1].lower()}{message[1:]}"]
    ctx = getattr(error, "ctx", None)
    if ctx is not None:
        lines.append(f"Try `{ctx.command_path} --help`.")
    return lines


def _ours(error: PerdureError) -> list[str]:
    from perdure.cli.text import clean

    return [f"perdure: {clean(line)}" if i == 0 else clean(line) for i, line in enumerate(str(error).splitlines())]


def _abandon_stdout() -> None:
    """Let the interpreter's last flush go nowhere, so that it does not complain about the same thing again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
