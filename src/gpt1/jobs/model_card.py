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

{made} with gpt1. `gpt1.json` holds every fact above and the hashes of the data.
"""
LANGUAGE_MODEL = (
    "A Transformer decoder trained to predict the next token of a text (Radford et al. 2018). It continues texts "
    "like those it was trained on, and is the starting point for classifiers."
)
CONTINUE = (
    "It states nothing but what is likely in its training text, true or not; do not take its output for fact. "
    'Use it with `pipeline("text-generation", FOLDER)` or `gpt1 generate`.'
)
TELLS = {
    "classes": "tell apart: {names}",
    "labels": "tell which of these apply: {names}",
    "score": "tell a score",
    "choice": "tell which of several answers is right",
}
CLASSIFY = 'Use it on such texts: `pipeline("text-classification", FOLDER)` or `gpt1 predict`.'
SCORE = (
    "Use it on such texts with `gpt1 predict`. In transformers its one logit counts deviations from the mean: "
    "the score is {mean:.6g} + {scale:.6g} times the logit."
)
BOTH_ORDERS = "Its logits are the sum of those of both orders of the two texts: call it twice and add them."
CHOOSE = (
    "Use it on such rows with `gpt1 predict`. In transformers it is an `OpenAIGPTDoubleHeadsModel`: encode the context "
    "with each answer as a pair, and let `mc_token_ids` point at the last token of each."
)


def model_card(info: dict[str, Any]) -> str:
    """Markdown with the metadata Hugging Face reads, from the facts of gpt1.json."""
    goal = info.get("goal")
    return CARD.format(
        pipeline={None: "text-generation", "choice": "multiple-choice"}.get(goal, "text-classification"),
        title=f"GPT-1 for {info['task']}" if goal else "GPT-1 language model",
        what=_tuned(goal, info["labels"]) if goal else LANGUAGE_MODEL,
        rows="\n".join(f"| {name} | {value} |" for name, value in _facts(info).items()),
        use=_use(info) if goal else CONTINUE,
        made="Converted" if "converted_from" in info else "Trained",
    )


def _tuned(goal: str, labels: list[str]) -> str:
    tells = TELLS[goal].format(names=", ".join(_cell(name) for name in labels))
    return f"A pre-trained GPT-1 with a linear layer on its last token, fine-tuned to {tells}."


def _facts(info: dict[str, Any]) -> dict[str, str]:
    names = (
        "converted_from", "parameters", "context", "vocabulary", "preset", "recipe", "steps", "tokens_seen", "lm_coef",
        "seed",
    )  # fmt: skip
    facts = {name: info[name] for name in names if info.get(name) is not None}
    facts |= {name: value for name, value in info.get("metrics", {}).items() if not isinstance(value, dict | list)}
    return {_cell(name): _cell(value) for name, value in facts.items()}


def _use(info: dict[str, Any]) -> str:
    if info["goal"] == "choice":
        return CHOOSE
    use = SCORE.format(**info) if info["goal"] == "score" else CLASSIFY
    return f"{use} {BOTH_ORDERS}" if info["task"] == "similarity" else use


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())
