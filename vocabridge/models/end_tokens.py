"""The end tokens of a model: generation stops at any of them, and a training text ends with the first.

Both the tokenizer and the generation configuration of a model name end tokens, the latter possibly several. The two
often differ, for instance after fine-tuning on a chat template. All code that generates or trains uses this function.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from vocabridge.alignment import Vocabulary


def end_tokens(vocabulary: Vocabulary, model: PreTrainedModel | None = None, *, chat: bool = False) -> tuple[int, ...]:
    """Return the ids of all end tokens of a model.

    Args:
        vocabulary: The model's vocabulary.
        model: The model, whose generation configuration may name further end tokens.
        chat: Whether the token that ends a turn of the chat template is an end token, too.

    Returns:
        Each id once, the tokenizer's end token first; empty for a model without end tokens.
    """
    roles = ("eos", "turn end") if chat else ("eos",)
    tokenizer_ids = [vocabulary.roles[role] for role in roles if role in vocabulary.roles]
    config = None if model is None else model.generation_config
    eos_token_id = None if config is None else config.eos_token_id
    config_ids = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
    return tuple(dict.fromkeys(tokenizer_ids + config_ids))
