"""What a command returns: a frozen dataclass that can also be read like a dictionary."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

# `field(metadata=INLINE)`: the named values of this field, a mapping or a result, stand among the result's own.
INLINE = {"inline": True}
# `field(metadata=NULLABLE)`: None is a value of this field, which is kept.
NULLABLE = {"nullable": True}


@dataclass(frozen=True)
class Result(Mapping[str, Any]):
    """Base of all results: `result.accuracy` and `result["accuracy"]` are the same.

    A field that is None does not apply and is left out of the mapping and of `to_json`, unless it is nullable.
    Subclasses are the single description of what `--json` prints; `docs/formats.md` is tested against them.
    """

    def __getitem__(self, name: str) -> Any:
        return self._values()[name]

    def __getattr__(self, name: str) -> Any:
        # Called only for what is no field: a value of an inline field, if the object is complete.
        values = self._values() if not name.startswith("_") and self.__dict__.keys() >= self._field_names() else {}
        if name in values:
            return values[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def to_json(self) -> dict[str, Any]:
        """Plain values, nested results included, in the order of the fields."""
        return {name: _plain(value) for name, value in self._values().items()}

    def _values(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in fields(self):
            if (value := getattr(self, one.name)) is not None or one.metadata.get("nullable"):
                found |= dict(value) if one.metadata.get("inline") else {one.name: value}
        return found

    def _field_names(self) -> set[str]:
        return {one.name for one in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
