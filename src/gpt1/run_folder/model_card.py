"""README.md of a run folder: what the model is, what it was trained on, how good it is, and how to use it.

Its Python works with transformers alone and gives what `gpt1 predict` gives; FOLDER stands for the run.
"""

from pathlib import PureWindowsPath
from typing import Any

from gpt1.errors import readable
from gpt1.run_folder.metadata import FinetuningData, RunMetadata, SplitSummary
from gpt1.run_folder.starter import PACKAGE, STARTER
from gpt1.tasks.metrics import rows_alone

CARD = """---
library_name: transformers
pipeline_tag: {pipeline}
tags: [gpt1, openai-gpt]
---

# {title}

{what}

{scores}## Training

{training}

## Use

With gpt1: `{command}`. With transformers:

```python
{code}```

{notes}## Intended use and limits

{use}

{made} with gpt1. `gpt1.json` holds everything above and the hashes of the data.
"""
SCORES = """## Scores

Measured on the validation {unit}.

{table}

"""
LANGUAGE_MODEL = (
    "A Transformer decoder trained to predict the next token of a text (Radford et al. 2018). It continues texts "
    "like those it was trained on, and is the starting point for classifiers."
)
LANGUAGE_MODEL_USE = (
    "It writes what is likely in its training text, true or not; do not take its output for fact. It may repeat the "
    "views of people in its training text."
)
WORDS_OF_2018 = (
    "Text is split into words as in OpenAI's release of 2018 (ftfy, then spaCy), which `gpt1` does before it applies "
    "`tokenizer.json`. **Other tools do not**, transformers pipelines included: they read only `tokenizer.json`, "
    "which approximates it, so about one line in a hundred gets different ids there."
)
WITH_WORDS = (
    "gpt1 adds the scores of words alone (`words.json`: TF-IDF and a linear model) to those of the network, with "
    "weight {weight:g}; the scores above, and thresholds in `gpt1.json`, are those of the sum. **transformers runs the "
    "network alone**, so its answers differ."
)
PREDICTS = {
    "classes": "distinguish these classes: {names}",
    "labels": "predict which of these labels apply: {names}",
    "score": "predict a score",
    "choice": "choose the right one of several answers",
}
CLASSIFIER_USE = (
    "Use it for texts like those it was trained on. It gives an answer for any other text too, but its probabilities "
    "mean nothing there. It has also learnt the coincidences and prejudices of its training rows: score it on rows of "
    "your own with `gpt1 evaluate` before you rely on it, especially where people are concerned."
)
GENERATE_COMMAND, PREDICT_COMMAND = 'gpt1 generate FOLDER "Once upon a time"', "gpt1 predict FOLDER rows.csv"
# Fields of gpt1.json in the card's table.
TRAINING = (
    "converted_from", "parameters", "context", "vocabulary", "preset", "recipe", "steps", "tokens_seen", "lm_coef",
    "lr", "seed",
)  # fmt: skip
# Metrics of a run that say how it was trained, not how good it is.
OF_TRAINING = ("task_loss", "lm_loss", "epoch", "temperature", "seconds", "tokens_per_second")
LONG = {
    "head": "gpt1 reads the beginning; transformers does too, with `truncation=True`",
    "tail": "gpt1 reads the end; transformers does too, with `truncation=True`",
    "head+tail": "gpt1 reads the beginning and the end, transformers only the beginning, so their answers differ",
    "windows": "gpt1 reads all of it in parts and averages, transformers reads only the beginning, so their answers "
    "differ",
}

GENERATE = """from transformers import pipeline

write = pipeline("text-generation", "FOLDER")
print(write("Once upon a time", max_new_tokens=40, do_sample=True)[0]["generated_text"])
"""
CLASSIFY = """from transformers import pipeline

classify = pipeline("text-classification", "FOLDER")
print(classify({row}, truncation=True, top_k=None))
"""
LABELS = """import json
from transformers import pipeline

classify = pipeline("text-classification", "FOLDER")
found = classify(["A text.", "Another text."], truncation=True, top_k=None)
with open("FOLDER/gpt1.json", encoding="utf-8") as file:
    metadata = json.load(file)
thresholds = dict(zip(metadata["labels"], metadata["thresholds"]))
print([[one["label"] for one in row if one["score"] >= thresholds[one["label"]]] for row in found])
"""
SCORE = """from transformers import pipeline

predict = pipeline("text-classification", "FOLDER", function_to_apply="none")
print([{mean!r} + {scale!r} * found["score"] for found in predict(["A text.", "Another text."], truncation=True)])
"""
BOTH_ORDERS = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("FOLDER").eval()

def logits(texts, others):
    return model(**tokenizer(texts, others, truncation=True, padding=True, return_tensors="pt")).logits

texts, others = ["A text.", "One more."], ["The text it is compared with.", "Another."]
with torch.no_grad():
    both = logits(texts, others) + logits(others, texts)
"""
SIMILAR_CLASSES = """print([dict(zip(model.config.id2label.values(), row.tolist())) for row in both.softmax(-1)])
"""
SIMILAR_SCORE = """print(({mean!r} + {scale!r} * both[:, 0]).tolist())
"""
CHOOSE = """import torch
from transformers import AutoTokenizer, OpenAIGPTDoubleHeadsModel

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = OpenAIGPTDoubleHeadsModel.from_pretrained("FOLDER").eval()
context, answers = "A context.", ["One answer.", "Another answer.", "A third."]
inputs = tokenizer([context] * len(answers), answers, truncation=True, padding=True, return_tensors="pt")
last = inputs["attention_mask"].sum(-1) - 1
with torch.no_grad():
    logits = model(input_ids=inputs["input_ids"][None], mc_token_ids=last[None]).mc_logits[0]
print(logits.softmax(-1).tolist())
"""
TEXTS, PAIRS = '["A text.", "Another text."]', '[{"text": "A premise.", "text_pair": "A hypothesis."}]'


def model_card(metadata: RunMetadata) -> str:
    """Return the card, Markdown with the front matter that Hugging Face reads."""
    goal, scores, notes = metadata.goal, _scores(metadata), []
    training = {name: getattr(metadata, name) for name in TRAINING} | {"started from": _file_name(metadata.init)}
    training |= {name: metadata.metrics.get(name) for name in OF_TRAINING}
    if metadata.tokenizer_kind == "openai2018":
        notes.append(WORDS_OF_2018)
    what = LANGUAGE_MODEL
    if goal:
        predicts = PREDICTS[goal].format(names=", ".join(map(_cell, metadata.labels or ())))
        network, trained = "A pre-trained GPT-1", "fine-tuned"
        if metadata.from_scratch:
            network, trained = "A GPT-1", "trained from random weights"
        what = f"{network} with a linear layer on its last token, {trained} to {predicts}."
        if metadata.words and metadata.words.weight:
            notes.append(WITH_WORDS.format(weight=metadata.words.weight))
        notes.append(f"If a text is longer than the context, {LONG[metadata.long or 'head']}.")
    return CARD.format(
        pipeline={None: "text-generation", "choice": "multiple-choice"}.get(goal, "text-classification"),
        title=f"GPT-1 for {metadata.task}" if goal else "GPT-1 language model",
        what=what,
        scores=SCORES.format(unit="rows" if goal else "text", table=_table(scores)) if scores else "",
        training=_table(training | _data(metadata)),
        command=PREDICT_COMMAND if goal else GENERATE_COMMAND,
        code=_code(metadata),
        notes="".join(f"{note}\n\n" for note in notes),
        use=CLASSIFIER_USE if goal else LANGUAGE_MODEL_USE,
        made="Converted" if metadata.converted_from else "Trained",
    )


def _code(metadata: RunMetadata) -> str:
    """Return the Python that uses the run with transformers."""
    goal, scaling = metadata.goal, {"mean": metadata.mean, "scale": metadata.scale}
    if goal is None:
        return GENERATE
    if goal == "choice":
        return CHOOSE
    if metadata.task == "similarity":
        return BOTH_ORDERS + (SIMILAR_CLASSES if goal == "classes" else SIMILAR_SCORE.format(**scaling))
    if goal == "score":
        return SCORE.format(**scaling)
    return LABELS if goal == "labels" else CLASSIFY.format(row=PAIRS if metadata.task == "entailment" else TEXTS)


def _scores(metadata: RunMetadata) -> dict[str, Any]:
    """Return the metrics that are numbers, and over several seeds their mean and deviation."""
    shown = {name: value for name, value in metadata.metrics.items() if name not in OF_TRAINING}
    found = {name: value for name, value in shown.items() if not isinstance(value, dict | list)}
    found |= rows_alone(metadata.metrics.get("words_alone", {}))
    for name, over in (metadata.seeds or {}).items():
        found[f"{name}, {len(over['values'])} seeds"] = f"{over['mean']:.4g} ± {over['deviation']:.2g}"
    return found


def _data(metadata: RunMetadata) -> dict[str, Any]:
    """Return names and sizes of the training data; the name of a file without its path, which may be private."""
    data = metadata.data
    if data is None:
        return {}
    found: dict[str, Any] = {}
    if isinstance(data, FinetuningData) and not metadata.from_scratch:
        if data.model and data.model.path:
            run = PureWindowsPath(data.model.path).parent
            found["fine-tuned from"] = STARTER if run.parent.name == PACKAGE else run.name or None
        if data.pretraining:
            found["pre-training tokens"] = data.pretraining.train.tokens
    if isinstance(data, FinetuningData) and data.read:
        names = (_file_name(file.path) for file in data.read.files)
        found |= {"data (read)": ", ".join(filter(None, names)) or None, "tokens (read)": data.read.tokens}
    for split in ("train", "val", "valid"):
        part = getattr(data, split, None)
        if isinstance(part, SplitSummary):
            found |= {f"{name} ({split})": getattr(part, name) for name in ("documents", "tokens", "bytes")}
        elif part is not None:
            found |= {f"data ({split})": _file_name(part.path), f"rows ({split})": part.rows}
    return found


def _file_name(path: str | None) -> str | None:
    """Return the name of a file or folder. PureWindowsPath knows both separators, so a path of either system is cut."""
    return PureWindowsPath(path).name if path else None


def _table(rows: dict[str, Any]) -> str:
    lines = (f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items() if value is not None)
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return " ".join(readable(str(value)).replace("|", "\\|").replace("<", "&lt;").split())
