"""The settings for the kind `shell`: which programs it may run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Struct

from perdure.config.parse import Reader
from perdure.config.rules import Texts, show, text_of

if TYPE_CHECKING:
    from perdure.config.settings import Settings

#: The ready-made kind that runs commands.
SHELL: Final = "shell"


class ProgramPatterns(Texts, frozen=True):
    """Patterns for absolute paths of programs."""

    def read_item(self, value: object) -> str:
        """A path in which `*` stands for anything but "/", and `**` for anything."""
        text = text_of(value)
        if not text.startswith("/"):
            raise ValueError(f'must be the absolute path of a program, such as "/usr/local/bin/*", not {show(value)}')
        if text != os.path.normpath(text):
            raise ValueError(f'must be a path as it is compared, "{os.path.normpath(text)}", not {show(value)}')
        return text


class ShellSettings(Struct, frozen=True):
    """[shell]. Nothing is allowed unless it says so."""

    allow: Annotated[tuple[str, ...], ProgramPatterns()] = ()


def check_shell(settings: Settings, reader: Reader) -> None:
    """Note what no key can tell alone: the kind is on, and could run nothing."""
    if SHELL in settings.daemon.builtin_kinds and not settings.shell.allow:
        message = 'shell may run nothing; say what, such as allow = ["/usr/local/bin/*"] in the section [shell]'
        reader.blame("daemon", "builtin_kinds", SHELL, message)
