"""Which splits of a saved dataset to train and to validate on."""

from gpt1.console import say
from gpt1.data.datasets import usual_splits


def chosen(path: str, validate: bool) -> tuple[str, str | None]:
    """Of a dataset of several splits the folders to train on and, if there is one and `validate`, to validate on.

    What is chosen is said; anything else is itself, and validates nothing. Raises UserError if no split is called
    train.
    """
    if not (found := usual_splits(path)):
        return path, None
    train, validation = found[0], found[1] if validate else None
    say(f"{path}: training on {train}" + (f", validating on {validation}" if validation else ""))
    return train, validation
