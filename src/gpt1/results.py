"""What a command returns: a frozen dataclass that can also be read like a dictionary."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Result(Mapping[str, Any]):
    """Base of all results: `result.accuracy` and `result["accuracy"]` are the same.

    A field that is None does not apply and is left out of the mapping and of `to_json`. Subclasses are the single
    description of what `--json` prints; `docs/formats.md` is tested against them.
    """

    def __getitem__(self, name: str) -> Any:
        if name not in self._names():
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def to_json(self) -> dict[str, Any]:
        """Plain values, nested results included, in the order of the fields."""
        return {name: _plain(getattr(self, name)) for name in self._names()}

    def _names(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
