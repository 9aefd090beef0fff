"""`perdure init`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

#: In perdure/cli/templates/.
_FILES = ("perdure.toml", "jobs.py")


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=".")
def init(folder: Path) -> None:
    """Write a perdure.toml and a jobs.py that run as they are.

    Into DIR, which is made if need be; default: the present folder. Nothing is overwritten.
    """
    from perdure.errors import Refused

    there = [name for name in _FILES if (folder / name).exists() or (folder / name).is_symlink()]
    if there:
        raise Refused(
            f"{folder / there[0]} exists already, and nothing was written. Choose another folder: perdure init DIR"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        text = files("perdure.cli").joinpath("templates", name).read_text("utf-8")
        # "x": a file that came into being in the meantime is not overwritten either.
        with open(folder / name, "x", encoding="utf-8") as file:
            file.write(text)
        click.echo(f"wrote {folder / name}")
    click.echo(_next_steps(folder))


def _next_steps(folder: Path) -> str:
    enter = "" if folder == Path() else f"  cd {folder}\n"
    return f"""
Next:
{enter}  perdure run                             # the daemon; Ctrl-C stops it
and in a second terminal, in the same folder:
  perdure enqueue hello name=Ada --wait
  perdure enqueue flaky                   # fails now and then, and is tried again
  perdure jobs
  perdure status"""
