"""Worlds so small that a model over bytes can be had by trying all sequences of tokens, all texts being encoded whole.

Each is a tokenizer trained here and a random model of its vocabulary.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from vocabridge.alignment import TokenKind, Vocabulary
from vocabridge.models.loading import LoadedModel

ALPHABET = pre_tokenizers.ByteLevel.alphabet()
CONTROL = ["<|begin|>", "<|end|>", "<unk>"]


def _characters() -> dict[bytes, list[str]]:
    """Characters of several bytes, by each of their beginnings; of every pair of first bytes there are some."""
    ends = (b"\x80", b"\x82", b"\x9f", b"\xa0", b"\xbf")  # one of them ends 🙂, and a token
    pairs = [bytes([first, second]) for first in range(0xC2, 0xF5) for second in range(0x80, 0xC0)]
    found: dict[bytes, list[str]] = {}
    for pair in pairs:
        for end in ends if pair[0] >= 0xE0 else (b"",):
            data = pair + end * (1 + (pair[0] >= 0xF0))
            if character := data.decode(errors="ignore"):
                for size in range(1, len(data)):
                    found.setdefault(data[:size], []).append(character)
    for code in range(0x1F000, 0x20000, 0x1B):  # in these one byte more is tried
        for size in (1, 2, 3):
            found.setdefault(chr(code).encode()[:size], []).append(chr(code))
    return found


CHARACTERS = _characters()

TEXT = ["the then there  aab abab aaab\n\nb   a é ée 12 123", "it's all'll a\n b  \n é🙂é the\tthe ba bba 1"] * 4
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
}
GPT2 = Regex(r"'ll|'s| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def byte_level() -> Tokenizer:
    """GPT-2's: white space is looked at ahead; control token in the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(GPT2, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310, special_tokens=CONTROL[:2], initial_alphabet=ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def across_words() -> Tokenizer:
    """Byte-level BPE over whole texts, which no place of a text cuts for sure."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310, special_tokens=CONTROL[:2], initial_alphabet=ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def fallback() -> Tokenizer:
    """SentencePiece-like BPE: duplicate bytes (`<0x61>` and `a`), runs of spaces among the added tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[*CONTROL, *(f"<0x{b:02X}>" for b in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator([text.replace("🙂", "") for text in TEXT], trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in CONTROL]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_tokens([AddedToken("▁▁▁", normalized=False)])
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=CONTROL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


KINDS = {"byte-level": byte_level, "across words": across_words, "byte fallback": fallback, "unigram": unigram}


@dataclass
class World:
    """A tokenizer and a model of its vocabulary, and what trying everything says of the next byte."""

    loaded: LoadedModel
    alphabet: str = " \nabehlst'1é🙂"
    _p: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)
    _valid: dict[tuple[int, ...], bool] = field(default_factory=dict)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.loaded.vocabulary

    def p(self, tokens: tuple[int, ...]) -> np.ndarray:
        """What the model says after some tokens, (|S|,)."""
        vocabulary = self.vocabulary
        ids = ([vocabulary.roles["bos"]] if vocabulary.add_bos_token else []) + list(tokens)
        if not ids:
            return np.full(vocabulary.size, 1 / vocabulary.size)
        if tokens not in self._p:
            with torch.no_grad():
                logits = self.loaded.model(torch.tensor([ids])).logits[0, -1]
            self._p[tokens] = logits.double().softmax(-1).numpy()
        return self._p[tokens]

    def valid(self, covers: list[tuple[int, ...]]) -> list[bool]:
        """Whether the encoding of some text, all of it encoded, begins with these tokens."""
        known = {cover for cover in covers if cover in self._valid}
        for text_of in (self.completions, self.continuations):
            owner, texts = [], []
            for cover in covers:
                if cover not in known and not self._valid.get(cover):
                    several = text_of(b"".join(self.vocabulary.token_bytes[i] for i in cover))
                    owner += [cover] * len(several)
                    texts += several
            encodings = self.vocabulary.tokenizer.encode_batch(texts, add_special_tokens=False)
            for cover, encoding in zip(owner, encodings, strict=True):
                if tuple(encoding.ids[: len(cover)]) == cover:
                    self._valid[cover] = True
            for cover in covers:
                self._valid.setdefault(cover, False)
        return [self._valid[cover] for cover in covers]

    def completions(self, data: bytes) -> list[str]:
        """The text that some bytes are; where a character is not whole, those with each one that begins so."""
        try:
            return [data.decode()]
        except UnicodeDecodeError as error:
            before, half = data[: error.start], data[error.start :]
        if not _is_text(before):
            return []
        return [before.decode() + character for character in CHARACTERS.get(half, ())]

    def continuations(self, data: bytes) -> list[str]:
        """Texts that begin with some bytes that are a text."""
        if not _is_text(data):
            return []
        pairs = itertools.product(" \na1'l", repeat=2)
        return [data.decode() + more for more in (*self.alphabet, *map("".join, pairs))]

    def next_byte(self, text: bytes) -> np.ndarray:
        """The distribution over bytes and control tokens after a text, (256 + s,)."""
        token_bytes = self.vocabulary.token_bytes
        symbols = np.flatnonzero(self.vocabulary.kinds == TokenKind.CONTROL)
        mass = np.zeros(256 + len(symbols))
        inner, logs = [((), b"", 1.0)], []
        while inner:
            cover, data, p = inner.pop()
            if not self.valid([cover])[0]:  # then none that begins with it is
                continue
            said = self.p(cover)
            for i, more in enumerate(token_bytes):
                if more is None:
                    continue
                longer = data + more
                if longer[: len(text)] == text and len(longer) > len(text):
                    logs.append(((*cover, i), longer[len(text)], p * said[i]))
                elif text.startswith(longer):
                    inner.append(((*cover, i), longer, p * said[i]))
            try:
                own = self.vocabulary.tokenizer.encode(text.decode(), add_special_tokens=False).ids
            except UnicodeDecodeError:
                own = None
            if data == text and list(cover) == own:
                mass[256:] += p * said[symbols]
        for (_, byte, p), is_valid in zip(logs, self.valid([cover for cover, _, _ in logs]), strict=True):
            mass[byte] += p * is_valid
        return mass / mass.sum() if mass.sum() else mass


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def build_worlds() -> dict[str, World]:
    made = {}
    for number, (name, build) in enumerate(KINDS.items()):
        tokenizer = build()
        begins = name in ("byte fallback", "unigram")
        vocabulary = Vocabulary.from_tokenizer(
            tokenizer, size=tokenizer.get_vocab_size() + 2, name=name, roles={"bos": 0, "eos": 1}, add_bos_token=begins
        )
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary.size, **SHAPE)).eval()
        made[name] = World(LoadedModel(name, "", model, vocabulary))
    return made
