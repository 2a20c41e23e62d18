"""How good predicted classes are; the definitions are scikit-learn's."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)


def classification_metrics(gold: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """n, accuracy, macro_f1, matthews, majority (the share of the commonest class), per_class and confusion.

    `names` orders the classes; confusion[i][j] counts rows of class i that were called j.
    """
    known = sorted(
        set(gold) | set(predicted), key=lambda name: (names.index(name) if name in names else len(names), name)
    )
    each = precision_recall_fscore_support(gold, predicted, labels=known, zero_division=0)
    return {
        "n": len(gold),
        "accuracy": float(accuracy_score(gold, predicted)),
        "macro_f1": float(f1_score(gold, predicted, labels=known, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(gold, predicted)),
        "majority": Counter(gold).most_common(1)[0][1] / len(gold),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
            for name, p, r, f, n in zip(known, *each, strict=True)
        },
        "confusion": confusion_matrix(gold, predicted, labels=known).tolist(),
    }
