"""Commands of others as arguments: what stands after `--` is theirs, options and all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from perdure.errors import UsageError

if TYPE_CHECKING:
    import msgspec

#: Where the words after `--` are kept, in ctx.meta.
_AFTER = "perdure.after_dashes"


class AfterDashes(click.Command):
    """A command that knows which of its words stood after `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, which takes the dashes away."""
        if "--" in args:
            place = args.index("--")
            if not ctx.resilient_parsing:
                # An option before them that has no value would take them for it.
                self.make_parser(ctx).parse_args(args[:place])
            ctx.meta[_AFTER] = args[place + 1 :]
        return super().parse_args(ctx, args)


def words_after_dashes(ctx: click.Context) -> list[str] | None:
    """What stood after `--`; None if there was none."""
    words: list[str] | None = ctx.meta.get(_AFTER)
    return words


def shell_arguments(words: Sequence[str]) -> dict[str, msgspec.Raw]:
    """The arguments of the kind `shell` for this command, to be run where we are. Raises UsageError."""
    import msgspec

    if not words[0]:
        raise UsageError("the name of the program is empty; was a variable not set?")
    try:
        values = {"argv": words, "cwd": os.getcwd()}
        return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}
    except FileNotFoundError:
        raise UsageError("the folder that you are in is gone; go to another one") from None
    except UnicodeEncodeError:
        raise UsageError("a command with bytes in it that are no text in UTF-8 cannot be enqueued") from None


def from_here(pair: str) -> str:
    """`cwd=sub` starts from where the caller is, not from where the daemon is; other pairs are as they were."""
    return f"cwd={os.path.abspath(pair[4:])}" if pair.startswith("cwd=") and len(pair) > 4 else pair
