"""Text from a bridge as it comes: one forward a token, whole characters only.

It is the text that `Bridge.generate` gives for the same settings: transformers prepares everything (settings, the
logits processors that they ask for, when to stop), and only its loop is replaced, by one that can be iterated. A
character whose bytes are spread over several tokens appears with the last of them, and what may yet become a stop
string with the token that decides. Beams are known at the end alone, so with several all text comes then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

from vocabridge.alignment import Effect, VocabridgeError, refuse_idle
from vocabridge.bridge.cache import BridgeCache
from vocabridge.bridge.chat import chat_prompt
from vocabridge.bridge.model import Bridge
from vocabridge.byte_level.byte_bridge import ByteLevelBridge
from vocabridge.byte_level.streaming import ByteLevelStream
from vocabridge.decoding.stop_strings import StopStrings, stop_bytes, whole_characters
from vocabridge.models.chat import Messages, place_behind
from vocabridge.models.end_tokens import end_tokens
from vocabridge.models.prompts import left_padded, padding, prompt_ids
from vocabridge.models.transformers_version import CACHE
from vocabridge.utils.ranges import BEAMS, COUNT, TEMPERATURE, TOP_P


def stream(
    bridge: Bridge | ByteLevelBridge,
    prompt: str | Messages,
    *,
    max_new_tokens: int,
    stop: str | Sequence[str] = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    beams: int = 1,
) -> Stream | ByteLevelStream:
    """Continues a text, or answers a conversation.

    Args:
        bridge: The bridge, or a byte-level one.
        prompt: The text to continue; or messages, which each model reads in its own chat template.
        max_new_tokens: Stop after so many tokens of the base model, if it has not ended before; a byte-level bridge at
            the end of the word.
        stop: Strings that end the text, and are no part of it.
        temperature: 0 takes the likeliest token, above it is drawn.
        top_p: Draws from the likeliest tokens that have this probability together.
        beams: Looks for the likeliest text with so many beams.

    Returns:
        An iterator over pieces of the text, none empty; bytes that are no text appear as U+FFFD.

    Raises:
        VocabridgeError: The prompt is empty and the base model has no bos token to start from; a model has no chat
            template; or a setting is out of its range, such as beams of a byte-level bridge, or has no effect.
    """
    if max_new_tokens not in COUNT or beams not in BEAMS:
        raise VocabridgeError(
            f"cannot write {max_new_tokens} tokens with {beams} beams; give {COUNT} of tokens, and {BEAMS} of beams"
        )
    if temperature not in TEMPERATURE or top_p not in TOP_P:
        raise VocabridgeError(
            f"cannot draw at temperature {temperature} and top-p {top_p}; give {TEMPERATURE} for the temperature, and "
            f"{TOP_P} for top-p"
        )
    refuse_idle(Effect("top_p", top_p != 1, temperature > 0, "nothing is drawn at temperature 0; raise it"))
    if isinstance(bridge, ByteLevelBridge):
        if beams > 1:
            raise VocabridgeError("a byte-level bridge writes byte by byte and has no beams; leave beams at 1")
        return ByteLevelStream(bridge, prompt, max_new_tokens, stop, temperature, top_p)
    # Where nothing is drawn, the values that mean "not set" to transformers, whatever the base's own settings are.
    drawing = {"temperature": temperature, "top_p": top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=beams,
        do_sample=temperature > 0,
        eos_token_id=list(end_tokens(bridge.vocabulary, bridge, chat=not isinstance(prompt, str))) or None,
        pad_token_id=padding(bridge.vocabulary),
        use_cache=True,
        **(drawing if temperature > 0 else {"temperature": 1.0, "top_p": 1.0, "top_k": 50}),
    )
    return Stream(bridge, _inputs(bridge, prompt), config, stop)


class Stream(Iterator[str]):
    """Pieces of a text that is being written.

    Attributes:
        tokens: How many tokens have been written, an end token among them.
    """

    def __init__(
        self, bridge: Bridge, inputs: dict[str, Any], config: GenerationConfig, stop: str | Sequence[str]
    ) -> None:
        """Of one text; `inputs` is what `generate` is called with."""
        self.tokens = 0
        self._bridge = bridge
        self._inputs = inputs
        self._config = config
        self._stop = stop
        self._cache: BridgeCache | None = None
        self._text = whole_characters(self._data(), stop_bytes(stop))

    def __next__(self) -> str:
        """The next piece."""
        return next(self._text)

    @property
    def changed_rate(self) -> float | None:
        """Share of the tokens so far at which steering changed the likeliest one; None before any, and at strength 0.

        Of all beams, where there are several; see `BridgeCache.changed_rate`.
        """
        rate = None if self._cache is None else self._cache.changed_rate
        return None if rate is None else float(rate.mean())

    def _data(self) -> Iterator[bytes]:
        """The bytes of every token; none of an end token."""
        ends, vocabulary = self._config.eos_token_id or (), self._bridge.vocabulary
        place = place_behind(vocabulary, self._inputs["input_ids"][0].tolist())
        for token in self._written():
            self.tokens += 1
            data = vocabulary.token_bytes[token]
            yield b"" if data is None or token in ends else vocabulary.prefix_space.strip(data, place)
            place = place.after(token if data is None else data)

    def _written(self) -> Iterator[int]:
        bridge: Any = self._bridge  # transformers types `generate` for its own classes only
        if self._config.num_beams == 1:
            yield from bridge.generate(**self._inputs, generation_config=self._config, custom_generate=self._one_by_one)
        else:
            length = self._inputs["input_ids"].shape[1]
            criterion = StopStrings(self._bridge.vocabulary, self._stop, length)
            output = bridge.generate(
                **self._inputs,
                generation_config=self._config,
                stopping_criteria=StoppingCriteriaList([criterion]),
                return_dict_in_generate=True,
            )
            self._cache = output[CACHE]
            yield from output.sequences[0, length:].tolist()

    def _one_by_one(
        self,
        bridge: Bridge,
        input_ids: Tensor,
        *,
        logits_processor: Callable[[Tensor, Tensor], Tensor],
        stopping_criteria: Callable[[Tensor, Tensor], Tensor],
        generation_config: GenerationConfig,
        **model_inputs: Any,
    ) -> Iterator[int]:
        """The loop of `generate` for one text, (1, n) ids."""
        self._cache, new, finished = model_inputs[CACHE], input_ids, False
        while not finished:
            # Nobody's gradients are switched off between two tokens.
            with torch.no_grad():
                output = bridge(input_ids=new, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
                scores = logits_processor(input_ids, output.logits[:, -1].float())
                if generation_config.do_sample:
                    new = scores.softmax(-1).multinomial(1)
                else:
                    new = scores.argmax(-1, keepdim=True)
                input_ids = torch.cat([input_ids, new], 1)
                finished = bool(stopping_criteria(input_ids, scores).all())
            yield int(new)


def _inputs(bridge: Bridge, prompt: str | Messages) -> dict[str, Any]:
    """What `generate` is called with."""
    if not isinstance(prompt, str):
        return chat_prompt(bridge, prompt)
    ids = prompt_ids(bridge.vocabulary, prompt)
    if not ids:
        raise VocabridgeError("the prompt is empty and the base model has no bos token; give it some text")
    return left_padded([ids], padding(bridge.vocabulary), bridge.device)
