"""What a command returns: a frozen dataclass that can also be read like a dictionary."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

# `field(metadata=INLINE)`: the entries of this field, a mapping or a result, become entries of the result itself.
INLINE = {"inline": True}
# `field(metadata=NULLABLE)`: None is a value of this field and is kept.
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

    def _values(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None or field.metadata.get("nullable"):
                found |= dict(value) if field.metadata.get("inline") else {field.name: value}
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
