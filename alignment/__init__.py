"""Tokenizers to sparse matrices: which tokens of two vocabularies speak for each other, compared as bytes.

No torch and no model in here: numpy, scipy and tokenizers. `align` is the one call that users make.
"""

from .alignment import Alignment, Summary, VocabularyCard
from .all_pairs import BuiltPair, align_pairs, short_names
from .audit import Audit, weak_classes
from .builder import Builder, Progress, Reads
from .builders.chain import Chain
from .builders.combined import Combined
from .builders.cooccurrence import Cooccurrence
from .builders.dtw import DTW
from .builders.dtw_counts import DTWCounts
from .builders.edit_distance import EditDistance
from .builders.embedding import Embedding, Search
from .builders.exact import Exact
from .builders.expected import Expected
from .builders.prefix import Prefix
from .builders.retokenize import Retokenize
from .cache import cache_folder
from .classes import TokenClass, classes_of
from .corpus import Corpus, CorpusCard, Shard
from .counting import CountingBuilder, count_texts
from .distributions import Distributions
from .embedding_table import EmbeddingTable
from .errors import Effect, Terminated, UsageError, VocabridgeError, refuse_idle, warn_idle
from .files import write_whole
from .gguf import GGUFTokenizer, read_gguf_tokenizer
from .methods import METHODS, align, make_builder
from .pair_counts import PairCounts
from .prefix_space import Place, Rule
from .shards import PartialCounts, count_shard, merge_shards
from .tiktoken import read_tiktoken, tiktoken_tokenizer
from .vocabulary import Encoding, Kind, Vocabulary

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
    "Exact",
    "Expected",
    "GGUFTokenizer",
    "Kind",
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
    "write_whole",
]
