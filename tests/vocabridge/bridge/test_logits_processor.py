"""The processor steers as the bridge does, and matches the texts of a step with those of the step before."""

from __future__ import annotations

import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.logits_processor import SteeringLogitsProcessor
from vocabridge.bridge.steering import Steering
from vocabridge.models.prompts import left_padded, prompt_ids
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination

PROMPTS = ["The quick brown fox", "Question: 24*7= 🙂\nAnswer:", "cafés, naïve 東京", "x"]
PAD = 1


def processor(parts, **arguments) -> SteeringLogitsProcessor:
    bridge = parts.bridge(**arguments)
    return SteeringLogitsProcessor(bridge.vocabulary, bridge.steerings, bridge.limits)


def padded(vocabulary, texts):
    return left_padded([prompt_ids(vocabulary, text) for text in texts], PAD)


def generated(parts, prompts, settings, **arguments):
    """Return the ids that a bridge generates, and those of its base with a processor."""
    config = GenerationConfig(**{"max_new_tokens": 12, "do_sample": False, "pad_token_id": PAD} | settings)
    inputs = padded(parts.base.vocabulary, prompts)
    found = []
    for model, processors in (
        (parts.bridge(**arguments), []),
        (parts.base.model, [processor(parts, **arguments)]),
    ):
        torch.manual_seed(0)
        found.append(model.generate(**inputs, generation_config=config, logits_processor=processors).tolist())
    return found


@pytest.mark.quick(4)
@pytest.mark.parametrize("policy", list(BoundaryPolicy), ids=lambda policy: policy.value)
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one text", "a batch"])
def test_greedy_generation_is_the_bridges(parts, policy, prompts):
    ours, theirs = generated(parts, prompts, {}, policy=policy)
    assert ours == theirs


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2, "temperature": 2.0},
        {"repetition_penalty": 1.0, "no_repeat_ngram_size": 2},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_all_ways_to_generate_give_what_the_bridge_gives(parts, settings):
    # Beam search processes log-probabilities, whose rounding may make `lookahead` read other tokens.
    ours, theirs = generated(parts, PROMPTS[:3], settings, strength=0.7, policy=BoundaryPolicy.HEAL)
    assert ours == theirs


def test_the_bridges_logits_up_to_a_number_per_row(parts):
    bridge = parts.bridge(policy=BoundaryPolicy.HEAL)
    inputs = padded(bridge.vocabulary, PROMPTS)
    with torch.no_grad():
        expected = bridge(**inputs, logits_to_keep=1).logits[:, -1]
        scores = parts.base.model(**inputs, logits_to_keep=1).logits[:, -1]
    for given_scores in (scores, scores.log_softmax(-1), scores + 3):
        found = processor(parts, policy=BoundaryPolicy.HEAL)(inputs["input_ids"], given_scores)
        torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.logsumexp(-1), given_scores.logsumexp(-1))


class CountedSource:
    """A processor, with the number of tokens that its source has read."""

    def __init__(self, parts, **arguments):
        self.processor = processor(parts, **arguments)
        self.tokens = 0
        (self.steering,) = self.processor.steerings
        self.hooks = [
            self.steering.source.models["tuned"].register_forward_hook(self._count, with_kwargs=True),
        ]

    def _count(self, module, args, kwargs, output):
        self.tokens += kwargs["input_ids"].numel()

    def close(self):
        for hook in self.hooks:
            hook.remove()


def steered_scores(processor, rows):
    """Return the steered scores of texts of equal length, for base scores that depend on the text alone."""
    scores = []
    for row in rows:
        generator = torch.Generator().manual_seed(hash(tuple(row)) % 2**31)
        scores.append(torch.randn(processor.vocabulary.size, generator=generator))
    return processor(torch.tensor(rows), torch.stack(scores) * 4)


@settings(max_examples=examples(25))
@given(data=st.data())
def test_any_texts_after_any_others_are_steered_as_from_scratch(parts, data):
    """Rows may continue, roll back, change places, end, be joined by others, or all be new."""
    policy = data.draw(st.sampled_from([BoundaryPolicy.AS_IS, BoundaryPolicy.HEAL]))
    steering_processor = processor(parts, policy=policy)
    token = st.sampled_from([PAD, 0, *parts.base.vocabulary.usable.tolist()])
    rows = [[]]
    for _ in range(data.draw(st.integers(1, 5))):
        length = max(1, len(rows[0]) + data.draw(st.integers(-3, 3)))
        origins = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=3))
        kept = [data.draw(st.integers(0, len(row))) for row in origins]
        rows = [
            [*row[: min(keep, length)], *data.draw(st.lists(token, min_size=length, max_size=length))][:length]
            for row, keep in zip(origins, kept, strict=True)
        ]
        torch.testing.assert_close(
            steered_scores(steering_processor, rows),
            steered_scores(processor(parts, policy=policy), rows),
            atol=1e-3,
            rtol=1e-3,
        )


def test_only_what_is_new_is_read(parts):
    counted = CountedSource(parts, policy=BoundaryPolicy.AS_IS)
    words = parts.base.vocabulary.encode("x y z 1 2 3 4 5 6 7 8 9 10 11 12 a b c d e f g").ids.tolist()
    other = words[::-1]
    try:
        prompt = [words, words[:-6] + other[-6:]]
        steered_scores(counted.processor, prompt)
        read = counted.tokens
        assert read > 2 * len(words)
        for rows in (
            [[*row, other[0]] for row in prompt],  # both continue
            [[*prompt[1], other[1]], [*prompt[0], other[0]]],  # other beams
            [prompt[0]],  # rolled back, and one of them ends
            [words[:-2], words[:-2], words[:-2]],  # three continue it
        ):
            before = counted.tokens
            steered_scores(counted.processor, rows)
            assert counted.tokens - before <= 8 * len(rows) < read / 2
    finally:
        counted.close()


def test_a_new_text_and_one_that_is_mostly_rolled_back_start_a_new_stream(parts):
    steering_processor = processor(parts, policy=BoundaryPolicy.AS_IS)
    ids = parts.base.vocabulary.encode("1 2 3 4 5 6 7 8 9 a b c").ids.tolist()
    steered_scores(steering_processor, [ids])
    source_stream = steering_processor._streams._streams[0]
    steered_scores(steering_processor, [[*ids, 5]])
    assert steering_processor._streams._streams[0] is source_stream
    steered_scores(steering_processor, [ids[: len(ids) // 2 - 1]])
    assert steering_processor._streams._streams[0] is not source_stream


def test_the_tokens_of_many_texts_with_one_beginning_do_not_accumulate(parts):
    steering_processor = processor(parts, policy=BoundaryPolicy.AS_IS)
    ids = parts.base.vocabulary.encode("1 2 3 4 5 6 7 8 9 a b c").ids.tolist()
    slots = []
    for i in range(20):
        steered_scores(steering_processor, [[*ids, *range(300 + 5 * i, 305 + 5 * i)]])
        slots.append(len(steering_processor._streams._streams[0].predictor.decoder.trees[0].tokens))
    assert max(slots) < 4 * slots[0]


def test_a_step_that_is_interrupted_in_any_of_its_forwards_spoils_nothing(parts):
    ids = parts.base.vocabulary.encode("The quick brown").ids.tolist()
    steering_processor = processor(parts, policy=BoundaryPolicy.LOOKAHEAD)
    left, forwards = [-1], []

    def interrupt(*_):
        forwards.append(1)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    hook = steering_processor.steerings[0].source.models["untuned"].register_forward_hook(interrupt)
    try:
        expected = steered_scores(steering_processor, [ids])
        assert len(forwards) > 1  # lookahead has run
        for i in range(len(forwards)):
            steered_scores(steering_processor, [ids[:-1]])
            left[0] = i + 1
            with pytest.raises(KeyboardInterrupt):
                steered_scores(steering_processor, [ids])
            torch.testing.assert_close(steered_scores(steering_processor, [ids]), expected)
    finally:
        hook.remove()


def test_a_schedule_counts_from_the_prompt(parts):
    ids = parts.base.vocabulary.encode("The quick brown fox").ids.tolist()

    def strengths(*texts):
        steering_processor, seen = processor(parts, policy=BoundaryPolicy.AS_IS), []
        steering_processor.steerings[0].change = lambda predictions, logits, p, n, limits: (
            seen.append(n.tolist()) or torch.zeros_like(logits)
        )
        for text in texts:
            steered_scores(steering_processor, [text])
        return [n for of_step in seen for n in of_step]

    assert strengths(ids, [*ids, 5], [*ids, 5, 6]) == [0, 1, 2]
    assert strengths(ids, [*ids, 5], [*ids, 5, 6], [*ids, 7]) == [0, 1, 2, 1]
    assert strengths(ids, [*ids, 5], ids, [*ids, 5]) == [0, 1, 0, 1]
    assert strengths(ids, [*ids, 5], [*ids, 5, 6, 7]) == [0, 1, 0]
    assert strengths(ids, ids[:3]) == [0, 0]


def test_the_rate_of_changes_is_the_bridges(parts):
    bridge, steering_processor = parts.bridge(strength=0.5), processor(parts, strength=0.5)
    assert steering_processor.changed_rate is None
    inputs = padded(bridge.vocabulary, PROMPTS)
    config = GenerationConfig(max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=PAD)
    output = bridge.generate(**inputs, generation_config=config, return_dict_in_generate=True)
    parts.base.model.generate(**inputs, generation_config=config, logits_processor=[steering_processor])
    assert steering_processor.changed_rate.tolist() == output.past_key_values.changed_rate.tolist()
    assert 0 < steering_processor.changed_rate.sum() < len(PROMPTS)


def test_while_nothing_steers_the_scores_are_returned_as_they_are(parts):
    scores = torch.randn(1, parts.base.vocabulary.size)
    assert processor(parts, strength=0.0)(torch.tensor([[5, 6]]), scores) is scores


def test_a_strength_that_is_raised_from_0_counts_from_then_on(parts):
    steering_processor, ids = processor(parts, strength=0.0, policy=BoundaryPolicy.AS_IS), [[0, 300, 301, 302]]
    steered_scores(steering_processor, [ids[0][:-1]])
    steering_processor.steerings[0].strength = 1.0
    torch.testing.assert_close(
        steered_scores(steering_processor, ids), steered_scores(processor(parts, policy=BoundaryPolicy.AS_IS), ids)
    )


def test_padding_that_is_not_the_tokenizers_can_be_named(parts):
    bridge = parts.bridge()
    pad = bridge.vocabulary.encode("x").ids.tolist()[0]
    ids, scores = torch.tensor([[pad, pad, 0, 300]]), torch.randn(1, bridge.vocabulary.size)
    own = SteeringLogitsProcessor(bridge.vocabulary, bridge.steerings, pad=pad)(ids, scores)
    torch.testing.assert_close(own, processor(parts)(ids[:, 2:], scores))
    assert not torch.equal(own, processor(parts)(ids, scores))


def test_several_steerings_and_limits(parts):
    linear = Combination(ProjectionMethod.LINEAR)
    both = [Steering.over(parts.base.vocabulary, parts.pair, parts.alignment, linear, strength=s) for s in (0.2, 0.3)]
    limits = SteeringLimits(plausibility_threshold=0.5)
    ids, scores = torch.tensor([[0, 300, 301]]), torch.randn(1, parts.base.vocabulary.size)
    found = SteeringLogitsProcessor(parts.base.vocabulary, both, limits)(ids, scores)
    bridge = parts.bridge(method=ProjectionMethod.LINEAR, strength=0.5, limits=limits)
    steering_processor = SteeringLogitsProcessor(parts.base.vocabulary, bridge.steerings, limits)
    torch.testing.assert_close(found, steering_processor(ids, scores), atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_refused(parts):
    with pytest.raises(VocabridgeError, match="align the source with that one"):
        SteeringLogitsProcessor(parts.small.vocabulary, parts.bridge().steerings)
    with pytest.raises(VocabridgeError, match="the model gives 700 logits, but the vocabulary"):
        processor(parts)(torch.tensor([[5]]), torch.zeros(1, 700))
