"""Results are dataclasses and mappings at once."""

import copy
import json
import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gpt1.results import INLINE, Result


@dataclass(frozen=True)
class Part(Result):
    lr: float


@dataclass(frozen=True)
class Whole(Result):
    task: str
    scores: dict[str, Any] = field(metadata=INLINE)
    seconds: float
    parts: list[Part]
    seeds: int | None = None


WHOLE = Whole("classification", {"accuracy": 0.5, "f1": 0.25}, 2.0, [Part(0.1)])


def test_it_reads_like_a_dictionary() -> None:
    assert list(WHOLE) == ["task", "accuracy", "f1", "seconds", "parts"]
    assert WHOLE["accuracy"] == WHOLE.accuracy == 0.5
    assert WHOLE["parts"][0]["lr"] == WHOLE.parts[0].lr == 0.1
    assert WHOLE.to_json() == {
        "task": "classification", "accuracy": 0.5, "f1": 0.25, "seconds": 2.0, "parts": [{"lr": 0.1}],
    }  # fmt: skip
    assert WHOLE.get("seeds", 3) == 3, "what does not apply is left out"
    assert WHOLE.seeds is None


def test_json_makes_it_again() -> None:
    @dataclass(frozen=True)
    class Holder(Result):
        by_name: dict[str, Part]
        parts: list[Part] | None
        part: Part
        counts: list[list[int]]
        seeds: int | None = None

    holder = Holder({"a": Part(0.1)}, [Part(0.2), Part(0.3)], Part(0.4), [[1, 2], [3, 4]])
    assert Holder.from_json(json.loads(json.dumps(holder.to_json()))) == holder
    assert Holder.from_json(holder.to_json() | {"parts": None, "more": 1}) == replace(holder, parts=None)


def test_what_it_does_not_hold() -> None:
    for name in ("seeds", "scores", "recall"):
        with pytest.raises(KeyError):
            WHOLE[name]
    with pytest.raises(AttributeError, match="'Whole' object has no attribute 'recall'"):
        WHOLE.recall  # noqa: B018


def test_it_is_copied_and_pickled() -> None:
    assert copy.deepcopy(WHOLE) == WHOLE
    assert pickle.loads(pickle.dumps(WHOLE)) == WHOLE


def test_it_is_printed_in_brief() -> None:
    shown = "Whole(task='classification', accuracy=0.5, f1=0.25, seconds=2, parts=[Part(...)])"
    assert repr(WHOLE) == shown
    many = replace(WHOLE, task="a" * 500, seconds=1 / 3, parts=[Part(0.1)] * 500, scores={"curve": list(range(1000))})
    assert len(repr(many)) < 200
    assert "seconds=0.3333" in repr(many)
