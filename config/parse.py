"""From the text of a file, and from the environment, to checked values; all mistakes are collected."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from perdure.config.keys import Key
from perdure.config.lines import KeyPath, find_lines
from perdure.config.mistakes import Mistake
from perdure.config.rules import BadItem, did_you_mean, show
from perdure.redact import redact

#: All keys, by section and name.
Keys = Mapping[str, Mapping[str, Key]]
#: Checked values, by section and attribute.
Values = dict[str, dict[str, object]]

#: More than this is no configuration file: /dev/zero, a database.
MAX_FILE_BYTES: Final = 1 << 20

#: Variables that begin with PERDURE_ and are no keys.
_NOT_KEYS: Final = frozenset({"PERDURE_CONFIG", "PERDURE_SOCKET"})
_NOT_KEYS_PREFIX: Final = "PERDURE_TEST_"


class Reader:
    """Collects values, where they came from, and the mistakes met on the way.

    `families` are the sections that have sections of any name in them, [breakers.NAME], with the keys of these; what
    was read of them is in `tables`, by family, name and attribute.
    """

    def __init__(self, keys: Keys, families: Keys) -> None:
        self.keys = keys
        self.families = families
        self.values: Values = {section: {} for section in keys}
        self.tables: dict[str, Values] = {family: {} for family in families}
        self.mistakes: list[Mistake] = []
        self._origins: dict[str, tuple[str, int | None]] = {}

    # --- where values come from

    def read_file(self, path: Path, name: str | None = None) -> None:
        """Take in a TOML file; mistakes call it by `name`."""
        source = name or str(path)
        try:
            raw = _read_bytes(path)
            text = raw.decode("utf-8-sig")
        except OSError as error:
            self._add(None, "", None, _why_unreadable(path, error), source)
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            byte = error.object[error.start]
            self._add(line, "", None, f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8", source)
        else:
            self.read_text(text, source)

    def read_text(self, text: str, source: str) -> None:
        """Take in the text of a TOML file."""
        import tomllib  # only files need it

        if len(text) > MAX_FILE_BYTES:
            self._add(None, "", None, "is larger than 1MiB; is this a configuration file?", source)
            return
        try:
            tables = tomllib.loads(text)
            lines = find_lines(text)
        except tomllib.TOMLDecodeError as error:
            self._add(*_syntax(text, str(error)), source)
        except (RecursionError, ValueError):  # ValueError: a number of thousands of digits, a 30th of February
            self._add(None, "", None, "has values nested too deeply, too long, or impossible", source)
        else:
            self._read_tables(tables, lines, source)

    def read_environ(self, environ: Mapping[str, str]) -> None:
        """Take in the PERDURE_… variables."""
        by_variable = {key.variable: key for section in self.keys.values() for key in section.values()}
        for variable in sorted(environ):
            if variable in _NOT_KEYS or not variable.startswith("PERDURE_") or variable.startswith(_NOT_KEYS_PREFIX):
                continue
            key, text = by_variable.get(variable), environ[variable]
            if key is not None:
                self._set(key, text, key.rule.read_text, variable, None, {}, self.values[key.section])
            else:
                known = (*by_variable, *_NOT_KEYS)
                hint = did_you_mean(variable, known) or "; they are called PERDURE_<SECTION>_<KEY>."
                for family in self.families:
                    if variable.startswith(f"PERDURE_{family}_".upper()):
                        hint += f" Sections such as [{family}.NAME] have none"
                self._add(None, "", text, f"unknown variable{hint}".rstrip("."), show(variable, 120).strip('"'))

    def read_overrides(self, overrides: Mapping[str, object], source: str) -> None:
        """Take in values by "section.key", as from options."""
        for path, value in overrides.items():
            section, _, name = path.partition(".")
            key = self.keys.get(section, {}).get(name)
            if key is None:
                self._add(None, path, value, "unknown key" + self._near_key(section, name), source)
            else:
                self._set(key, value, key.rule.read, source, None, {}, self.values[section])

    # --- what else is checked

    def blame(self, section: str, name: str, value: object, message: str) -> None:
        """Note a mistake in a value that was fine by itself, where it was set."""
        path = f"{section}.{plain(name)}"
        source, line = self._origins.get(path, ("", None))
        self._add(line, path, value, message, source)

    def was_set(self, section: str, name: str) -> bool:
        """Whether a key has a value other than its default."""
        return f"{section}.{name}" in self._origins

    # --- one table, one value

    def _read_tables(self, tables: Mapping[str, object], lines: Mapping[KeyPath, int], source: str) -> None:
        for section, table in tables.items():
            line = lines.get((section,))
            if section not in self.keys and section not in self.families:
                self._unknown_section(section, table, line, source)
            elif not isinstance(table, dict):
                self._add(line, section, table, f"must be a section, [{section}], not {show(table)}", source)
            else:
                for name, value in table.items():
                    self._read_key(section, name, value, lines, source)

    def _read_key(self, section: str, name: str, value: object, lines: Mapping[KeyPath, int], source: str) -> None:
        key = self.keys.get(section, {}).get(name)
        line = lines.get((section, name))
        if key is not None:
            self._set(key, value, key.rule.read, source, line, lines, self.values[section])
        elif section in self.families and isinstance(value, dict):
            self._read_member(section, name, value, lines, source)
        elif section in self.keys:
            message = "unknown key" + self._near_key(section, name)
            self._add(line, f"{section}.{plain(name)}", value, message, source)
        else:
            message = f"unknown key; there are only sections in it, [{section}.NAME]"
            self._add(line, f"{section}.{plain(name)}", value, message, source)

    def _read_member(
        self, family: str, name: str, table: Mapping[str, object], lines: Mapping[KeyPath, int], source: str
    ) -> None:
        """A section such as [breakers.NAME]."""
        section = f"{family}.{plain(name)}"
        self._origins[section] = (source, lines.get((family, name)))
        into = self.tables[family].setdefault(name, {})
        for part, value in table.items():
            key, line = self.families[family].get(part), lines.get((family, name, part))
            if key is not None:
                own = msgspec.structs.replace(key, section=section)
                self._set(own, value, key.rule.read, source, line, {}, into)
                continue
            hint = self._near_key(family, part)
            if isinstance(value, dict):
                hint = f"; a name with dots stands in quotes: [{family}.{quoted(f'{name}.{part}')}]"
            self._add(line, f"{section}.{plain(part)}", value, f"unknown key{hint}", source)

    def _unknown_section(self, name: str, table: object, line: int | None, source: str) -> None:
        if isinstance(table, dict):
            known = tuple(dict.fromkeys((*self.keys, *self.families)))
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            self._add(line, plain(name), None, f"unknown section{hint}", source)
        else:
            self._add(line, plain(name), table, f"unknown key outside of any section{self._elsewhere(name)}", source)

    def _set(
        self,
        key: Key,
        value: object,
        read: Callable[..., object],
        source: str,
        line: int | None,
        lines: Mapping[KeyPath, int],
        into: dict[str, object],
    ) -> None:
        try:
            into[key.attribute] = read(value)
            self._origins[key.path] = (source, line)
        except ValueError as error:
            if isinstance(error, BadItem):
                line = lines.get((key.section, key.name, error.index), line)
            self._add(line, key.path, value, str(error), source)

    def _add(self, line: int | None, key: str, value: object, message: str, source: str) -> None:
        shown = redact(key or source, value)
        self.mistakes.append(Mistake(line=line, key=key, value=shown, message=message, source=source))

    def _near_key(self, section: str, name: str) -> str:
        """What was meant, if there is something like it in the section, or the same in another one."""
        known = tuple(self.keys.get(section) or self.families.get(section) or ())
        return did_you_mean(name, known) or self._elsewhere(name) or f"; there are {', '.join(known)}" * bool(known)

    def _elsewhere(self, name: str) -> str:
        """The sections that have a key of this name."""
        homes = [f'"{section}.{name}"' for section, keys in self.keys.items() if name in keys]
        return f", did you mean {' or '.join(homes)}?" if homes else ""


def quoted(name: str) -> str:
    """A name as TOML wants it in a section's title: in quotes, if it has more in it than a bare key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else msgspec.json.encode(name).decode()


def plain(name: str) -> str:
    """A name from a file as it may stand in a message."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else show(name)


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _why_unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return "is a link to a file that does not exist"
        return "there is no such file; `perdure init` makes one"
    if isinstance(error, IsADirectoryError):
        return f"is a folder; name the file in it, such as {path / 'perdure.toml'}"
    if isinstance(error, PermissionError):
        return "this user may not read it; check its owner and permissions, and those of its folders"
    return f"cannot be read: {error.strerror or error}"


def _syntax(text: str, complaint: str) -> tuple[int | None, str, None, str]:
    """Line, key, value and message for what tomllib says: "… (at line 3, column 9)"."""
    place = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", complaint, re.DOTALL)
    if place is None:
        return None, "", None, f"is not valid TOML: {complaint}"
    what, line, column = place.groups()
    number = int(line) if line else text.rstrip().count("\n") + 1
    source_lines = text.split("\n")
    content = source_lines[number - 1] if number <= len(source_lines) else ""
    hint = ""
    if re.search(r"=\s*[0-9.]+\s*[A-Za-z]+\s*(#|$)", content):
        hint = '; durations and sizes stand in quotes, like "30s"'
    elif re.search(r"=\s*[A-Za-z/.~]", content):
        hint = "; texts stand in quotes"
    at = f"column {column}" if column else "end of the file"
    return number, "", None, f"is not valid TOML, {at}: {what[0].lower()}{what[1:]}{hint}"
