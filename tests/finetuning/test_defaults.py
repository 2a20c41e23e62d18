"""The options of a fine-tuning: those of the command, and what is chosen where they leave it open."""

from dataclasses import fields

import pytest

from gpt1.config import Finetune
from gpt1.finetuning.defaults import FitOptions, resolve_defaults


def test_options_are_settings_of_the_command() -> None:
    settings = {field.name: (field.type, field.default) for field in fields(Finetune)}
    for field in fields(FitOptions):
        kind, default = settings[field.name]
        wider = {"class_weights": str | dict[str, float]}  # an estimator also gives a weight by class
        assert (wider.get(field.name, kind), default) == (field.type, field.default), field.name
    assert FitOptions.of(Finetune(run="", train="", out="", lr=0.5, seed=3)) == FitOptions(lr=0.5, seed=3)


@pytest.mark.parametrize(
    ("rows", "width", "expected"),
    [
        (100_000, 768, (32, 3, 6.25e-5)),
        (1_000, 384, (32, 4, 1e-3)),
        (1_000, 640, (32, 4, 6.25e-5 * 1.2**4)),
        (1_000, 192, (32, 4, 1e-3)),
        (96, 768, (8, 10, 6.25e-5)),
        (1, 768, (8, 120, 6.25e-5)),
    ],
)
def test_what_is_left_open_is_chosen(rows: int, width: int, expected: tuple[int, int, float]) -> None:
    found = resolve_defaults(FitOptions(), rows, width)
    assert (found.batch, found.epochs, pytest.approx(found.lr)) == expected


def test_what_is_resolved_stays() -> None:
    found = resolve_defaults(FitOptions(micro_batch=64), 1_000, 384)
    assert found.micro_batch == found.batch == 32
    assert resolve_defaults(found, 1, 64) == found
    assert resolve_defaults(FitOptions(from_scratch=True), 1_000, 384).lr == 0, "a sweep chooses it"
