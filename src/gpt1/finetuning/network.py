"""The network that a fine-tuning starts from: the pre-trained one, or parts of it, with a new head."""

from dataclasses import replace

import torch

from gpt1.config import Finetune, Model, with_vocabulary
from gpt1.finetuning.data import Data
from gpt1.model.gpt import GPT, INIT_STD
from gpt1.model.objectives import TaskModel


def build(settings: Finetune, data: Data, base: GPT) -> TaskModel:
    """The pre-trained body with rows for the new tokens, or as much of it as the settings transfer; and a new head."""
    generator = torch.Generator().manual_seed(settings.seed)
    config = _shape(settings, base.config, data.reader.tokenizer.vocabulary)
    body = GPT(config).init_weights(generator)
    if not settings.from_scratch:
        rows = torch.empty(config.vocabulary - base.config.vocabulary, config.width)
        rows.normal_(0.0, INIT_STD, generator=generator)
        blocks = config.depth if settings.transfer_layers is None else settings.transfer_layers
        weights = {name: weight for name, weight in base.state_dict().items() if _layer(name) < blocks}
        weights["tokens.weight"] = torch.cat([weights["tokens.weight"], rows])
        body.load_state_dict(body.state_dict() | weights)
    _freeze(body, settings.freeze, base.config.vocabulary)
    model = TaskModel(body, data.goal.outputs, data.goal.kind, settings.head_dropout, data.weights_C)
    return model.init_head(generator)


def _shape(settings: Finetune, base: Model, vocabulary: int) -> Model:
    shape, rate = with_vocabulary(base, vocabulary), settings.dropout
    if rate is None:
        return shape
    return replace(shape, embedding_dropout=rate, residual_dropout=rate, attention_dropout=rate)


def _layer(name: str) -> int:
    """The number of a weight's block; the embeddings lie beneath block 0."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else -1


def _freeze(body: GPT, blocks: int, known: int) -> None:
    """Keep the embeddings and the first blocks as they are; of the tokens the `known` ones, the new must be learnt."""
    if not blocks:
        return
    for name, weight in body.named_parameters():
        if name != "tokens.weight" and _layer(name) < blocks:
            weight.requires_grad_(False)
    body.tokens.weight.register_hook(lambda g_VD: torch.cat([torch.zeros_like(g_VD[:known]), g_VD[known:]]))
