"""Commands called with keywords: what they take, what they refuse and in which words, and what `help` shows."""

import inspect
import pydoc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt1
from gpt1 import config
from gpt1.cli.main import COMMANDS
from gpt1.errors import UserError
from gpt1.keywords import command
from gpt1.options import flat, options


def called(kind: Any, *positionals: str) -> Any:
    """A command that returns its settings."""

    @command(kind, *positionals)
    def verb(settings: Any) -> Any:
        """Return the settings."""
        return settings

    return verb


finetune = called(config.Finetune, "run")
pretrain = called(config.Pretrain, "data")
generate = called(config.Generate, "run", "prompts")
FINETUNE = config.Finetune(run="r", train="t.csv", out="o")


def test_keywords_make_the_settings() -> None:
    assert finetune("r", train="t.csv", out="o") == finetune(run="r", train="t.csv", out="o") == FINETUNE
    assert finetune(Path("r"), train=Path("t.csv"), out=Path("o")) == FINETUNE
    assert finetune(FINETUNE) is finetune(settings=FINETUNE) is FINETUNE
    found = finetune("r", train="t.csv", out="o", epochs=np.int64(3), lr=np.float32(0.5), with_words=np.True_, seed=7)
    assert (found.epochs, found.lr, found.with_words, found.seed) == (3, 0.5, True, 7)
    assert type(found.epochs) is int
    assert type(found.with_words) is bool


def test_one_text_is_a_list() -> None:
    prepare = called(config.Prepare, "inputs")
    assert prepare("a.txt", out="d").inputs == prepare(Path("a.txt"), out="d").inputs == ["a.txt"]
    several = (["a", "b"], ("a", "b"), iter(["a", Path("b")]), np.array(["a", "b"]))
    assert all(prepare(names, out="d").inputs == ["a", "b"] for names in several)
    assert generate("r", "a", stop="x").stop == ["x"]
    assert generate("r").prompts == [""]


def test_defaults_are_those_of_the_command_line() -> None:
    assert pretrain("d", out="o") == config.pretrain_defaults(data="d", out="o")
    tiny = config.pretrain_defaults("tiny", "paper", data="d", out="o")
    assert pretrain("d", out="o", preset="tiny", recipe="paper") == tiny


def test_sections_are_dicts_or_dataclasses() -> None:
    found = pretrain("d", out="o", preset="tiny", model={"width": 64}, optim={"lr": 0.5})
    assert (found.model.width, found.model.depth, found.optim.lr) == (64, config.PRESETS["tiny"].depth, 0.5)
    assert found.model.inner == 256, "4 x width"
    assert pretrain("d", out="o", model={"width": 64, "inner": 9}).model.inner == 9
    assert found.optim.method == "muon"
    assert found.model.inner == 4 * 64, "which follows the width unless given"
    assert pretrain("d", out="o", model={"width": 64, "inner": 80}).model.inner == 80
    assert pretrain("d", out="o", model=config.Model(width=48)).model == config.Model(width=48)
    assert pretrain("d", out="o", **{"optim.lr": 0.5}).optim.lr == 0.5


@pytest.mark.parametrize(
    ("verb", "args", "keywords", "answer"),
    [
        (finetune, ("r",), {"trian": "t", "out": "o"}, "verb() has no argument 'trian'; did you mean train?"),
        (pretrain, ("d",), {"out": "o", "width": 64}, "verb() has no argument 'width'; did you mean model.width?"),
        (
            pretrain,
            ("d",),
            {"out": "o", "model": {"widht": 64}},
            "verb() has no argument 'model.widht'; did you mean model.width?",
        ),
        (
            pretrain,
            ("d",),
            {"out": "o", "learning_rate": 1},
            "verb() has no argument 'learning_rate'; it is optim.lr here",
        ),
        (
            pretrain,
            ("d",),
            {"out": "o", "optim": {"learning_rate": 1}},
            "verb() has no argument 'optim.learning_rate'; it is optim.lr here",
        ),
        (finetune, ("r",), {"out": "o"}, "verb() is missing the argument 'train': labelled rows: csv"),
        (finetune, ("r", "t"), {"out": "o"}, "verb() takes only run by position; 2 positional arguments were given"),
        (finetune, ("r",), {"run": "r"}, "verb() got two values for the argument 'run'"),
        (finetune, (FINETUNE,), {"epochs": 3}, "verb() takes gpt1.config.Finetune or keywords, not both"),
        (finetune, (config.Info(path="p"),), {}, "verb() takes gpt1.config.Finetune, not Info"),
        (generate, ("r", [1, 2]), {}, "item 0 of verb() argument 'prompts' must be a string, not 1 (int)"),
        (generate, ("r", {"a"}), {}, "verb() argument 'prompts' must be a list of strings, not {'a'} (set)"),
        (generate, ("r", 3), {}, "verb() argument 'prompts' must be a list of strings, not 3 (int)"),
        (generate, ("r",), {"num": "3"}, "verb() argument 'num' must be an int, not '3' (str)"),
        (generate, ("r",), {"num": True}, "verb() argument 'num' must be an int, not True (bool)"),
        (generate, ("r",), {"num": 1.0}, "verb() argument 'num' must be an int, not 1.0 (float)"),
        (generate, ("r",), {"num": None}, "verb() argument 'num' must be an int, not None"),
        (generate, ("r",), {"stream": 1}, "verb() argument 'stream' must be True or False, not 1 (int)"),
        (
            generate,
            ("r",),
            {"dtype": 16},
            "verb() argument 'dtype' must be one of 'auto', 'bf16', 'fp32', not 16 (int)",
        ),
        (generate, (b"r",), {}, "verb() argument 'run' must be a string, not b'r' (bytes)"),
        (
            finetune,
            ("r",),
            {"train": ["a"], "out": "o"},
            "verb() argument 'train' must be a string, not ['a'] (list); for rows in memory there is gpt1.Classifier(",
        ),
        (pretrain, ("d",), {"out": "o", "steps": "9"}, "verb() argument 'steps' must be an int or None, not '9' (str)"),
        (
            pretrain,
            ("d",),
            {"out": "o", "model": 64},
            "verb() argument 'model' must be gpt1.config.Model or a dict, not 64 (int)",
        ),
        (
            pretrain,
            ("d",),
            {"out": "o", "model": {"width": "64"}},
            "verb() argument 'model.width' must be an int, not '64' (str)",
        ),
    ],
)
def test_what_is_not_understood_is_a_type_error(verb: Any, args: Any, keywords: dict[str, Any], answer: str) -> None:
    with pytest.raises(TypeError) as caught:
        verb(*args, **keywords)
    assert str(caught.value).startswith(answer)


@pytest.mark.parametrize(
    ("keywords", "answer"),
    [
        ({"lr": -1.0}, "lr: expected a number, 0 or more, not -1.0"),
        ({"lr": float("nan")}, "lr: expected a number, 0 or more, not nan"),
        ({"long": "heads"}, "long: unknown value 'heads'; did you mean head?"),
        ({"train": ""}, "train is empty: labelled rows"),
        ({"seed": 2**70}, f"seed {2**70} must be from 0"),
    ],
)
def test_a_value_out_of_range_is_a_value_error(keywords: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValueError) as caught:
        finetune("r", **{"train": "t", "out": "o"} | keywords)
    assert isinstance(caught.value, UserError)
    assert str(caught.value).startswith(answer)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_setting(name: str) -> None:
    verb, function = COMMANDS[name], getattr(gpt1, name)
    parameters = inspect.signature(function).parameters
    by_position = [key for key, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert by_position == list(verb.positionals), "as on the command line"
    for key, option in options(verb.settings).items():
        assert key.partition(".")[0] in parameters
        assert f"{key.rpartition('.')[2]} : " in function.__doc__
        assert " ".join(option.help.split())[:40] in " ".join(function.__doc__.split())
    shown = pydoc.plain(pydoc.render_doc(function))
    assert f"{name}({', '.join(f'{key}: ' for key in verb.positionals)[:5]}" in shown
    assert inspect.signature(function).return_annotation.__name__ in function.__doc__


def test_a_default_that_help_shows_is_the_one_in_effect() -> None:
    shown = {key: one.default for key, one in inspect.signature(gpt1.pretrain).parameters.items()}
    made = flat(pretrain("d", out="o"))
    assert {key: made[key] for key in shown.keys() & made.keys() - {"data", "out"}} == {
        key: value for key, value in shown.items() if key in made.keys() - {"data", "out"}
    }
    assert shown["batch"] == 16
    assert shown["model"] == {}
