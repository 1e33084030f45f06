"""The native tokenizer of a model: the one that encodes its prompts, if the model's own program builds that.

Such a program may use only the vocabulary of a tokenizer.json and build the other parts from settings of its own.
Prompts are then encoded with the program's tokenizer. Alignments and re-tokenization use the file.
"""

from __future__ import annotations

import json
from dataclasses import replace

from tokenizers import Tokenizer

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.panics import panics_as_errors
from vocabridge.alignment.tokenizers.tokens import TokenKind
from vocabridge.alignment.tokenizers.unknown import may_lack_unk, with_unk
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


def with_native(vocabulary: Vocabulary, native: Tokenizer, what: str) -> Vocabulary:
    """Return a vocabulary that encodes prompts with this tokenizer; see `Vocabulary.encode_prompt`.

    Special tokens that only `native` has become control tokens.

    Args:
        vocabulary: The byte view of the tokenizer's file.
        native: Another tokenizer of the same tokens. Its post-processor, truncation, padding and dropout are removed
            in place.
        what: The name of what built `native`, for the error.

    Raises:
        VocabridgeError: `native` gives a token another id than the file.
    """
    native.post_processor = None
    native.no_truncation()
    native.no_padding()
    if getattr(native.model, "dropout", None):
        native.model.dropout = None
    if _encode_alike(native, vocabulary.native):
        return vocabulary
    ids, file_ids = native.get_vocab(), vocabulary.tokenizer.get_vocab()
    for token, i in ids.items():
        if file_ids.get(token, i) != i:
            raise VocabridgeError(
                f"{vocabulary.name}: {what} gives the token {token!r} the id {i}, and its tokenizer.json "
                f"{file_ids[token]}; correct tokenizer_class in its tokenizer_config.json"
            )
    kinds = vocabulary.kinds.copy()
    for i, added in native.get_added_tokens_decoder().items():
        if i < vocabulary.size and added.special and kinds[i] == TokenKind.UNUSED:
            kinds[i] = TokenKind.CONTROL
    kinds.flags.writeable = False
    if may_lack_unk(native):
        with panics_as_errors(vocabulary.name):
            split_special = native.encode_special_tokens
            spec = json.loads(native.to_str())
            if (spec_with_unk := with_unk(spec, vocabulary.size)) is not spec:
                native = Tokenizer.from_str(json.dumps(spec_with_unk))
                native.encode_special_tokens = split_special
    return replace(vocabulary, native=native, kinds=kinds)


def _encode_alike(first: Tokenizer, second: Tokenizer) -> bool:
    """Whether two tokenizers encode every text alike because they consist of the same parts."""

    def states(tokenizer: Tokenizer) -> list[bytes | None]:
        parts = tokenizer.normalizer, tokenizer.pre_tokenizer
        return [None if part is None else part.__getstate__() for part in parts]

    return (
        first.encode_special_tokens == second.encode_special_tokens
        and states(first) == states(second)
        and repr(first.get_added_tokens_decoder()) == repr(second.get_added_tokens_decoder())
        and first.model.__getstate__() == second.model.__getstate__()
    )
