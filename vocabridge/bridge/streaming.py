"""Streaming: the text of a bridge while it is generated, one forward a token, in whole characters.

The text is the one that `Bridge.generate` gives for the same settings. transformers prepares the settings, the logits
processors and the stopping criteria; only its loop is replaced, by one that is an iterator. A character whose bytes are
spread over several tokens appears with the last of them. Text that may become a stop string appears with the token that
decides. With beam search, all text comes at the end, because the best beam is known only then.
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
from vocabridge.decoding.stop_strings import StopStrings, decode_until_stop, stop_bytes
from vocabridge.models.chat import Messages, place_after
from vocabridge.models.end_tokens import end_tokens
from vocabridge.models.prompts import left_padded, pad_id, prompt_ids
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
    """Continue a text, or answer a conversation.

    Args:
        bridge: The bridge, or a byte-level bridge.
        prompt: The text to continue; or messages, which each model reads in its own chat template.
        max_new_tokens: The largest number of the base model's tokens. A byte-level bridge stops at the end of the word.
        stop: Strings that end the text. The text does not contain them.
        temperature: The temperature of sampling; 0 takes the most likely token.
        top_p: Sample from the most likely tokens that have this probability together.
        beams: The number of beams of beam search; 1 for none.

    Returns:
        An iterator over pieces of the text, none of them empty. Bytes that are not valid UTF-8 appear as U+FFFD.

    Raises:
        VocabridgeError: The prompt is empty and the base model has no bos token; a model has no chat template; or a
            setting is out of its range, such as beams of a byte-level bridge, or has no effect.
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
    # Without sampling, the values that mean "not set" to transformers, whatever the base's generation config holds.
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=beams,
        do_sample=temperature > 0,
        eos_token_id=list(end_tokens(bridge.vocabulary, bridge, chat=not isinstance(prompt, str))) or None,
        pad_token_id=pad_id(bridge.vocabulary),
        use_cache=True,
        **(sampling if temperature > 0 else {"temperature": 1.0, "top_p": 1.0, "top_k": 50}),
    )
    return Stream(bridge, _inputs(bridge, prompt), config, stop)


class Stream(Iterator[str]):
    """An iterator over the pieces of a text while it is generated.

    Attributes:
        tokens: The number of tokens generated so far, an end token included.
    """

    def __init__(
        self, bridge: Bridge, inputs: dict[str, Any], config: GenerationConfig, stop: str | Sequence[str]
    ) -> None:
        """Stream one text; `inputs` are the prompt's arguments of `generate`."""
        self.tokens = 0
        self._bridge = bridge
        self._inputs = inputs
        self._config = config
        self._stop = stop
        self._cache: BridgeCache | None = None
        self._text = decode_until_stop(self._data(), stop_bytes(stop))

    def __next__(self) -> str:
        """Return the next piece of text."""
        return next(self._text)

    @property
    def changed_rate(self) -> float | None:
        """The share of tokens at which steering changed the most likely one; None before any, and at strength 0.

        With several beams it is the mean over all of them; see `BridgeCache.changed_rate`.
        """
        rate = None if self._cache is None else self._cache.changed_rate
        return None if rate is None else float(rate.mean())

    def _data(self) -> Iterator[bytes]:
        """Yield the bytes of each token that are text; an end token has none."""
        ends, vocabulary = self._config.eos_token_id or (), self._bridge.vocabulary
        place = place_after(vocabulary, self._inputs["input_ids"][0].tolist())
        for token in self._generated():
            self.tokens += 1
            data = vocabulary.token_bytes[token]
            yield b"" if data is None or token in ends else vocabulary.prefix_space.strip(data, place)
            place = place.after(token if data is None else data)

    def _generated(self) -> Iterator[int]:
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
        """Run the loop of `generate` for one text, ids (1, n), and yield each new token."""
        self._cache, new, finished = model_inputs[CACHE], input_ids, False
        while not finished:
            # Not around the whole loop, so that the caller's gradient mode is unchanged between two tokens.
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
    """Return the prompt's arguments of `generate`."""
    if not isinstance(prompt, str):
        return chat_prompt(bridge, prompt)
    ids = prompt_ids(bridge.vocabulary, prompt)
    if not ids:
        raise VocabridgeError("the prompt is empty and the base model has no bos token; give it some text")
    return left_padded([ids], pad_id(bridge.vocabulary), bridge.device)
