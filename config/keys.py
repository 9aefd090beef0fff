"""Which keys there are: read from the settings' classes, so that nothing is written down twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from msgspec import Struct

from perdure.config.rules import Rule

#: Sections by name, each with the class that holds its settings.
Sections = Mapping[str, type[Struct]]


class Key(Struct, frozen=True):
    """One key of the configuration file. `attribute` is its name in Settings, which carries the unit."""

    section: str
    name: str
    attribute: str
    rule: Any  # a Rule; msgspec wants no protocols

    @property
    def path(self) -> str:
        """As it is called in messages: "workers.count"."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return f"PERDURE_{self.section}_{self.name}".upper()


def keys_of(sections: Sections) -> dict[str, dict[str, Key]]:
    """All keys, by section and name, in the order in which the classes have them."""
    return {section: {key.name: key for key in _keys(section, cls)} for section, cls in sections.items()}


def _keys(section: str, cls: type[Struct]) -> Iterator[Key]:
    for attribute, hint in get_type_hints(cls, include_extras=True).items():
        if get_origin(hint) is Annotated:
            rule: Rule = get_args(hint)[1]
            yield Key(section=section, name=attribute.removesuffix(rule.unit), attribute=attribute, rule=rule)
