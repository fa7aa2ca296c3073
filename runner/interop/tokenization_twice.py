"""The tokenizer of an exported model, for `transformers`: SentencePiece itself, so the ids are those of training.

An export carries a copy of this file, which `AutoTokenizer.from_pretrained(folder, trust_remote_code=True)` loads. It
needs `transformers` and `sentencepiece`, and nothing of the project that wrote it.

A conversion to a `tokenizer.json` would not give the same ids: SentencePiece adds the scores of a whole text in 32 bits
and `tokenizers` in 64, so that paths of nearly equal score are told apart differently.
"""

# mypy: ignore-errors
# ruff: noqa: D102 - methods that the base class names and describes

import os
import shutil

from sentencepiece import SentencePieceProcessor
from transformers import AddedToken, PreTrainedTokenizer

WORD_MARK = "\u2581"
"""SentencePiece writes a space as this character, so the character itself is spelt in bytes."""


class TwiceTokenizer(PreTrainedTokenizer):
    """A control token is spelt `<|twice:NAME|>` in text, in small letters, and only that spelling yields it.

    With `split_special_tokens=True` no text yields one, whatever it spells.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012 - what the base class reads
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file, **kwargs):
        self.vocab_file = vocab_file
        self.processor = SentencePieceProcessor(model_file=vocab_file)
        size = self.processor.vocab_size()
        controls = [index for index in range(size) if index == 0 or self.processor.is_control(index)]
        spelt = {index: f"<|twice:{self.processor.id_to_piece(index)[1:-1]}|>" for index in controls}
        kwargs["added_tokens_decoder"] = {
            index: AddedToken(content, special=True, normalized=False) for index, content in spelt.items()
        }
        self._marks = [f"<0x{byte:02X}>" for byte in WORD_MARK.encode()]
        super().__init__(**kwargs)

    @property
    def vocab_size(self):
        return self.processor.vocab_size()

    def get_vocab(self):
        return {self.convert_ids_to_tokens(index): index for index in range(self.vocab_size)}

    def _tokenize(self, text, **kwargs):
        first, *rest = self.processor.encode(text.split(WORD_MARK), out_type=str)
        for pieces in rest:
            first = [*first, *self._marks, *pieces]
        return first

    def _convert_token_to_id(self, token):
        return self.processor.piece_to_id(token)

    def _convert_id_to_token(self, index):
        return self.processor.id_to_piece(index)

    def convert_tokens_to_string(self, tokens):
        return self._decode(self.convert_tokens_to_ids(tokens))

    def _decode(self, token_ids, skip_special_tokens=False, **kwargs):
        ids = [token_ids] if isinstance(token_ids, int) else [int(index) for index in token_ids]
        parts, run = [], []
        for index in ids:
            if index in self._added_tokens_decoder:
                parts += [self.processor.decode(run), "" if skip_special_tokens else self.convert_ids_to_tokens(index)]
                run = []
            else:
                run.append(index)
        return "".join([*parts, self.processor.decode(run)])

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return token_ids_0 if token_ids_1 is None else token_ids_0 + token_ids_1

    def create_token_type_ids_from_sequences(self, token_ids_0, token_ids_1=None):
        return [0] * len(token_ids_0 + (token_ids_1 or []))

    def save_vocabulary(self, save_directory, filename_prefix=None):
        name = (f"{filename_prefix}-" if filename_prefix else "") + self.vocab_files_names["vocab_file"]
        path = os.path.join(save_directory, name)  # noqa: PTH118
        if os.path.abspath(path) != os.path.abspath(self.vocab_file):  # noqa: PTH100
            shutil.copyfile(self.vocab_file, path)
        return (path,)
