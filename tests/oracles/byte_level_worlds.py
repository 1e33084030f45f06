"""Tokenizers and models so small that the distribution over the next byte can be computed by enumeration.

This is the oracle of `vocabridge.byte_level`. Each *world* is a tokenizer, trained here, and a random model with its
vocabulary. Every sequence of tokens is tried, and whether it is valid is decided by encoding whole texts.
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
    """Return characters of several bytes by each of their beginnings, some for every pair of first bytes."""
    ends = (b"\x80", b"\x82", b"\x9f", b"\xa0", b"\xbf")  # one of them is the end of 🙂 and of a token
    pairs = [bytes([first, second]) for first in range(0xC2, 0xF5) for second in range(0x80, 0xC0)]
    characters: dict[bytes, list[str]] = {}
    for pair in pairs:
        for end in ends if pair[0] >= 0xE0 else (b"",):
            data = pair + end * (1 + (pair[0] >= 0xF0))
            if character := data.decode(errors="ignore"):
                for size in range(1, len(data)):
                    characters.setdefault(data[:size], []).append(character)
    for code in range(0x1F000, 0x20000, 0x1B):  # emoji, with more third bytes
        for size in (1, 2, 3):
            characters.setdefault(chr(code).encode()[:size], []).append(chr(code))
    return characters


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
    """Return byte-level BPE with GPT-2's pre-tokenizer, which looks ahead at white space."""
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
    """Return byte-level BPE over whole texts, so that a text has no safe cut."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310, special_tokens=CONTROL[:2], initial_alphabet=ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def fallback() -> Tokenizer:
    """Return SentencePiece-like BPE: two ids for some bytes (`<0x61>` and `a`), a run of spaces as an added token."""
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
    """Return a SentencePiece-like Unigram model without byte fallback."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=CONTROL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


KINDS = {"byte-level": byte_level, "across words": across_words, "byte fallback": fallback, "unigram": unigram}


@dataclass
class World:
    """A tokenizer and a model with its vocabulary.

    Attributes:
        loaded: The model with its vocabulary.
        alphabet: The characters with which texts are continued.
    """

    loaded: LoadedModel
    alphabet: str = " \nabehlst'1é🙂"
    _p: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)
    _valid: dict[tuple[int, ...], bool] = field(default_factory=dict)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary."""
        return self.loaded.vocabulary

    def p(self, tokens: tuple[int, ...]) -> np.ndarray:
        """Return the model's distribution after some tokens, (|S|,)."""
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
        """Return for each cover whether the encoding of some text begins with its tokens."""
        known = {cover for cover in covers if cover in self._valid}
        for texts_of in (self.completions, self.continuations):
            owners, texts = [], []
            for cover in covers:
                if cover not in known and not self._valid.get(cover):
                    candidates = texts_of(b"".join(self.vocabulary.token_bytes[i] for i in cover))
                    owners += [cover] * len(candidates)
                    texts += candidates
            encodings = self.vocabulary.tokenizer.encode_batch(texts, add_special_tokens=False)
            for cover, encoding in zip(owners, encodings, strict=True):
                if tuple(encoding.ids[: len(cover)]) == cover:
                    self._valid[cover] = True
            for cover in covers:
                self._valid.setdefault(cover, False)
        return [self._valid[cover] for cover in covers]

    def completions(self, data: bytes) -> list[str]:
        """Return the text that some bytes encode, or a text for each way to complete their last character."""
        try:
            return [data.decode()]
        except UnicodeDecodeError as error:
            text, partial = data[: error.start], data[error.start :]
        if not _is_text(text):
            return []
        return [text.decode() + character for character in CHARACTERS.get(partial, ())]

    def continuations(self, data: bytes) -> list[str]:
        """Return texts that continue some bytes; none if these end inside a character."""
        if not _is_text(data):
            return []
        pairs = itertools.product(" \na1'l", repeat=2)
        return [data.decode() + continuation for continuation in (*self.alphabet, *map("".join, pairs))]

    def next_byte(self, text: bytes) -> np.ndarray:
        """Return the distribution over the next byte or control token after a text, (256 + s,)."""
        token_bytes = self.vocabulary.token_bytes
        control_ids = np.flatnonzero(self.vocabulary.kinds == TokenKind.CONTROL)
        mass = np.zeros(256 + len(control_ids))
        inner: list[tuple[tuple[int, ...], bytes, float]] = [((), b"", 1.0)]  # covers that end within the text
        longer: list[tuple[tuple[int, ...], int, float]] = []  # covers that reach beyond it, with the next byte
        while inner:
            cover, data, p = inner.pop()
            if not self.valid([cover])[0]:  # then no cover that begins with it is valid
                continue
            p_next = self.p(cover)
            for i, token in enumerate(token_bytes):
                if token is None:
                    continue
                spelled = data + token
                if spelled[: len(text)] == text and len(spelled) > len(text):
                    longer.append(((*cover, i), spelled[len(text)], p * p_next[i]))
                elif text.startswith(spelled):
                    inner.append(((*cover, i), spelled, p * p_next[i]))
            try:
                encoding = self.vocabulary.tokenizer.encode(text.decode(), add_special_tokens=False).ids
            except UnicodeDecodeError:
                encoding = None
            if data == text and list(cover) == encoding:
                mass[256:] += p * p_next[control_ids]
        for (_, byte, p), is_valid in zip(longer, self.valid([cover for cover, _, _ in longer]), strict=True):
            mass[byte] += p * is_valid
        return mass / mass.sum() if mass.sum() else mass


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def build_worlds() -> dict[str, World]:
    """Return a world for each kind of tokenizer."""
    worlds = {}
    for number, (name, build) in enumerate(KINDS.items()):
        tokenizer = build()
        add_bos_token = name in ("byte fallback", "unigram")
        vocabulary = Vocabulary.from_tokenizer(
            tokenizer,
            size=tokenizer.get_vocab_size() + 2,
            name=name,
            roles={"bos": 0, "eos": 1},
            add_bos_token=add_bos_token,
        )
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary.size, **SHAPE)).eval()
        worlds[name] = World(LoadedModel(name, "", model, vocabulary))
    return worlds
