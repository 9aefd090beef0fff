"""Doing one thing to many jobs, and saying what became of each."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Sequence

import click

from perdure.cli.documents import print_document, verdict_document
from perdure.cli.failures import exit_code_of
from perdure.cli.pages import chunks
from perdure.cli.session import Session
from perdure.cli.text import clean
from perdure.wire.control import Request
from perdure.wire.data import Verdict


def act(
    session: Session, ids: Sequence[int], request: Callable[[list[int]], Request], done: str, *, as_json: bool
) -> int:
    """Send `request(ids)` in pieces, print the verdicts, and return the exit code: that of the first error, or 0.

    `done` is what a job is when it worked: "12 cancelled".
    """
    code = 0
    for piece in chunks(list(dict.fromkeys(ids))):
        verdicts: list[Verdict] = session.request(request(piece))
        for verdict in verdicts:
            its_code = _print(verdict, done, as_json=as_json)
            code = code or its_code
    return code


def who() -> str:
    """The user's name, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _print(verdict: Verdict, done: str, *, as_json: bool) -> int:
    if as_json:
        print_document(verdict_document(verdict))
    if verdict.error is None:
        if not as_json:
            click.echo(f"{verdict.id} {done}")
        return 0
    if not as_json:
        message = clean(verdict.error.message)
        named = str(verdict.id) in message
        click.echo(f"perdure: {message}" if named else f"perdure: job {verdict.id}: {message}", err=True)
    return exit_code_of(verdict.error.type)
