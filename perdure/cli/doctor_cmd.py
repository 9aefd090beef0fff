"""`perdure doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli.options import config_option, json_option


@click.command()
@json_option
@config_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, config: Path | None) -> None:
    """Look for what is wrong with this installation.

    Changes nothing. Each line is ok, warn or FAIL, with what to do. Exits with 1 if there is a FAIL.
    With --json, one object per line.
    """
    from perdure.cli.checks import FAIL, Finding, findings

    found: list[Finding] = []
    for finding in findings(config):
        found.append(finding)
        if as_json:
            from perdure.cli.documents import print_document

            print_document(finding._asdict())
        else:
            _print(finding.level, finding.check, finding.text, finding.advice)
    if any(finding.level == FAIL for finding in found):
        ctx.exit(1)


def _print(level: str, check: str, text: str, advice: str | None) -> None:
    from perdure.cli.text import clean, paint, paint_state

    click.echo(f"{paint_state(f'{level:4}')}  {paint(f'{check:9}', bold=True)}  {clean(text)}")
    if advice:
        click.echo(f"{'':17}{paint('do: ', dim=True)}{clean(advice)}")
