"""Pre-tokenizers of GGUF files: how text is cut into words, for each name of `tokenizer.ggml.pre` in llama.cpp.

Names with the same pre-tokenizer form a group, as in llama.cpp. Source: `llama_vocab::impl::load` in
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp. If llama.cpp's pattern only approximates that of
the model's tokenizer.json, the table has the pattern of tokenizer.json.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from vocabridge.alignment.errors import VocabridgeError

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
_LARGE, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(ending: str, numbers: str) -> str:
    """Return GPT-4o's pattern, which cuts a word between a lower-case and an upper-case letter."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{start}{_LARGE}*{_SMALL}+{ending}|{start}{_LARGE}+{_SMALL}*{ending}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"


_LLAMA_3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}"
_QWEN_2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_MARKS}"
_QWEN_35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}"
)
_GPT_4O = _cased(f"{_CONTRACTION}?", r"\p{N}{1,3}")
_TEKKEN = _cased("", r"\p{N}")
_DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}",
)
_CHAMELEON = (
    r"<sentinel:[0-9]+>",
    r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r"([\t\n]|    |  )",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
)


def _gpt_2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_then_gpt_2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt_2()])


def _splits(*patterns: str, then_gpt_2: bool = False) -> pre_tokenizers.PreTokenizer:
    """Return a pre-tokenizer that cuts text by the first pattern, the resulting pieces by the next, and so on."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=then_gpt_2)
    return pre_tokenizers.Sequence([*splits, last])


@dataclass(frozen=True)
class WordCutting:
    """How the tokenizers of one group cut text into words.

    Attributes:
        pre_tokenizer: Cuts text into words and spells their bytes in GPT-2's alphabet.
        add_bos_token: Whether llama.cpp puts the bos token in front of a text if the file has no setting for it.
        keeps_whole: Whether a word that is a token becomes that token even if no chain of merges leads to it.
        composes: Whether characters are composed first (NFC).
    """

    pre_tokenizer: pre_tokenizers.PreTokenizer
    add_bos_token: bool = False
    keeps_whole: bool = False
    composes: bool = False


_GROUPS = {
    (
        "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
    ): WordCutting(_splits(_LLAMA_3), add_bos_token=True, keeps_whole=True),
    ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"): WordCutting(_splits(_LLAMA_3)),
    ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"): WordCutting(_splits(_QWEN_2), composes=True),
    ("stablelm2", "hunyuan", "solar-open", "grok-2"): WordCutting(_splits(_QWEN_2)),
    ("qwen35",): WordCutting(_splits(_QWEN_35), composes=True),
    ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"): WordCutting(_splits(_GPT_4O), keeps_whole=True),
    ("tekken",): WordCutting(_splits(_TEKKEN), add_bos_token=True, keeps_whole=True),
    ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"): WordCutting(_splits(*_DEEPSEEK_3)),
    ("chameleon",): WordCutting(_splits(*_CHAMELEON, then_gpt_2=True), add_bos_token=True),
    (
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
    ): WordCutting(_digits_then_gpt_2()),
    (
        "default", "gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "modern-bert", "exaone4", "mpt", "olmo", "jais",
        "trillion", "granite-docling", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de",
    ): WordCutting(_gpt_2()),
}  # fmt: skip

_BY_NAME = {name: cutting for names, cutting in _GROUPS.items() for name in names}


def word_cutting(name: str) -> WordCutting:
    """Return how tokenizers with this `tokenizer.ggml.pre` cut text.

    Raises:
        VocabridgeError: The name is not known.
    """
    if name not in _BY_NAME:
        raise VocabridgeError(
            f"the pre-tokenizer {name!r} is not known, so text would be cut wrongly; use its tokenizer.json"
        )
    return _BY_NAME[name]
