"""Text to token ids and back, exactly: what every stage after the tokenizer's training sees of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from specs.common.errors import UserError

Ids = npt.NDArray[np.uint16]

MODEL = "tokenizer.model"
"""File name of the model in a tokenizer's folder."""

WORD_MARK = "\u2581"
"""SentencePiece writes a space as this character, so a text that holds the character itself needs an escape."""


class Special(IntEnum):
    """Control tokens, by id. Encoding text never yields one, whatever the text spells: code inserts them by id."""

    UNK = 0
    """SentencePiece requires it; with byte fallback it never occurs."""
    PAD = 1
    DOCUMENT = 2
    """Ends every document."""
    SYSTEM = 3
    USER = 4
    ASSISTANT = 5
    END = 6
    """Ends every turn of a conversation."""
    FIM_PREFIX = 7
    FIM_MIDDLE = 8
    FIM_SUFFIX = 9
    RESERVED_0 = 10
    RESERVED_1 = 11
    RESERVED_2 = 12
    RESERVED_3 = 13
    RESERVED_4 = 14
    RESERVED_5 = 15

    @property
    def piece(self) -> str:
        """The token as the model's vocabulary spells it, such as `<fim_prefix>`."""
        return f"<{self.name.lower()}>"


@dataclass(frozen=True)
class Tokenizer:
    """A trained SentencePiece model.

    `decode(encode(text)) == text` for every text that UTF-8 can hold, and ids of neighbouring texts may be joined.
    """

    processor: SentencePieceProcessor
    sha256: str
    """Of the model file: the identity of the tokenizer."""
    vocab_size: int

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the tokenizer in a folder. Raises UserError where there is none, or not one of this project's."""
        path = folder / MODEL
        try:
            model = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); run the tokenizer stage") from error
        return cls.from_model(model, str(path))

    @classmethod
    def from_model(cls, model: bytes, place: str) -> Self:
        """A tokenizer from a model's bytes; `place` names them in errors. Raises UserError as `load` does."""
        try:
            processor = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{place}: not a whole SentencePiece model; run the tokenizer stage again") from error
        size = processor.vocab_size()
        pieces = [processor.id_to_piece(index) for index in range(min(len(Special), size))]
        controls = all(processor.is_control(index) for index in range(1, len(pieces)))
        if pieces != [special.piece for special in Special] or not controls:
            raise UserError(f"{place}: ids 0 to 15 are not this project's control tokens; train it with this project")
        return cls(processor, sha256(model).hexdigest(), size)

    def encode(self, text: str) -> Ids:
        """Ids `[n]` of a text. Raises UserError where it holds a lone surrogate, which UTF-8 cannot express."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[Ids]:
        """Ids of each text, by as many threads as there are cores, or as stated, which cannot change them.

        Raises as `encode`.
        """
        # A word mark is spelt as its three UTF-8 bytes, which byte fallback decodes to the character itself.
        segments: list[str] = []
        for text in texts:
            segments.extend(text.split(WORD_MARK))
        try:
            threads = threads or len(os.sched_getaffinity(0))
            encoded = self.processor.encode(segments, out_type="numpy", num_threads=threads)
        except (RuntimeError, TypeError):
            _refuse_surrogates(texts)
            raise
        if len(segments) == len(texts):
            return [ids.astype(np.uint16) for ids in encoded]
        mark = np.array([self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in WORD_MARK.encode()], np.uint16)
        parts = iter(encoded)
        batch = []
        for text in texts:
            joined = [next(parts).astype(np.uint16)]
            for _ in range(text.count(WORD_MARK)):
                joined += [mark, next(parts).astype(np.uint16)]
            batch.append(np.concatenate(joined))
        return batch

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of ids `[n]`. Control tokens yield nothing; bytes that are not UTF-8 yield U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        values = np.asarray(ids, dtype=np.int64)
        if values.size and not 0 <= values.min() <= values.max() < self.vocab_size:
            raise ValueError(f"ids from {values.min()} to {values.max()} leave the vocabulary of {self.vocab_size}")
        return str(self.processor.decode(values.tolist()))


def _refuse_surrogates(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise UserError(
                f"text holds the lone surrogate U+{code:04X} at character {error.start}: it is not valid Unicode; "
                "repair the text or leave it out"
            ) from error
