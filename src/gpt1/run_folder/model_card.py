"""README.md of a run folder: what the model is, what it was trained on, how good it is, what it is for."""

from pathlib import Path
from typing import Any

from gpt1.run_folder.in_transformers import code, of_long_texts

CARD = """---
library_name: transformers
pipeline_tag: {pipeline}
tags: [gpt1, openai-gpt]
---

# {title}

{what}

{scores}## Training

{facts}

## Use

With gpt1: `{command}`. With transformers:

```python
{code}```

{notes}

## What it is for, and what not

{use}

{made} with gpt1. `gpt1.json` holds every fact above and the hashes of the data.
"""
SCORES = """## Scores

Measured on the validation {unit}.

{table}

"""
LANGUAGE_MODEL = (
    "A Transformer decoder trained to predict the next token of a text (Radford et al. 2018). It continues texts "
    "like those it was trained on, and is the starting point for classifiers."
)
CONTINUE = (
    "It states nothing but what is likely in its training text, true or not; do not take its output for fact. What "
    "its training text says of people, it may repeat."
)
AS_IN_2018 = (
    "Text is cut into words as by OpenAI's release of 2018 (ftfy, then spaCy), which `gpt1` does before it reads "
    "`tokenizer.json`. **Other tools do not**, pipelines of transformers among them: they read `tokenizer.json` alone, "
    "which only comes near to it, so about one line in a hundred gets other ids there."
)
TELLS = {
    "classes": "tell apart: {names}",
    "labels": "tell which of these apply: {names}",
    "score": "tell a score",
    "choice": "tell which of several answers is right",
}
ANSWER = (
    "It is for texts like those it was trained on. It gives an answer for any other text too, and its probabilities "
    "mean nothing there. What held in its training rows by chance or by prejudice, it has learnt as well: score it on "
    "rows of your own with `gpt1 evaluate` before you rely on it, above all where people are concerned."
)
TEXT_COMMAND, ROW_COMMAND = 'gpt1 generate FOLDER "Once upon a time"', "gpt1 predict FOLDER rows.csv"
TRAINING = (
    "converted_from", "parameters", "context", "vocabulary", "preset", "recipe", "steps", "tokens_seen", "lm_coef",
    "lr", "seed",
)  # fmt: skip


def model_card(info: dict[str, Any]) -> str:
    """Markdown with the metadata Hugging Face reads, from the facts of gpt1.json."""
    goal, scores = info.get("goal"), _scores(info)
    return CARD.format(
        pipeline={None: "text-generation", "choice": "multiple-choice"}.get(goal, "text-classification"),
        title=f"GPT-1 for {info['task']}" if goal else "GPT-1 language model",
        what=_tuned(goal, info["labels"]) if goal else LANGUAGE_MODEL,
        scores=SCORES.format(unit="rows" if goal else "text", table=_table(scores)) if scores else "",
        facts=_table({name: info.get(name) for name in TRAINING} | _data(info.get("data") or {})),
        command=ROW_COMMAND if goal else TEXT_COMMAND,
        code=code(info),
        notes="\n\n".join(_notes(info)),
        use=ANSWER if goal else CONTINUE,
        made="Converted" if "converted_from" in info else "Trained",
    )


def _tuned(goal: str, labels: list[str]) -> str:
    tells = TELLS[goal].format(names=", ".join(_cell(name) for name in labels))
    return f"A pre-trained GPT-1 with a linear layer on its last token, fine-tuned to {tells}."


def _scores(info: dict[str, Any]) -> dict[str, Any]:
    """The metrics that are numbers; over several seeds also their mean and deviation."""
    found = {name: value for name, value in info.get("metrics", {}).items() if not isinstance(value, dict | list)}
    for name, over in info.get("seeds", {}).items():
        found[f"{name}, {len(over['values'])} seeds"] = f"{over['mean']:.4g} ± {over['deviation']:.2g}"
    return found


def _data(data: dict[str, Any]) -> dict[str, Any]:
    """What it was trained on, in names and sizes; of a fine-tuned model also what the model under it was."""
    under = (data.get("pretraining") or {}).get("train", {})
    found = {"pre-training tokens": under.get("tokens")}
    for split in ("train", "val", "valid"):
        if not isinstance(of := data.get(split), dict):
            continue
        found[f"data ({split})"] = Path(of["path"]).name if of.get("path") else None  # rows in memory have none
        found |= {f"{name} ({split})": of.get(name) for name in ("rows", "documents", "tokens", "bytes")}
    return found


def _table(facts: dict[str, Any]) -> str:
    rows = (f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items() if value is not None)
    return "\n".join(["| | |", "|---|---|", *rows])


def _notes(info: dict[str, Any]) -> list[str]:
    """What a reader who takes it into transformers has to know."""
    of_words = [AS_IN_2018] if info.get("tokenizer_kind") == "openai2018" else []
    return [*of_words, of_long_texts(info)] if info.get("goal") else of_words


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())
