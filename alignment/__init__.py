"""Tokenizers to sparse matrices: which tokens of two vocabularies speak for each other, compared as bytes.

No torch and no model in here: numpy, scipy and tokenizers.
"""

from .errors import VocabridgeError
from .gguf import GGUFTokenizer, read_gguf_tokenizer
from .vocabulary import Encoding, Kind, Vocabulary

__all__ = ["Encoding", "GGUFTokenizer", "Kind", "Vocabulary", "VocabridgeError", "read_gguf_tokenizer"]
