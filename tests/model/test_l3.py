"""L3 = L2 + lambda L1 of every task, from token ids to gradients, against the paper's formulas in double precision.

The reference knows no batch, no padding and none of our functions: one sequence at a time, written out as in figure 1
of the paper.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gpt1.batch import Batch
from gpt1.config import Model, Task
from gpt1.data.collate import Epochs, Example, Label, collate
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LabelKind, TaskModel
from gpt1.tasks.inputs import TASKS, Frame, truncate

START, DELIMITER, EXTRACT, PAD = 36, 37, 38, 39
LAMBDA = 0.5
SHAPE = Model(
    context=14, width=16, depth=2, heads=2, inner=64, vocabulary=40,
    embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
TEXTS = [[5, 9, 3], [8], [1, 2], [4, 4, 7, 1, 2, 30], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]]
PAIRS = [[[5, 9], [7]], [[8], [1, 2, 3]], [[3, 3], [3, 3]], [[4], [4]], [[6, 7, 8], [9]]]
CHOICES = [
    [[5, 9], [7], [8, 1]],
    [[8], [1, 2, 3], [4], [9, 9]],
    [[3, 3], [1], [2]],
    [[1, 2, 3], [4], [5]],
    [[2], [3], [4]],
]


def whole(model: TaskModel, *sequences: list[int]) -> tuple[list[Tensor], Tensor]:
    """h at the last token of each sequence, and the mean over them of the mean nats of their next tokens."""
    last, nats = [], []
    for ids in sequences:
        h_TD = model.body(torch.tensor([ids]))[0]
        logits_TV = h_TD @ model.body.tokens.weight.T
        nats.append(torch.stack([-logits_TV[t].log_softmax(-1)[ids[t + 1]] for t in range(len(ids) - 1)]).mean())
        last.append(h_TD[-1])
    return last, torch.stack(nats)


def classification(model: TaskModel, texts: list[list[int]], label: Label) -> tuple[Tensor, Tensor]:
    (h_D,), nats = whole(model, [START, *texts[0][:12], EXTRACT])
    return -(model.head.weight @ h_D).log_softmax(-1)[label], nats


def weighted(model: TaskModel, texts: list[list[int]], label: Label) -> tuple[Tensor, Tensor]:
    loss, nats = classification(model, texts, label)
    return torch.tensor([0.5, 2.0, 1.0], dtype=torch.double)[label] * loss, nats


def regression(model: TaskModel, texts: list[list[int]], label: Label) -> tuple[Tensor, Tensor]:
    (h_D,), nats = whole(model, [START, *texts[0][:12], EXTRACT])
    return ((model.head.weight @ h_D)[0] - label) ** 2, nats


def multi_label(model: TaskModel, texts: list[list[int]], label: Label) -> tuple[Tensor, Tensor]:
    (h_D,), nats = whole(model, [START, *texts[0][:12], EXTRACT])
    p_C = torch.sigmoid(model.head.weight @ h_D)
    return -sum(p.log() if there else (1 - p).log() for p, there in zip(p_C, label, strict=True)), nats


def entailment(model: TaskModel, texts: list[list[int]], label: Label) -> tuple[Tensor, Tensor]:
    (h_D,), nats = whole(model, [START, *texts[0], DELIMITER, *texts[1], EXTRACT])
    return -(model.head.weight @ h_D).log_softmax(-1)[label], nats


def similarity(model: TaskModel, texts: list[list[int]], label: Label) -> tuple[Tensor, Tensor]:
    one, other = texts
    both = [[START, *one, DELIMITER, *other, EXTRACT], [START, *other, DELIMITER, *one, EXTRACT]]
    (g_D, h_D), nats = whole(model, *both)
    return -(model.head.weight @ (g_D + h_D)).log_softmax(-1)[label], nats


def multiple_choice(model: TaskModel, texts: list[list[int]], label: Label) -> tuple[Tensor, Tensor]:
    context, *answers = texts
    last, nats = whole(model, *([START, *context, DELIMITER, *answer, EXTRACT] for answer in answers))
    return -torch.stack([(model.head.weight @ h_D)[0] for h_D in last]).log_softmax(-1)[label], nats


Reference = Callable[[TaskModel, list[list[int]], Label], tuple[Tensor, Tensor]]
CLASSES: list[Label] = [2, 0, 1, 1, 0]
CASES: dict[str, tuple[Task, LabelKind, int, list[list[list[int]]], list[Label], Reference]] = {
    "classification": ("classification", "classes", 3, [[text] for text in TEXTS], CLASSES, classification),
    "class weights": ("classification", "classes", 3, [[text] for text in TEXTS], CLASSES, weighted),
    "regression": ("regression", "score", 1, [[text] for text in TEXTS], [0.5, -1.5, 0.0, 2.0, 0.25], regression),
    "multi-label": (
        "multi-label", "labels", 2, [[text] for text in TEXTS],
        [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], multi_label,
    ),
    "entailment": ("entailment", "classes", 3, PAIRS, CLASSES, entailment),
    "similarity": ("similarity", "classes", 3, PAIRS, CLASSES, similarity),
    "multiple-choice": ("multiple-choice", "choice", 1, CHOICES, [1, 2, 0, 1, 0], multiple_choice),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_for(case: str) -> TaskModel:
    weights_C = torch.tensor([0.5, 2.0, 1.0]) if case == "class weights" else None
    body = GPT(SHAPE).init_weights(torch.Generator().manual_seed(1))
    model = TaskModel(body, CASES[case][2], CASES[case][1], head_dropout=0.0, class_weights_C=weights_C)
    model.init_head(torch.Generator().manual_seed(2)).double()
    model.head.weight.data *= 30  # far from a uniform guess
    return model


def examples_of(case: str) -> list[Example]:
    task, _, _, rows, labels, _ = CASES[case]
    frame = Frame(START, DELIMITER, EXTRACT, SHAPE.context)
    return [
        Example(TASKS[task](version, frame), label)
        for texts, label in zip(rows, labels, strict=True)
        for version in truncate(texts, frame)
    ]


@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 0.0, 1.5, 2.0]], ids=["alike", "weighted"])
@pytest.mark.parametrize("micro_batch", [5, 2, 1])
def test_l3_and_its_gradient(case: str, micro_batch: int, weights: list[float] | None) -> None:
    """However the batch is cut: the gradient is one of all the rows together."""
    model = model_for(case)
    _, _, _, rows, labels, reference = CASES[case]
    tasks, nats = zip(*(reference(model, texts, label) for texts, label in zip(rows, labels, strict=True)), strict=True)
    w_N = torch.tensor(weights or [1.0] * 5, dtype=torch.double)
    w_M = w_N.repeat_interleave(torch.tensor(list(map(len, nats))))
    expected = torch.stack(tasks) @ w_N / w_N.sum() + LAMBDA * torch.cat(nats) @ w_M / w_M.sum()

    examples = examples_of(case)
    if weights:
        examples = [replace(example, weight=weight) for example, weight in zip(examples, weights, strict=True)]
    batches = Epochs(examples, 5, micro_batch, PAD, seed=3)(0)
    counts = {name: sum(model.counts(batch)[name] for batch in batches) for name in ("task", "lm")}
    sums = [model(batch) for batch in batches]
    total = torch.stack([s["task"] / counts["task"] + LAMBDA * s["lm"] / counts["lm"] for s in sums]).sum()
    torch.testing.assert_close(total, expected, atol=1e-9, rtol=0)
    ours, theirs = (torch.autograd.grad(value, list(model.parameters())) for value in (total, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_an_example_scores_the_same_in_any_batch(case: str) -> None:
    model, found = model_for(case), examples_of(case)
    together = model.scores(collate(found, PAD, SHAPE.context))
    for n, example in enumerate(found):
        alone = model.scores(collate([example], PAD, SHAPE.context))[0]
        torch.testing.assert_close(together[n, : len(alone)], alone)
        assert (together[n, len(alone) :] == -torch.inf).all(), "an answer that a row lacks cannot be chosen"


def test_two_texts_in_any_order_are_as_similar() -> None:
    model, frame = model_for("similarity"), Frame(START, DELIMITER, EXTRACT, SHAPE.context)

    def batch(one: list[int], other: list[int]) -> Batch:
        return collate([Example(TASKS["similarity"]([one, other], frame))], PAD, SHAPE.context)

    torch.testing.assert_close(model.scores(batch([5, 9], [7])), model.scores(batch([7], [5, 9])))
