"""README.md of a run folder: what the model is, what it was trained on, how good it is, what it is for."""

from typing import Any

CARD = """---
library_name: transformers
pipeline_tag: {pipeline}
tags: [gpt1, openai-gpt]
---

# {title}

{what}

| | |
|---|---|
{rows}

{use}

Trained with gpt1. `gpt1.json` holds every fact above and the hashes of the data.
"""


def model_card(info: dict[str, Any]) -> str:
    """Markdown with the metadata Hugging Face reads, from the facts of gpt1.json."""
    labels = info.get("labels")
    return CARD.format(
        pipeline="text-classification" if labels else "text-generation",
        title=f"GPT-1 for {info['task']}" if labels else "GPT-1 language model",
        what=_classifier(labels) if labels else _language_model(),
        rows="\n".join(f"| {name} | {value} |" for name, value in _facts(info).items()),
        use=_use(labels),
    ).replace("\n\n\n", "\n\n")


def _language_model() -> str:
    return (
        "A Transformer decoder trained to predict the next token of a text (Radford et al. 2018). It continues texts "
        "like those it was trained on, and is the starting point for classifiers."
    )


def _classifier(labels: list[str]) -> str:
    names = ", ".join(_cell(name) for name in labels)
    return f"A pre-trained GPT-1 with a linear layer on its last token, fine-tuned to tell apart: {names}."


def _facts(info: dict[str, Any]) -> dict[str, str]:
    names = ("parameters", "context", "vocabulary", "preset", "recipe", "steps", "tokens_seen", "lm_coef", "seed")
    facts = {name: info[name] for name in names if info.get(name) is not None}
    facts |= {name: value for name, value in info.get("metrics", {}).items() if not isinstance(value, dict | list)}
    return {_cell(name): _cell(value) for name, value in facts.items()}


def _use(labels: list[str] | None) -> str:
    if labels:
        return 'Use it on such texts: `pipeline("text-classification", FOLDER)` or `gpt1 predict`.'
    return (
        "It states nothing but what is likely in its training text, true or not; do not take its output for fact. "
        'Use it with `pipeline("text-generation", FOLDER)` or `gpt1 generate`.'
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())
