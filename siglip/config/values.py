"""Between typed configurations and plain values, and what is written as text."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from siglip.config.errors import UserError, did_you_mean
from siglip.config.schema import Config, Rules

T = TypeVar("T")
# What a field takes, for messages.
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dictionaries of any dataclass here; the inverse of `from_dict`."""
    return dataclasses.asdict(config)


def differences(old: Config, new: Config) -> list[str]:
    """`["train.steps: 100 -> 200", ...]` for every field in which two configs differ."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    return [f"{k}: {before[k]!r} -> {after[k]!r}" for k in before if before[k] != after[k]]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def from_dict(
    values: Mapping[str, Any], cls: type[T] = Config, where: str = "config", partial: bool = False
) -> T:
    """The typed form of nested mappings; an unknown, missing or mistyped field is a `UserError`.

    `partial`: fields may be None, in a recipe that takes them from a checkpoint.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise UserError(f"{where}.{name}: unknown field{did_you_mean(name, fields)}")
    kwargs = {}
    for name, field in fields.items():
        if name in values:
            kwargs[name] = _convert(values[name], field.type, f"{where}.{name}", partial)
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{where}.{name}: missing; give {kind_name(_kind(field.type))}")
    return cls(**kwargs)


def _kind(kind: Any) -> type:
    return typing.get_args(kind)[0] if isinstance(kind, types.UnionType) else kind


def kind_name(kind: type) -> str:
    """What a value of this type is called in messages."""
    return _KINDS.get(kind, "a section of fields")


def _convert(value: Any, kind: type, where: str, partial: bool) -> Any:
    if value is None and (partial or isinstance(kind, types.UnionType)):
        return None  # a union is a section that may be None
    if kind == Rules:
        return _rules(value, where)
    kind = _kind(kind)
    if dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return from_dict(value, kind, where, partial)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif type(value) is kind:
        return value
    raise UserError(f"{where}={value!r}: must be {kind_name(kind)}")


def _rules(value: Any, where: str) -> Rules:
    """JSON gives lists, flags and recipes tuples."""
    pairs = [tuple(pair) for pair in value] if isinstance(value, list | tuple) else [()]
    for pair in pairs:
        if [type(x) for x in pair] not in ([str, float], [str, int], [str, bool]):
            raise UserError(
                f"{where}={value!r}: must be a list of (pattern, number), such as "
                "(('img/.*', 0.1),)"
            )
        try:
            re.compile(pair[0])
        except re.error as error:
            raise UserError(
                f"{where}: {pair[0]!r} is no regular expression ({error}); repair it"
            ) from None
    return tuple((pattern, float(number)) for pattern, number in pairs)


def duration(text: str, where: str = "duration") -> tuple[float, str]:
    """`"200M examples" -> (200e6, "examples")`; a number alone counts steps. Units are UNITS."""
    match = re.fullmatch(
        r"(\d+(?:_\d+)*(?:\.\d+)?(?:e\d+)?)\s*([kMB]?)\s*(steps?|examples?|epochs?|%|)", text
    )
    if match is None:
        raise UserError(
            f"{where}={text!r}: is no duration; write for example '20000 steps', '200M examples', "
            "'3 epochs' or, of a run, '5 %'"
        )
    number, factor, unit = match.groups()
    number = float(number) * {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}[factor]
    return number, unit if unit == "%" else (unit.rstrip("s") or "step") + "s"


def window(text: str) -> tuple[int, int] | None:
    """`"100-110" -> (100, 110)`, `"" -> None`."""
    first, _, last = text.partition("-")
    return (int(first), int(last)) if text else None
