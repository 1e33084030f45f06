"""The tokenizer that a model is given text by, where another program than this one builds it.

A model's own program may take no more than the vocabulary of a tokenizer.json and build the rest from settings of its
own. Prompts then follow that tokenizer; alignments and re-tokenization keep to the file.
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
    """Return a vocabulary whose prompts are encoded by this tokenizer; see `Vocabulary.encode_prompt`.

    Args:
        vocabulary: The view of the tokenizer's file.
        native: Another tokenizer of the same tokens, which is changed: nothing stays that adds tokens to a text, cuts
            it off or is random. Special tokens that the file lacks become control tokens.
        what: What made it, for people.

    Raises:
        VocabridgeError: It has other ids for the tokens.
    """
    native.post_processor = None
    native.no_truncation()
    native.no_padding()
    if getattr(native.model, "dropout", None):
        native.model.dropout = None
    if _same(native, vocabulary.native):
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


def _same(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers encode every text alike because they are made of the same parts."""

    def parts(tokenizer: Tokenizer) -> list[bytes | None]:
        around = tokenizer.normalizer, tokenizer.pre_tokenizer
        return [None if part is None else part.__getstate__() for part in around]

    return (
        one.encode_special_tokens == other.encode_special_tokens
        and parts(one) == parts(other)
        and repr(one.get_added_tokens_decoder()) == repr(other.get_added_tokens_decoder())
        and one.model.__getstate__() == other.model.__getstate__()
    )
