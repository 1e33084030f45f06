"""What all tests share: small tokenizers trained here, no network, and a cache folder of their own.

Fast tests see a new, empty cache each. Tests marked `real` share one, in which the packaged models are
converted once: the folder in VOCABRIDGE_TEST_CACHE if that is set, else the user's own.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog, and 12 other foxes watch the 345 dogs sleep.",
    "Question: A baker sells 24 loaves a day. How many in 7 days?\nAnswer: 24*7=168 loaves.\n#### 168",
    "def count(words):\n    return {word: words.count(word) for word in set(words)}\n",
    "Die Straße führt über Brücken; cafés, naïve déjà-vu. Привет, мир! 東京は日本の首都です。 🙂🎉",
] * 3


@dataclass(frozen=True)
class TokenizerFolders:
    """Two small tokenizers as folders with tokenizer.json, tokenizer_config.json and config.json.

    Attributes:
        source: Byte-level BPE over single digits, as SmolLM2's.
        target: BPE with "▁" for the space and byte fallback, as Gemma's; larger.
    """

    source: Path
    target: Path


def pytest_configure(config: pytest.Config) -> None:
    if folder := os.environ.get("VOCABRIDGE_TEST_CACHE"):
        os.environ["VOCABRIDGE_CACHE"] = folder


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("real") is None:
        folder = request.getfixturevalue("tmp_path_factory").mktemp("cache")
        monkeypatch.setenv("VOCABRIDGE_CACHE", str(folder))


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolders:
    folder = tmp_path_factory.mktemp("tokenizers")
    return TokenizerFolders(
        source=_save(_byte_level(400), folder / "source", size=416),
        target=_save(_sentencepiece(700), folder / "target", size=704),
    )


def _byte_level(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _sentencepiece(size: int) -> Tokenizer:
    specials = ["<|begin|>", "<|end|>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*specials, *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    # Only the first three are special; the trainer knows no other way to give the byte tokens their places.
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(content, special=True) for content in specials])
    return tokenizer


def _save(tokenizer: Tokenizer, folder: Path, *, size: int) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
    return folder
