"""The tensors of a safetensors file, each read when it is asked for: no second copy of a model in memory."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt1.errors import UserError


class Weights(Mapping[str, Tensor]):
    """Name -> tensor. The file is mapped into memory for one tensor at a time: what was read can be given back."""

    def __init__(self, path: Path) -> None:
        """Raises UserError for a file that is missing or damaged: cut short, or with a header that does not fit it."""
        self.path = path
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            with safe_open(path, framework="pt") as file:
                self._names = frozenset(file.keys())
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)
