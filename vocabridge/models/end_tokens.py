"""The end tokens of a model: at which of them generation stops, and which one a training text ends with.

Two files of a model name end tokens: its tokenizer's, and its generation configuration, which may list several. The two
often differ, for instance after fine-tuning on a chat template. Everything that generates or trains asks here.
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
        Each id once, the tokenizer's own end token first; none for a model without end tokens.
    """
    roles = ("eos", "turn end") if chat else ("eos",)
    own = [vocabulary.roles[role] for role in roles if role in vocabulary.roles]
    config = None if model is None else model.generation_config
    configured = None if config is None else config.eos_token_id
    listed = [configured] if isinstance(configured, int) else list(configured or ())
    return tuple(dict.fromkeys(own + listed))
