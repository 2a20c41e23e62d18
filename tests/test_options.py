"""Settings dataclasses taken apart and put together again."""

import dataclasses
import json
from dataclasses import MISSING
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1 import config
from gpt1.cli.main import COMMANDS
from gpt1.errors import UserError
from gpt1.options import build, convert, flat, nearest, options

SETTINGS = [command.settings for command in COMMANDS.values()]


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_setting_has_help_and_a_flag_of_its_own(settings: type) -> None:
    found = options(settings)
    assert all(option.help and option.group for option in found.values())
    assert len({option.flag for option in found.values()}) == len(found)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_default_is_of_its_own_kind(settings: type) -> None:
    for option in options(settings).values():
        if option.default is not MISSING:
            assert convert(option.kind, option.default, option.flag) == option.default


def test_sections_keep_their_names_and_where_they_were_declared() -> None:
    found = options(config.Pretrain)
    assert found["optim.matrix_lr"].flag == "--optim.matrix-lr"
    assert (
        found["optim.matrix_lr"].help
        == "peak learning rate of Muon, on AdamW's scale (match_rms_adamw); unused with adam"
    )
    assert found["seed"].group == config.Command.__doc__
    assert found["data"].default is MISSING


@given(steps=st.none() | st.integers(0), lr=st.floats(0, allow_infinity=False), sample=st.text())
def test_build_undoes_flat_and_json(steps: int | None, lr: float, sample: str) -> None:
    settings = config.Pretrain(data="d", out="o", steps=steps, sample=sample, optim=config.Optim(lr=lr))
    known = options(config.Pretrain)
    written = json.loads(json.dumps(flat(settings)))
    read = {key: convert(known[key].kind, value, key) for key, value in written.items()}
    assert build(config.Pretrain, (), read) == settings


def test_what_is_not_given_keeps_its_default() -> None:
    built = build(config.Pretrain, ("data",), {"data": "d", "out": "o", "model.width": 8})
    assert built.model == dataclasses.replace(config.Model(), width=8)
    assert built.optim == config.Optim()


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, "10_000", 10_000),
        (float, "1e-3", 1e-3),
        (float, 3, 3.0),
        (int | None, None, None),
        (int | None, "3", 3),
        (list[str], "one", ["one"]),
        (list[int], ["1", 2], [1, 2]),
        (Literal["a", "b"], "a", "a"),
        (Literal["hf", "2018"], 2018, "2018"),
        (Literal["auto", "on", "off"], False, "off"),
        (str, 5, "5"),
    ],
)
def test_convert(kind: Any, value: Any, expected: Any) -> None:
    assert convert(kind, value, "--x") == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((int, value) for value in (True, "x", 1.0, None, -1, "-1")),
        *((float, value) for value in ("inf", "nan", True, -0.5, "-1")),
        *((str, value) for value in (None, {}, True)),
        (bool, "yes"),
        (list[int], ["1", "x"]),
        (Literal["a"], "b"),
        (Literal["a"], ["a"]),
        (Literal["a"] | None, "b"),
    ],
)
def test_convert_refuses_by_name(kind: Any, value: Any) -> None:
    with pytest.raises(UserError, match=r"^--x: "):
        convert(kind, value, "--x")


def test_nearest() -> None:
    assert nearest("stpes", ["steps", "epochs"]) == "; did you mean steps?"
    assert nearest("--lr", ["--help", "--optim.lr"]) == "; did you mean --optim.lr?"
    assert nearest("zzz", ["steps", "epochs"]) == ""
    assert nearest("--hours", ["--out", "--steps"]) == "", "dashes are no likeness"
