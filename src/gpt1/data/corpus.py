"""A corpus: the files of both splits, which can be read through again and again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from gpt1.data.documents import Block, Cut, Reading, at_whitespace, blocks
from gpt1.data.files import File
from gpt1.data.split import Marked, Survey, all_marked, check, hold_out, survey
from gpt1.errors import UserError


@dataclass(frozen=True)
class Corpus:
    """Text to train on and to validate with."""

    train: list[File]
    val: list[File]
    """without any, `fraction` of the training documents validates"""
    reading: Reading
    fraction: float
    seed: int

    @cached_property
    def survey(self) -> Survey:
        """What is in all the files. Raises UserError for what is not text, and if a split would be empty."""
        train, val = self._survey(self.train), self._survey(self.val)
        for files, found in ((self.train, train), (self.val, val)):
            if files and not found.documents:
                more = f" and {len(files) - 1} more" if len(files) > 1 else ""
                raise UserError(f"{files[0].path}{more}: no text, {found.empty} empty documents; give files with text")
        if not self.val:
            check(train, self.fraction)
        characters, size = train.characters + val.characters, train.bytes + val.bytes
        return replace(train, empty=train.empty + val.empty, characters=characters, bytes=size)

    def _survey(self, files: list[File]) -> Survey:
        return survey(blocks(files, self.reading, at_whitespace), self.fraction, self.seed)

    def marked(self, cut: Cut) -> Iterator[Marked]:
        """All blocks, each text marked as training or validation; a long document is cut by `cut`."""
        found = self.blocks(self.train, cut)
        if not self.val:
            yield from hold_out(found, self.survey, self.fraction, self.seed)
            return
        yield from all_marked(found, False)
        yield from all_marked(self.blocks(self.val, cut), True)

    def blocks(self, files: list[File], cut: Cut) -> Iterator[Block]:
        return blocks(files, self.reading, cut)
