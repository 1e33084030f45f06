"""Tiny models with their vocabularies, and tokenizers of every kind, for the runtime's tests."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from boundary_judge import Judge
from byte_level_worlds import KINDS as WORLD_KINDS
from byte_level_worlds import World, build_worlds
from tiny import CONTROL, SHAPE, unigram
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.utils import logging

from vocabridge.alignment import Alignment, Encoding, Vocabulary, align
from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet
from vocabridge.bridge.model import Bridge
from vocabridge.models.delta_model import DeltaModel
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import LoadedModel
from vocabridge.models.value_network import ValueNetwork
from vocabridge.models.value_network_files import ValueNetworkConfig
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.training.config import TrainingConfig

logging.disable_progress_bar()

ROLES = {"bos": 0, "eos": 1}
KINDS = ["byte_level", "sentencepiece", "unigram", "wordpiece", "no_safe_cuts", "special_with_spaces"]


@pytest.fixture(scope="session")
def vocabularies(tokenizer_folders, training_text) -> dict[str, Vocabulary]:
    """One vocabulary of every kind, each wider than its tokenizer."""
    made = {
        "unigram": unigram(training_text),
        "wordpiece": _wordpiece(training_text),
        "no_safe_cuts": _across_words(training_text),
        "special_with_spaces": _special_with_spaces(
            Tokenizer.from_file(str(tokenizer_folders.source / "tokenizer.json"))
        ),
    }
    return {
        "byte_level": Vocabulary.load(tokenizer_folders.source),
        "sentencepiece": Vocabulary.load(tokenizer_folders.target),
        **{
            kind: Vocabulary.from_tokenizer(tokenizer, size=900, name=kind, roles=ROLES)
            for kind, tokenizer in made.items()
        },
    }


@pytest.fixture(scope="session", params=KINDS)
def any_vocabulary(request, vocabularies) -> Vocabulary:
    return vocabularies[request.param]


def _wordpiece(text: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        text, trainers.WordPieceTrainer(vocab_size=300, special_tokens=CONTROL, show_progress=False)
    )
    return tokenizer


def _across_words(text: list[str]) -> Tokenizer:
    """Byte-level BPE over whole texts: it has tokens such as "s a"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def _special_with_spaces(tokenizer: Tokenizer) -> Tokenizer:
    """A special token that is cut in two by what is a safe cut elsewhere."""
    tokenizer.add_special_tokens([AddedToken("<|start of turn|>", special=True)])
    return tokenizer


@pytest.fixture(scope="session")
def tiny() -> dict[str, Vocabulary]:
    """Byte-level vocabularies so small that an equation over all of their tokens can be written out in loops.

    All bytes, each with its value as id, and after them some words, each merged of one before it and a byte.
    """
    words = {
        "bytes": (),
        "source": (b" t", b" th", b" the", b"th", b"the", b"  ", b"   ", b"he", "é".encode()),
        "target": (b"th", b"the", b"  ", b" a", "é".encode(), b"h\xc3", "hé".encode()),
        "highest": (b"\xfe\xff", b"\xfe\xff\x00", b"\xfe\xff\xff", b"\xff\x00", b"\xff\xff", b"\xff\xff\xff", b"ab"),
    }
    return {name: _of_words(several, name) for name, several in words.items()}


def _of_words(words: tuple[bytes, ...], name: str) -> Vocabulary:
    letter = {byte: character for character, byte in byte_level_alphabet().items()}
    spellings = ["".join(letter[byte] for byte in word) for word in words]
    entries = {letter[byte]: byte for byte in range(256)} | {s: 256 + i for i, s in enumerate(spellings)}
    tokenizer = Tokenizer(models.BPE(entries, [(spelling[:-1], spelling[-1]) for spelling in spellings]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Vocabulary.from_tokenizer(tokenizer, name=name, roles={})


@pytest.fixture(scope="session")
def judge() -> Callable[[Vocabulary], Judge]:
    """A judge of boundaries for each target vocabulary."""
    return functools.lru_cache(None)(Judge)


@dataclass(frozen=True)
class ModelPool:
    """What bridges are made of; float32, so that equal computations give nearly equal numbers.

    Attributes:
        base: Gemma-3 with the SentencePiece-like vocabulary.
        small: Llama with the byte-level vocabulary.
        tuned: The same with other weights.
        alignment: From `small` to `base`.
    """

    base: LoadedModel
    small: LoadedModel
    tuned: LoadedModel
    alignment: Alignment

    @property
    def pair(self) -> ExpertPair:
        return ExpertPair(self.tuned, self.small)

    def residual(self, change: float = 0.0) -> ValueNetwork:
        """A value network whose change of logits is about that big; 0 as at the start of training."""
        model = AutoModelForCausalLM.from_pretrained(self.small.folder, dtype=torch.float32)
        value = DeltaModel(model)
        torch.nn.init.normal_(value.projection.weight, std=change, generator=torch.Generator().manual_seed(0))
        config = ValueNetworkConfig(self.small.folder, self.small.vocabulary.fingerprint, "full")
        return ValueNetwork(self.small, value.eval(), config, "value network")

    def bridge(self, source=None, method=ProjectionMethod.INFORMED, weights=(1.0, 1.0, 1.0), **arguments) -> Bridge:
        return Bridge.over(self.base, source or self.pair, self.alignment, Combination(method, *weights), **arguments)


@pytest.fixture(scope="session")
def loaded(model_folders) -> dict[str, LoadedModel]:
    return {
        name: LoadedModel(
            name=name,
            folder=str(folder),
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
            vocabulary=Vocabulary.load(folder),
        )
        for name, folder in vars(model_folders).items()
    }


@pytest.fixture(scope="session")
def parts(loaded, training_text, tmp_path_factory) -> ModelPool:
    corpus = tmp_path_factory.mktemp("corpus") / "text.txt"
    corpus.write_text("\n".join(training_text), encoding="utf-8")
    source, target = loaded["source"], loaded["target"]
    alignment = align(source.vocabulary, target.vocabulary, corpus=[corpus], cache=False)
    return ModelPool(base=target, small=source, tuned=loaded["tuned"], alignment=alignment)


TURNS = {"turn begin": "<|turn|>", "turn end": "<|end of turn|>"}
"""Control tokens with which chat templates mark turns, by role."""


@pytest.fixture(scope="session")
def chatty(parts) -> ModelPool:
    """The same models, and tokenizers that have control tokens for turns, at other ids each."""
    source, target = _with_turns(parts.small.vocabulary, TURNS), _with_turns(parts.base.vocabulary, TURNS, reverse=True)
    return ModelPool(
        base=replace(parts.base, vocabulary=target),
        small=replace(parts.small, vocabulary=source),
        tuned=replace(parts.tuned, vocabulary=source),
        alignment=align(source, target, method="retokenize", cache=False),
    )


def _with_turns(vocabulary: Vocabulary, turns: dict[str, str], *, reverse: bool = False) -> Vocabulary:
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer.to_str())
    names = list(turns.values())[:: -1 if reverse else 1]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    roles = {**vocabulary.roles, **{role: tokenizer.token_to_id(name) for role, name in turns.items()}}
    return Vocabulary.from_tokenizer(
        tokenizer, size=vocabulary.size, name="chatty", roles=roles, add_bos_token=vocabulary.add_bos_token
    )


@pytest.fixture(scope="session")
def reverse(loaded) -> ModelPool:
    """The other direction: Gemma-3, with its bos token and its window, steers Llama."""
    source, target = loaded["target"], loaded["source"]
    alignment = align(source.vocabulary, target.vocabulary, method="retokenize", cache=False)
    return ModelPool(base=target, small=source, tuned=source, alignment=alignment)


@pytest.fixture(scope="session")
def third(vocabularies) -> LoadedModel:
    """A model of a third family, whose tokens stand across words, so that it has no safe cuts at spaces."""
    config = LlamaConfig(vocab_size=900, **SHAPE)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = LlamaForCausalLM(config).eval()
    return LoadedModel("third", "", model, vocabularies["no_safe_cuts"])


@pytest.fixture(scope="session")
def sliding(vocabularies) -> LoadedModel:
    """A model all of whose layers have a sliding window, of 5 tokens, with the byte-level vocabulary."""
    config = MistralConfig(vocab_size=416, sliding_window=5, **SHAPE)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = MistralForCausalLM(config).eval()
    return LoadedModel("sliding", "", model, vocabularies["byte_level"])


@pytest.fixture
def data(tmp_path) -> Path:
    """Five examples to train on."""
    path = tmp_path / "data.jsonl"
    lines = [
        {"prompt": f"Question: {n} foxes?\nAnswer:", "response": f" {n}*2={2 * n} foxes.", "id": f"item {n}"}
        for n in (3, 12, 24, 345, 7)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def config(model_folders) -> TrainingConfig:
    """Three steps an epoch on these."""
    return TrainingConfig(str(model_folders.source), epochs=4, batch_size=2, learning_rate=1e-2, method="lora")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of characters in every text that any vocabulary is given from now on."""
    sizes: list[int] = []
    encode = Vocabulary.encode_batch

    def counted(vocabulary: Vocabulary, several: Sequence[str]) -> list[Encoding]:
        sizes.extend(map(len, several))
        return encode(vocabulary, several)

    monkeypatch.setattr(Vocabulary, "encode_batch", counted)
    return sizes


@pytest.fixture
def forwards() -> Iterator[Callable[[torch.nn.Module], list[tuple[int, int]]]]:
    """Watches a model: a list that grows by the (rows, columns) of each of its forwards."""
    handles = []

    def watch(model: torch.nn.Module) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []

        def note(_module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            ids = arguments[0] if arguments else named["input_ids"]
            seen.append(tuple(ids.shape))

        handles.append(model.register_forward_pre_hook(note, with_kwargs=True))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Fixes the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def bigram() -> Callable[[Vocabulary, dict[bytes, dict[bytes | int, float]]], LoadedModel]:
    """Makes models for which the last token decides what follows."""
    return _bigram


def _bigram(vocabulary: Vocabulary, after: dict[bytes, dict[bytes | int, float]]) -> LoadedModel:
    """A model for which the last token decides what follows, by a table; what has no row says anything alike.

    What follows is named by its bytes, or by its id where it has none.
    """
    size = vocabulary.size
    width = size + size % 2
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
    )
    model, table = LlamaForCausalLM(config).eval(), torch.zeros(size, size)
    for w, several in after.items():
        table[vocabulary.canonical[w]] = -40.0
        for v, share in several.items():
            follows = v if isinstance(v, int) else vocabulary.canonical[v]
            table[vocabulary.canonical[w], follows] = math.log(share)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, width))
        model.lm_head.weight[:, :size] = table.T / math.sqrt(width)
    return LoadedModel("bigram", "", model, vocabulary)


@pytest.fixture(scope="session")
def worlds() -> dict[str, World]:
    return build_worlds()


@pytest.fixture(params=WORLD_KINDS)
def world(request, worlds) -> World:
    return worlds[request.param]
