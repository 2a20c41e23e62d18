"""What a command returns: a frozen dataclass that can also be read like a dictionary."""

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self, get_args, get_origin, get_type_hints

from gpt1.options import without_none

# `field(metadata=INLINE)`: the entries of this field, a mapping or a result, become entries of the result itself.
INLINE = {"inline": True}
# `field(metadata=NULLABLE)`: None is a value of this field and is kept.
NULLABLE = {"nullable": True}


class _Brief(reprlib.Repr):
    """Values as `repr(result)` shows them: floats to four digits, the beginning of long texts and collections."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxstring = 1, 4, 3, 3, 60

    def repr_float(self, x: float, level: int) -> str:
        return f"{x:.4g}"

    def repr_instance(self, x: Any, level: int) -> str:
        return f"{type(x).__name__}(...)" if isinstance(x, Result) else super().repr_instance(x, level)


_brief = _Brief()


@dataclass(frozen=True)
class Result(Mapping[str, Any]):
    """Base of all results: `result.accuracy` and `result["accuracy"]` are the same.

    A field that is None does not apply and is left out of the mapping and of `to_json`, unless it is nullable.
    Subclasses are the single description of what `--json` prints; `docs/formats.md` is tested against them.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]  # else `dataclass` makes one of every value

    def __repr__(self) -> str:
        """Return the entries in brief, fit for a notebook."""
        return f"{type(self).__name__}({', '.join(f'{key}={_brief.repr(one)}' for key, one in self.items())})"

    def __getitem__(self, name: str) -> Any:
        return self._values()[name]

    def __getattr__(self, name: str) -> Any:
        # Called for names that are not attributes: look among the entries of inline fields. While the object is being
        # unpickled its fields are missing, and looking would recurse.
        is_complete = all(field.name in self.__dict__ for field in fields(self))
        values = self._values() if is_complete and not name.startswith("_") else {}
        if name in values:
            return values[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def to_json(self) -> dict[str, Any]:
        """Return the entries as JSON values, in the order of the fields."""
        return {name: _plain(value) for name, value in self._values().items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the result whose `to_json` these values are; it must have no inline fields. Others are left out."""
        hints = get_type_hints(cls)
        return cls(**{field.name: _typed(hints[field.name], values.get(field.name)) for field in fields(cls)})

    def _values(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None or field.metadata.get("nullable"):
                found |= dict(value) if field.metadata.get("inline") else {field.name: value}
        return found


def _typed(kind: Any, value: Any) -> Any:
    """Return a JSON value as `kind` holds it, with the results inside it; `kind` has no alternative but None."""
    if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, Result):
        return kind.from_json(value)
    if kind is not without_none(kind):
        return _typed(without_none(kind), value)
    if get_origin(kind) is dict and isinstance(value, Mapping):
        return {name: _typed(get_args(kind)[1], one) for name, one in value.items()}
    return [_typed(get_args(kind)[0], one) for one in value] if get_origin(kind) is list and value else value


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
