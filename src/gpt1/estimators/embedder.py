"""A run as a scikit-learn transformer, from texts to vectors, for any model with numeric input."""

import copy
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from gpt1.config import Command
from gpt1.estimators.fitted import isolated
from gpt1.estimators.inputs import check_names, record_names, texts_of
from gpt1.keywords import refuse_unknown
from gpt1.model.gpt import GPT
from gpt1.run_folder.embedding import embed
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.generation import prepare_for_inference
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training.device import setup_device, use_threads


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Transform each text into the mean of a run's last hidden states over its tokens, as `gpt1 embed` does.

    Parameters
    ----------
    run : str or path, default "starter"
        Run folder, pre-trained or fine-tuned, or `starter`.
    device : str, default "auto"
        auto, cpu, cuda, cuda:1 or mps.
    dtype : {"auto", "bf16", "fp32"}, default "auto"
        Number format for matrix products; auto: bf16 where the hardware supports it.
    threads : int, default 0
        CPU threads; 0: every core.

    Attributes
    ----------
    n_features_in_ : int
        Columns of X: 1.
    feature_names_in_ : ndarray of str
        Name of the column, if X was a DataFrame.

    Examples
    --------
    >>> make_pipeline(gpt1.Embedder("runs/books"), LogisticRegression()).fit(texts, labels)
    """

    @refuse_unknown
    def __init__(
        self,
        run: str | Path = "starter",
        *,
        device: str = "auto",
        dtype: Literal["auto", "bf16", "fp32"] = "auto",
        threads: int = 0,
    ) -> None:
        self.run = run
        self.device = device
        self.dtype = dtype
        self.threads = threads

    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the run. Nothing is learned from the texts.

        Parameters
        ----------
        X : sequence of length N
            Texts: a list, tuple or array, a Series, or a DataFrame of one column.
        y : object, default None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For a folder that is not a run, and for a text that is empty or missing; the message names the row.
        TypeError
            For containers and values of a wrong type.
        """
        texts_of(X)
        self._load()
        self.n_features_in_ = 1
        self._n_features_out = self._body.config.width
        record_names(self, X)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return a vector for each text. A text longer than the context is read in windows.

        Parameters
        ----------
        X : sequence of length N
            Texts as in `fit`.

        Returns
        -------
        ndarray of float32 of shape (N, D)
            D is the width of the network.
        """
        check_is_fitted(self, "n_features_in_")
        check_names(self, X)
        texts = [text for (text,) in texts_of(X)]
        if not hasattr(self, "_body"):
            self._load()
        ids = self._tokenizer.encode_batch(texts)
        if [] in ids:
            raise ValueError(f"row {ids.index([])} of X has no tokens; drop the row")
        with use_threads(self.threads):
            return embed(self._body, ids)

    def _load(self) -> None:
        with isolated():
            device, dtype = setup_device(Command(device=self.device, dtype=self.dtype, threads=self.threads))
            run = load_run(self.run)
            self._body: GPT = prepare_for_inference(run.body, device, dtype)
            self._tokenizer: Tokenizer = run.tokenizer

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the network, which is loaded from its folder again."""
        state: dict[str, Any] = copy.copy(super().__getstate__())
        return {name: value for name, value in state.items() if name not in ("_body", "_tokenizer")}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags
