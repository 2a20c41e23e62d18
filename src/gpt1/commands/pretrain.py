"""`gpt1 pretrain`: token shards -> a GPT (the paper, section 3.1)."""

from rich.console import RenderableType

from gpt1.config import Pretrain
from gpt1.console import table
from gpt1.keywords import command
from gpt1.pretraining.job import PretrainResult, pretrain_folder


@command(Pretrain, "data")
def pretrain(settings: Pretrain) -> PretrainResult:
    """Train a GPT on prepared data and write the run folder; continue where an earlier call was stopped.

    Raises UserError for wrong settings or data, or if another process is working in the folder, and RunFailed if the
    loss is not finite or memory runs out.
    """
    return pretrain_folder(settings)


def show(result: PretrainResult) -> RenderableType:
    """Return the closing table."""
    return table(dict(result), "pretrain")
