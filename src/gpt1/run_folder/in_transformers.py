"""The lines of Python that use a run with transformers; they stand in its model card, where FOLDER is the run."""

from typing import Any

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
    facts = json.load(file)
thresholds = dict(zip(facts["labels"], facts["thresholds"]))
print([[one["label"] for one in row if one["score"] >= thresholds[one["label"]]] for row in found])
"""
SCORE = """from transformers import pipeline

tell = pipeline("text-classification", "FOLDER", function_to_apply="none")
print([{mean!r} + {scale!r} * found["score"] for found in tell(["A text.", "Another text."], truncation=True)])
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
ONE, TWO = '["A text.", "Another text."]', '[{"text": "A premise.", "text_pair": "A hypothesis."}]'
LONG = {
    "head": "its beginning is read, by gpt1 and, with `truncation=True`, by transformers",
    "tail": "its end is read, by gpt1 and, with `truncation=True`, by transformers",
    "head+tail": "gpt1 reads the beginning and the end, transformers only the beginning, so their answers differ",
    "windows": "gpt1 reads all in parts and averages, transformers reads only the beginning, so their answers differ",
}


def code(info: dict[str, Any]) -> str:
    """The lines for a run with these facts (gpt1.json), which give what `gpt1 predict` gives."""
    goal, task = info.get("goal"), info.get("task")
    if goal is None:
        return GENERATE
    if goal == "choice":
        return CHOOSE
    if task == "similarity":
        return BOTH_ORDERS + (SIMILAR_CLASSES if goal == "classes" else SIMILAR_SCORE.format(**info))
    if goal == "score":
        return SCORE.format(**info)
    return LABELS if goal == "labels" else CLASSIFY.format(row=TWO if task == "entailment" else ONE)


def of_long_texts(info: dict[str, Any]) -> str:
    """What is read of a text that does not fit the context, by gpt1 and by transformers."""
    return f"Of a text that is longer than the context {LONG[info.get('long', 'head')]}."
