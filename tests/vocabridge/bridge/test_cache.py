"""What a bridge remembers: rolled back, reordered, of any kind, with rows that finish, and after an interruption."""

from __future__ import annotations

import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from vocabridge.alignment import VocabridgeError, align
from vocabridge.bridge.cache import BridgeCache
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.prompts import left_padded, prompt_ids
from vocabridge.models.transformers_version import CACHE
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.strength import Schedule

PROMPTS = ["The quick brown fox", "Question: 24 loaves 🙂\nAnswer: 24*7=", "cafés, naïve 東京", "def f(x):\n    return"]
GREEDY = GenerationConfig(max_new_tokens=24, do_sample=False, pad_token_id=1)
SOME = [
    (BoundaryPolicy.SKIP, ProjectionMethod.INFORMED),
    (BoundaryPolicy.AS_IS, ProjectionMethod.EXPONENTIAL),
    (BoundaryPolicy.HEAL, ProjectionMethod.STATIC),
]
SOME += [(BoundaryPolicy.LOOKAHEAD, ProjectionMethod.INFORMED), (BoundaryPolicy.LOOKAHEAD, ProjectionMethod.STATIC)]


def encode(vocabulary, text):
    return torch.tensor([prompt_ids(vocabulary, text)])


def padded(vocabulary, texts):
    return left_padded([prompt_ids(vocabulary, text) for text in texts], pad=1)


def close(found, expected):
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), atol=1e-3, rtol=1e-3)


@pytest.fixture(params=SOME, ids=[f"{policy.value}, {method.value}" for policy, method in SOME])
def how(request) -> dict[str, BoundaryPolicy | ProjectionMethod]:
    return dict(zip(("policy", "method"), request.param, strict=True))


@pytest.fixture
def bridge(parts, how) -> Bridge:
    """Onto a base that has a sliding window."""
    return parts.bridge(**how, weights=(1.0, 0.8, 0.6))


@pytest.fixture(params=["hybrid source", "sliding source"])
def onto_llama(request, reverse, sliding, parts, how) -> Bridge:
    """Onto a base without a window, whose cache can be cropped; from sources that have one."""
    if request.param == "hybrid source":
        return reverse.bridge(**how, weights=(1.0, 0.8, 0.6))
    source = ExpertPair(sliding, sliding)
    alignment = align(sliding.vocabulary, parts.small.vocabulary, method="retokenize", cache=False)
    return Bridge.over(parts.small, source, alignment, Combination(how["method"], 1.0, 0.8, 0.6), policy=how["policy"])


# --- taking tokens back ------------------------------------------------------------------------------------------


@st.composite
def written(draw: st.DrawFn) -> list[int]:
    """Ids of the byte-level vocabulary: bytes of any text, and words."""
    text = st.text(max_size=3).map(lambda text: [("bytes", byte) for byte in text.encode()])
    word = st.integers(258, 399).map(lambda i: [i])
    return [i for part in draw(st.lists(st.one_of(text, word), max_size=6)) for i in part][:10]


def ids_of(vocabulary, entries):
    return [vocabulary.ids_of(bytes([i[1]]))[0] if isinstance(i, tuple) else i for i in entries]


@pytest.mark.quick(4)
@given(first=written(), back=st.integers(0, 10), then=written(), again=st.integers(1, 4))
@settings(max_examples=examples(5), derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_a_crop_and_other_tokens_all_is_as_from_scratch(onto_llama, first, back, then, again):
    bridge = onto_llama
    ids = [300, *ids_of(bridge.vocabulary, first)]
    with torch.no_grad():
        cache = bridge(torch.tensor([ids]), use_cache=True).past_key_values
        for _ in range(2):
            removed = min(back, len(ids) - 1)
            cache.crop(-removed)
            ids = ids[: len(ids) - removed]
            assert cache.get_seq_length() == len(ids)
            new = [301, *ids_of(bridge.vocabulary, then)]
            for start in range(0, len(new), again):
                part = new[start : start + again]
                ids += part
                found = bridge(torch.tensor([part]), past_key_values=cache).logits
                close(found[:, -1], bridge(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[:, 0])


@pytest.mark.parametrize("policy", BoundaryPolicy)
def test_after_a_crop_the_kept_text_is_not_read_again(reverse, policy, forwards):
    bridge = reverse.bridge(policy=policy, method=ProjectionMethod.STATIC)
    seen = forwards(reverse.small.model)
    ids = encode(bridge.vocabulary, PROMPTS[1] + PROMPTS[0])
    with torch.no_grad():
        cache = bridge(ids, use_cache=True).past_key_values
        cache.crop(-3)
        seen.clear()
        bridge(ids[:, -3:-2], past_key_values=cache)
    assert sum(width for _, width in seen) <= 2 * 2 * 8  # both models of the pair, at most two forwards of a few each


def test_a_schedule_is_rolled_back_with_the_text(reverse):
    """The strength depends on the position in the answer, however often a token was tried there."""
    ids = encode(reverse.base.vocabulary, PROMPTS[1])
    schedule = Schedule(1.0, 0.0, 6)
    with torch.no_grad():
        bridge = reverse.bridge(strength=schedule, weights=(1, 1, 0))
        cache = bridge(ids[:, :-5], use_cache=True, logits_to_keep=1).past_key_values
        bridge(ids[:, -5:-1], past_key_values=cache)
        cache.crop(-2)
        found = bridge(ids[:, -3:], past_key_values=cache).logits
        for i, n in enumerate((3, 4, 5)):
            constant = reverse.bridge(strength=1 - n / 6, weights=(1, 1, 0))
            close(found[:, i], constant(ids, use_cache=False).logits[:, -3 + i])


def test_a_crop_to_a_length_is_refused(reverse):
    bridge = reverse.bridge()
    with torch.no_grad():
        cache = bridge(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="negative"):
        cache.crop(2)


# --- rows --------------------------------------------------------------------------------------------------------


def test_rows_that_are_reordered_and_repeated_go_on_as_from_scratch(bridge):
    vocabulary = bridge.vocabulary
    texts, order = [encode(vocabulary, "The quick 12")[0, :5], encode(vocabulary, "cafés é 🙂")[0, :5]], [1, 1, 0]
    more = torch.tensor([[300, 301, 302, 20], [303, 35, 304, 305], [306, 307, 308, 300]])
    rows = torch.stack(texts)
    with torch.no_grad():
        cache = bridge(rows, use_cache=True).past_key_values
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([2, 3, 0]))
        rows = rows[order]
        for step in range(more.shape[1]):
            rows = torch.cat([rows, more[:, step : step + 1]], 1)
            found = bridge(more[:, step : step + 1], past_key_values=cache).logits[:, 0]
            for row in range(3):
                close(found[row], bridge(rows[row : row + 1], use_cache=False, logits_to_keep=1).logits[0, 0])


class Until(StoppingCriteria):
    """Stops each row after so many new tokens."""

    def __init__(self, limits, prompt):
        self.limits, self.prompt = torch.tensor(limits), prompt

    def __call__(self, input_ids, scores, **kwargs):
        return self.limits <= input_ids.shape[1] - self.prompt


LIMITS = [4, 9, 20, 9]


def until(bridge, inputs, **arguments):
    stopping = StoppingCriteriaList([Until(LIMITS, inputs["input_ids"].shape[1])])
    return bridge.generate(**inputs, generation_config=GREEDY, stopping_criteria=stopping, **arguments)


@pytest.mark.quick(2)
def test_no_model_runs_a_row_that_has_finished(parts, bridge, forwards):
    """And changes nothing for the others."""
    models = {"base": parts.base.model, "tuned": parts.tuned.model, "untuned": parts.small.model}
    seen = {name: forwards(model) for name, model in models.items()}
    inputs = padded(bridge.vocabulary, PROMPTS)
    found = until(bridge, inputs)
    active = [sum(limit > step for limit in LIMITS) for step in range(max(LIMITS))]
    assert [rows for rows, _ in seen["base"]] == active
    for name in ("tuned", "untuned"):
        rows = [rows for rows, _ in seen[name]]
        assert len(rows) <= 2 * len(active)
        assert rows == sorted(rows, reverse=True)
        assert all(rows.count(n) <= 2 * active.count(n) for n in set(active))
    for number, (prompt, limit) in enumerate(zip(PROMPTS, LIMITS, strict=True)):
        ids = encode(bridge.vocabulary, prompt)
        alone = bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=GREEDY)[0, ids.shape[1] :]
        new = found[number, inputs["input_ids"].shape[1] :][:limit]
        assert new.tolist() == alone[:limit].tolist()


@pytest.mark.quick(2)
def test_the_first_row_may_be_the_last_to_finish_and_the_other_way_round(bridge):
    for limits in ([9, 1, 4], [1, 4, 9]):
        inputs = padded(bridge.vocabulary, PROMPTS[:3])
        stopping = StoppingCriteriaList([Until(limits, inputs["input_ids"].shape[1])])
        found = bridge.generate(**inputs, generation_config=GREEDY, stopping_criteria=stopping)
        free = bridge.generate(**inputs, generation_config=GREEDY)
        start = inputs["input_ids"].shape[1]
        for row, limit in enumerate(limits):
            assert torch.equal(found[row, start : start + limit], free[row, start : start + limit])


# --- caches of other kinds ---------------------------------------------------------------------------------------


@pytest.mark.quick(2)
def test_a_static_cache_writes_what_a_dynamic_one_does(parts, bridge):
    inputs = padded(bridge.vocabulary, PROMPTS)
    dynamic = bridge.generate(**inputs, generation_config=GREEDY)
    static = bridge.generate(**inputs, generation_config=GREEDY, cache_implementation="static")
    assert torch.equal(static, dynamic)
    assert torch.equal(until(bridge, inputs, cache_implementation="static")[2], until(bridge, inputs)[2])


@pytest.mark.quick(3)
def test_a_static_cache_over_a_sliding_source_and_base(onto_llama):
    inputs = padded(onto_llama.vocabulary, PROMPTS)
    dynamic = onto_llama.generate(**inputs, generation_config=GREEDY)
    static = onto_llama.generate(**inputs, generation_config=GREEDY, cache_implementation="static")
    assert torch.equal(static, dynamic)


def test_another_models_cache_is_refused(parts):
    bridge = parts.bridge()
    with pytest.raises(VocabridgeError, match="DynamicCache"):
        bridge(torch.tensor([[5]]), past_key_values=DynamicCache())
    used = parts.base.model(torch.tensor([[5, 6]]), use_cache=True).past_key_values
    with pytest.raises(VocabridgeError, match="only its base model has read"):
        BridgeCache(used)


@pytest.mark.quick(2)
def test_a_cache_goes_on_where_generation_ended(bridge):
    """As a chat does: the answer, then the next question."""
    ids = encode(bridge.vocabulary, PROMPTS[0])
    arguments = {"generation_config": GREEDY, "return_dict_in_generate": True}
    first = bridge.generate(ids, attention_mask=torch.ones_like(ids), **arguments)
    more = torch.cat([first.sequences, torch.tensor([[300, 301, 302]])], 1)
    mask = torch.ones_like(more)
    on = bridge.generate(more, attention_mask=mask, **{CACHE: first[CACHE]}, **arguments)
    assert torch.equal(on.sequences, bridge.generate(more, attention_mask=mask, **arguments).sequences)


# --- what is reported --------------------------------------------------------------------------------------------


def test_the_rate_of_changed_tokens_is_that_of_what_was_written(parts, bridge):
    inputs = padded(bridge.vocabulary, PROMPTS)
    start = inputs["input_ids"].shape[1]
    stopping = StoppingCriteriaList([Until(LIMITS, start)])
    found = bridge.generate(
        **inputs, generation_config=GREEDY, stopping_criteria=stopping, return_dict_in_generate=True
    )
    expected = []
    for prompt, row, limit in zip(PROMPTS, found.sequences, LIMITS, strict=True):
        ids = torch.cat([encode(bridge.vocabulary, prompt)[0], row[start : start + limit]])[None, :-1]
        with torch.no_grad():
            base, ours = (model(ids, use_cache=False).logits[0, -limit:] for model in (parts.base.model, bridge))
        expected.append((base.argmax(-1) != ours.argmax(-1)).float().mean())
    torch.testing.assert_close(found.past_key_values.changed_rate, torch.stack(expected))
    assert 0 < found.past_key_values.changed_rate.mean() <= 1


def test_a_bridge_that_is_inactive_or_has_written_nothing_has_no_rate(parts):
    ids = encode(parts.base.vocabulary, PROMPTS[0])
    with torch.no_grad():
        assert parts.bridge(strength=0.0)(ids, use_cache=True).past_key_values.changed_rate is None
        assert parts.bridge()(ids, use_cache=True).past_key_values.changed_rate is None


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"strength": 1.0}, {"combination": Combination(ProjectionMethod.INFORMED, 1, 1, 0)}]
)
def test_a_change_that_needs_other_models_in_the_middle_of_a_text_is_refused(parts, change):
    bridge = parts.bridge(strength=0.0 if "strength" in change else 1.0)
    with torch.no_grad():
        cache = bridge(torch.tensor([[5, 6]]), use_cache=True).past_key_values
        for name, value in change.items():
            setattr(bridge.steering, name, value)
        with pytest.raises(VocabridgeError, match="start a new cache"):
            bridge(torch.tensor([[7]]), past_key_values=cache)
        bridge(torch.tensor([[5, 6, 7]]), use_cache=True)


@pytest.mark.parametrize(
    "change", [{"strength": 0.5}, {"combination": Combination(ProjectionMethod.STATIC, 0.5, 0.7, 0.1)}]
)
def test_a_change_that_needs_no_other_models_in_the_middle_of_a_text_is_allowed(parts, change):
    bridge = parts.bridge()
    ids = encode(bridge.vocabulary, PROMPTS[0])
    with torch.no_grad():
        cache = bridge(ids[:, :-1], use_cache=True).past_key_values
        for name, value in change.items():
            setattr(bridge.steering, name, value)
        found = bridge(ids[:, -1:], past_key_values=cache).logits
        close(found, bridge(ids, use_cache=False).logits[:, -1:])


def test_a_steering_that_is_inactive_for_a_while_has_missed_the_text(parts):
    bridge = parts.bridge()
    ids = encode(bridge.vocabulary, PROMPTS[0])
    with torch.no_grad():
        cache = bridge(ids[:, :-2], use_cache=True).past_key_values
        bridge.steering.strength = 0.0
        bridge(ids[:, -2:-1], past_key_values=cache)
        bridge.steering.strength = 1.0
        with pytest.raises(VocabridgeError, match="start a new cache"):
            bridge(ids[:, -1:], past_key_values=cache)


class InterruptedStepError(Exception):
    """As Ctrl-C is, or running out of memory."""


@pytest.mark.parametrize("where", ["base", "tuned", "untuned", "a layer of the base", "a layer of the tuned"])
@pytest.mark.parametrize("policy", [BoundaryPolicy.AS_IS, BoundaryPolicy.LOOKAHEAD])
def test_after_an_interrupted_step_the_cache_is_refused_and_a_new_one_works(parts, where, policy):
    bridge = parts.bridge(policy=policy)
    module = {
        "base": parts.base.model,
        "tuned": parts.tuned.model,
        "untuned": parts.small.model,
        "a layer of the base": parts.base.model.model.layers[1],
        "a layer of the tuned": parts.tuned.model.model.layers[1],
    }[where]

    def interrupt(*_):
        raise InterruptedStepError

    ids = encode(bridge.vocabulary, PROMPTS[1])
    with torch.no_grad():
        expected = bridge(ids, use_cache=False).logits[:, -1]
        cache = bridge(ids[:, :-2], use_cache=True).past_key_values
        handle = module.register_forward_pre_hook(interrupt)
        with pytest.raises(InterruptedStepError):
            bridge(ids[:, -2:-1], past_key_values=cache)
        handle.remove()
        if where == "base":  # nothing had been read
            bridge(ids[:, -2:-1], past_key_values=cache)
            close(bridge(ids[:, -1:], past_key_values=cache).logits[:, -1], expected)
        else:
            with pytest.raises(VocabridgeError, match="interrupted; start a new cache"):
                bridge(ids[:, -1:], past_key_values=cache)
        close(bridge(ids, use_cache=True).logits[:, -1], expected)


def test_an_interruption_while_looking_ahead_is_one_too(parts):
    bridge = parts.bridge()
    ids, calls = encode(bridge.vocabulary, PROMPTS[1]), [0]

    def interrupt(*_):
        calls[0] += 1
        if calls[0] == 2:
            raise InterruptedStepError

    with torch.no_grad():
        for end in range(2, ids.shape[1] - 1):
            cache = bridge(ids[:, :end], use_cache=True).past_key_values
            calls[0], handle = 0, parts.tuned.model.register_forward_pre_hook(interrupt)
            try:
                bridge(ids[:, end : end + 1], past_key_values=cache)
            except InterruptedStepError:
                handle.remove()
                with pytest.raises(VocabridgeError, match="interrupted; start a new cache"):
                    bridge(ids[:, end + 1 : end + 2], past_key_values=cache)
                return
            handle.remove()
    pytest.fail("lookahead read nothing at any position")


@pytest.mark.parametrize("numbers", [(0,), (1,), (0, 1)])
def test_one_of_several_sources_may_be_inactive_all_along(parts, numbers):
    def steering(number):
        source = parts.pair if number == 0 else parts.residual(0.2)
        strength = 1.0 if number in numbers else 0.0
        return Steering.over(parts.base.vocabulary, source, parts.alignment, Combination(), strength=strength)

    bridge, ids = Bridge(parts.base, [steering(0), steering(1)]), encode(parts.base.vocabulary, PROMPTS[0])
    with torch.no_grad():
        cache = bridge(ids[:, :-1], use_cache=True).past_key_values
        assert sorted(cache.streams._streams) == list(numbers)
        close(bridge(ids[:, -1:], past_key_values=cache).logits, bridge(ids, use_cache=False).logits[:, -1:])
