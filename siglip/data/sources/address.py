"""One string names any data: `PLACE[?option=value&...]`, several joined by ` + `."""

import dataclasses
import math
import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

from siglip.config import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Options:
    """What an address says after its `?`. Each format takes some of them.

    Attributes:
      image: the column or feature that holds the picture, or the path of its file.
      caption: the columns, features or fields that hold captions, all of them.
      label: the field whose value `template` makes a caption from.
      template: sentences, each of them one caption, with `{}` for the label.
      sep: between the columns of a table, one character.
      root: the folder that relative paths of a table start from.
      split: which split of a dataset that has several.
      weight: the share of draws from this part of a mixture, relative to the other parts.
      key: the column or feature that names a sample.
    """

    image: str = ""
    caption: tuple[str, ...] = ()
    label: str = ""
    template: tuple[str, ...] = ()
    sep: str = ""
    root: str = ""
    split: str = ""
    weight: float | None = None
    key: str = ""

    def refuse_others(self, place: str, takes: Iterable[str]) -> None:
        """Refuse the options that are set and not among `takes`, or those of every format."""
        takes = [*dict.fromkeys([*takes, "label", "template", "weight"])]
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default and field.name not in takes:
                raise UserError(
                    f"{place}?{field.name}=: no option of this format, which takes "
                    f"{', '.join(takes)}; remove it"
                )


_NAMES = [field.name for field in dataclasses.fields(Options)]
_SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


def parse(address: str) -> list[tuple[str, Options]]:
    """Places and their options, in order.

    A `?` begins options only before `name=`, so that it still stands for a character in a pattern.
    Values are percent-decoded: %26 is `&`, %2B `+`, %2C a comma and %7C a bar within a name or
    template. What exists as a file or folder is one place, whatever characters it has.
    """
    if not address.strip():
        raise UserError("no data given; set config.data.train, or what it is for, to a place")
    if os.path.exists(address):
        return [(address, Options())]
    return [_part(part.strip()) for part in address.split(" + ")]


def _part(part: str) -> tuple[str, Options]:
    match = re.search(r"\?(?=\w+=)", part)
    place, query = (part[: match.start()], part[match.end() :]) if match else (part, "")
    if not all(place.split("::")):
        beside = "beside `::`" if place else "before the options or beside ` + `"
        raise UserError(f"{part!r}: no place {beside}; give a path")
    options = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if name not in _NAMES:
            raise UserError(f"{place}?{pair}: unknown option {name!r}{did_you_mean(name, _NAMES)}")
        if name in options:
            raise UserError(f"{place}?{pair}: {name} is given twice; join names with a comma")
        if not equals or not value:
            raise UserError(f"{place}?{pair}: no value; write {name}=VALUE")
        options[name] = _value(name, value, f"{place}?{pair}")
    if "template" in options and "label" not in options:
        raise UserError(f"{place}?template=: nothing to put into it; add label=FIELD")
    if "caption" in options and "label" in options:
        raise UserError(f"{place}: captions come from caption= or from label=; remove one")
    place = "::".join(os.path.expanduser(name) for name in place.split("::"))
    return place, Options(**options)


def _value(name: str, value: str, where: str) -> str | float | tuple[str, ...]:
    if name == "caption":
        return tuple(unquote(field) for field in value.split(","))
    if name == "template":
        templates = tuple(unquote(template) for template in value.split("|"))
        for template in templates:
            if "{}" not in template:
                raise UserError(f"{where}: {template!r} has no {{}}; write it where the label goes")
        return templates
    value = unquote(value)
    if name == "sep":
        separator = _SEPARATORS.get(value, value)
        if len(separator) != 1:
            words = ", ".join(_SEPARATORS)
            raise UserError(f"{where}: not one character; write it, or one of {words}")
        return separator
    if name == "weight":
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UserError(f"{where}: not a share of draws; write a number above 0")
        return weight
    return os.path.expanduser(value) if name == "root" else value
