"""Small tokenizers of every kind, trained on a text of traps."""

from __future__ import annotations

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vocabridge.alignment import tiktoken_tokenizer
from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet

TEXT = """\
The quick brown fox jumps over the lazy dog. "Ġ" is a letter, and so is "é"; naïve café, œuvre, Straße.
def main(argv: list[str]) -> int:
\tif argv and argv[0] == "--help":\n\t\tprint("usage: main [--help]")\n        return 0  # eight spaces
Natalia sold 48 clips in April, and then 24 in May: 48 / 2 = 24, 48 + 24 = 72. The answer is 72.
日本語のテキスト、中文文本。 한국어 텍스트. Ελληνικά, русский язык. 👍🏽 👩‍👩‍👧 emoji.


<table><tr><td>_id</td></tr></table> x ▁ y <0x41> <|im_start|>
"""

CONTROL = ["<s>", "</s>", "<unk>"]
ROLES = {"bos": 0, "eos": 1}

KINDS = ["byte_level_bpe", "tiktoken", "sentencepiece_bpe", "prepended_space", "unigram", "wordpiece"]


def train(kind: str, size: int = 420) -> Tokenizer:
    """Train a small tokenizer of one kind on TEXT."""
    if kind == "tiktoken":
        return _from_ranks(size)
    if kind == "prepended_space":
        tokenizer = train("sentencepiece_bpe", size)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        return tokenizer
    if kind == "byte_level_bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=CONTROL, initial_alphabet=alphabet)
    elif kind == "sentencepiece_bpe":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=[^▁])(?=▁)"), "isolated")
        pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence(pieces)
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=size + 256, special_tokens=CONTROL + byte_tokens)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=CONTROL, unk_token="<unk>")
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=CONTROL)
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    if kind != "sentencepiece_bpe":
        return tokenizer
    # Trained as special so that they all get an id; a byte token is an ordinary token of the model.
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [added for added in spec["added_tokens"] if added["content"] in CONTROL]
    return Tokenizer.from_str(json.dumps(spec))


def _from_ranks(size: int) -> Tokenizer:
    """Make a tokenizer of the ranks of a trained one, as a conversion from tiktoken does; with another pattern."""
    byte_of = byte_level_alphabet()
    trained = train("byte_level_bpe", size - 40)
    words = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda entry: entry[1])][len(CONTROL) :]
    ranks = {bytes(map(byte_of.__getitem__, word)): len(CONTROL) + i for i, word in enumerate(words)}
    pattern = r"\p{N}{1,3}+| ?\p{L}++| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]|\s+(?!\S)|\s"
    return tiktoken_tokenizer(ranks, pattern, {token: i for i, token in enumerate(CONTROL)})
