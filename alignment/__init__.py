"""Align the tokens of two vocabularies, compared as bytes, in one sparse matrix of counts.

`align` is the main entry point. This package uses numpy, scipy and tokenizers; it imports no torch and runs no model.
"""

from vocabridge.alignment.alignment import Alignment, Summary, VocabularyCard
from vocabridge.alignment.all_pairs import BuiltPair, align_pairs, short_names
from vocabridge.alignment.audit import Audit, weak_classes
from vocabridge.alignment.builders.base import Builder, Progress, Reads
from vocabridge.alignment.builders.chain import Chain
from vocabridge.alignment.builders.combined import Combined
from vocabridge.alignment.builders.cooccurrence import Cooccurrence
from vocabridge.alignment.builders.dtw import DTW
from vocabridge.alignment.builders.dtw_counts import DTWCounts
from vocabridge.alignment.builders.edit_distance import EditDistance
from vocabridge.alignment.builders.embedding import Embedding, Search
from vocabridge.alignment.builders.expected import Expected
from vocabridge.alignment.builders.identical_bytes import IdenticalBytes
from vocabridge.alignment.builders.prefix import Prefix
from vocabridge.alignment.builders.retokenize import Retokenize
from vocabridge.alignment.cache import cache_folder
from vocabridge.alignment.corpus import Corpus, CorpusCard, Shard
from vocabridge.alignment.counting.counting_builder import (
    CountingBuilder,
    count_texts,
)
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.counting.shards import (
    PartialCounts,
    count_shard,
    merge_shards,
)
from vocabridge.alignment.distributions import Distributions
from vocabridge.alignment.embedding_table import EmbeddingTable
from vocabridge.alignment.errors import Effect, Terminated, UsageError, VocabridgeError, refuse_idle, warn_idle
from vocabridge.alignment.files import write_atomically
from vocabridge.alignment.methods import METHODS, align, make_builder
from vocabridge.alignment.tokenizers.classes import TokenClass, classes_of
from vocabridge.alignment.tokenizers.gguf import GGUFTokenizer, read_gguf_tokenizer
from vocabridge.alignment.tokenizers.native import with_native
from vocabridge.alignment.tokenizers.prefix_space import Place, Rule
from vocabridge.alignment.tokenizers.tiktoken import read_tiktoken, tiktoken_tokenizer
from vocabridge.alignment.tokenizers.tokens import Encoding, TokenKind
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

__all__ = [
    "DTW",
    "METHODS",
    "Alignment",
    "Audit",
    "Builder",
    "BuiltPair",
    "Chain",
    "Combined",
    "Cooccurrence",
    "Corpus",
    "CorpusCard",
    "CountingBuilder",
    "DTWCounts",
    "Distributions",
    "EditDistance",
    "Effect",
    "Embedding",
    "EmbeddingTable",
    "Encoding",
    "Expected",
    "GGUFTokenizer",
    "IdenticalBytes",
    "PairCounts",
    "PartialCounts",
    "Place",
    "Prefix",
    "Progress",
    "Reads",
    "Retokenize",
    "Rule",
    "Search",
    "Shard",
    "Summary",
    "Terminated",
    "TokenClass",
    "TokenKind",
    "UsageError",
    "VocabridgeError",
    "Vocabulary",
    "VocabularyCard",
    "align",
    "align_pairs",
    "cache_folder",
    "classes_of",
    "count_shard",
    "count_texts",
    "make_builder",
    "merge_shards",
    "read_gguf_tokenizer",
    "read_tiktoken",
    "refuse_idle",
    "short_names",
    "tiktoken_tokenizer",
    "warn_idle",
    "weak_classes",
    "with_native",
    "write_atomically",
]
