"""Tokenizers to sparse matrices: which tokens of two vocabularies speak for each other, compared as bytes.

No torch and no model in here: numpy, scipy and tokenizers. `align` is the one call that users make.
"""

from .alignment import Alignment, Summary, VocabularyCard
from .audit import Audit, weak_classes
from .builder import Builder, Progress, Reads
from .cache import cache_folder
from .combined import Combined
from .cooccurrence import Cooccurrence
from .corpus import Corpus, CorpusCard
from .errors import VocabridgeError
from .exact import Exact
from .files import write_whole
from .gguf import GGUFTokenizer, read_gguf_tokenizer
from .methods import METHODS, align
from .retokenize import Retokenize
from .vocabulary import Encoding, Kind, Vocabulary

__all__ = [
    "METHODS",
    "Alignment",
    "Audit",
    "Builder",
    "Combined",
    "Cooccurrence",
    "Corpus",
    "CorpusCard",
    "Encoding",
    "Exact",
    "GGUFTokenizer",
    "Kind",
    "Progress",
    "Reads",
    "Retokenize",
    "Summary",
    "VocabridgeError",
    "Vocabulary",
    "VocabularyCard",
    "align",
    "cache_folder",
    "read_gguf_tokenizer",
    "weak_classes",
    "write_whole",
]
