"""The bridge as one causal language model: what must hold bit for bit, and what caches and batches may not change."""

from __future__ import annotations

import itertools

import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from vocabridge.alignment import VocabridgeError, align
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.source_streams import SourceStreams
from vocabridge.bridge.steering import Steering
from vocabridge.evaluation.contenders.nudging import Nudging
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.prompts import left_padded, prompt_ids
from vocabridge.models.transformers_version import CACHE
from vocabridge.options import BoundaryPolicy, Form, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.projection import Projection
from vocabridge.projection.strength import Schedule

PROMPTS = [
    "The quick brown fox",
    "Question: A baker sells 24 loaves a day. 🙂\nAnswer: 24*7=",
    "cafés, naïve 東京",
    "def f(x):\n    return",
]
GREEDY = GenerationConfig(max_new_tokens=24, do_sample=False, pad_token_id=1)
EVERYTHING = list(itertools.product(BoundaryPolicy, ProjectionMethod))
NAMES = [f"{policy.value}, {method.value}" for policy, method in EVERYTHING]
HEALING = (BoundaryPolicy.HEAL, BoundaryPolicy.LOOKAHEAD)


def encode(vocabulary, text):
    return torch.tensor([prompt_ids(vocabulary, text)])


def padded(vocabulary, texts):
    return left_padded([prompt_ids(vocabulary, text) for text in texts], pad=1)


def close(found, expected):
    """Compare probabilities, because the logarithms of tiny ones are noise."""
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), atol=1e-3, rtol=1e-3)


@pytest.fixture(params=EVERYTHING, ids=NAMES)
def bridge(request, parts) -> Bridge:
    policy, method = request.param
    return parts.bridge(method=method, policy=policy, weights=(1.0, 0.8, 0.6))


# --- nothing is changed ------------------------------------------------------------------------------------------


def bridge_of_two(parts, strengths, **arguments) -> Bridge:
    """Return a bridge of two value sources: an expert pair and a value network."""
    sources = (parts.pair, parts.residual(0.2))
    steerings = [
        Steering.over(parts.base.vocabulary, source, parts.alignment, Combination(method), strength=strength)
        for source, method, strength in zip(
            sources, (ProjectionMethod.INFORMED, ProjectionMethod.LINEAR), strengths, strict=True
        )
    ]
    return Bridge(parts.base, steerings, **arguments)


INACTIVE = {
    "strength 0": lambda parts: parts.bridge(strength=0.0),
    "a schedule of 0": lambda parts: parts.bridge(strength=Schedule(0.0, 0.0, 5)),
    "strength 0, limited": lambda parts: parts.bridge(strength=0.0, limits=SteeringLimits(0.1)),
    "two at strength 0": lambda parts: bridge_of_two(parts, (0.0, Schedule(0.0, 0.0, 1))),
    "no weight": lambda parts: parts.bridge(weights=(1, 0, 0)),
    "no steering": lambda parts: Bridge(parts.base, []),
}


@pytest.fixture(params=INACTIVE)
def inactive(request, parts) -> Bridge:
    return INACTIVE[request.param](parts)


def test_a_bridge_that_is_inactive_is_the_base_bit_for_bit(parts, inactive):
    inputs = padded(inactive.vocabulary, PROMPTS)
    with torch.no_grad():
        assert torch.equal(inactive(**inputs).logits, parts.base.model(**inputs).logits)
        ours, theirs = inactive(**inputs, use_cache=True), parts.base.model(**inputs, use_cache=True)
        assert torch.equal(ours.logits, theirs.logits)
        more = torch.full((4, 1), 7)
        mask = torch.cat([inputs["attention_mask"], torch.ones(4, 1, dtype=torch.long)], 1)
        positions = (mask.cumsum(-1) - 1)[:, -1:]
        on = [
            model(more, attention_mask=mask, position_ids=positions, **{CACHE: past[CACHE]}).logits
            for model, past in ((inactive, ours), (parts.base.model, theirs))
        ]
        assert torch.equal(*on)


def test_a_bridge_that_is_inactive_generates_what_the_base_does_and_runs_no_source(parts, inactive, forwards):
    seen = [forwards(model) for steering in inactive.steerings for model in steering.source.models.values()]
    inputs = padded(inactive.vocabulary, PROMPTS)
    arguments = {"generation_config": GREEDY, "output_scores": True, "return_dict_in_generate": True}
    ours, theirs = inactive.generate(**inputs, **arguments), parts.base.model.generate(**inputs, **arguments)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.scores, theirs.scores, strict=True))
    assert not any(seen)


@pytest.mark.quick(4)
@pytest.mark.parametrize("policy", BoundaryPolicy)
@pytest.mark.parametrize("strength", [0.5, 3.0, Schedule(1.0, 0.2, 4)])
def test_a_fresh_value_network_changes_no_bit_through_the_linear_method(parts, strength, policy):
    bridge = parts.bridge(parts.residual(), ProjectionMethod.LINEAR, strength=strength, policy=policy)
    inputs = padded(bridge.vocabulary, PROMPTS)
    with torch.no_grad():
        assert torch.equal(bridge(**inputs).logits, parts.base.model(**inputs).logits.float())
    ours = bridge.generate(**inputs, generation_config=GREEDY)
    assert torch.equal(ours, parts.base.model.generate(**inputs, generation_config=GREEDY))


def test_where_no_source_predicts_the_logits_are_the_bases_bit_for_bit(parts):
    """Inside a character, and before any text, also where a limit would exclude tokens."""
    bridge = parts.bridge(policy=BoundaryPolicy.SKIP, limits=SteeringLimits(plausibility_threshold=0.5))
    vocabulary = bridge.vocabulary
    ids = torch.tensor([[0, *vocabulary.encode("fox").ids.tolist(), vocabulary.ids_of(b"\xf0")[0]]])
    with torch.no_grad():
        steered, base = bridge(ids).logits[0], parts.base.model(ids).logits[0]
    assert torch.equal(steered[[0, -1]], base[[0, -1]])
    assert (steered[1:-1] == -torch.inf).any()


# --- one vocabulary ----------------------------------------------------------------------------------------------


def same_vocabulary(parts, policy, projection_of):
    small, tuned = parts.small, parts.tuned
    pair, projection = ExpertPair(tuned, small), projection_of(small.vocabulary)
    bridge = Bridge(
        small, [Steering(pair, small.vocabulary, projection, Combination(ProjectionMethod.LINEAR), policy=policy)]
    )
    ids = encode(small.vocabulary, PROMPTS[1])
    with torch.no_grad():
        base, delta = small.model(ids).logits, tuned.model(ids).logits - small.model(ids).logits
        ((_, _, positions),) = SourceStreams().advance(bridge.steerings, ids.tolist(), 0, ids.shape[1])
        return bridge, ids, bridge(ids).logits, base, delta, [len(position.covers) for position in positions]


@pytest.mark.parametrize("policy", BoundaryPolicy)
def test_the_identity_is_plain_addition_of_logits(parts, policy):
    """Where the text has one cover; covers and healing have tests of their own."""
    _, ids, found, base, delta, ways = same_vocabulary(parts, policy, lambda v: Projection.identity(v.size))
    single, none = (torch.tensor([n == count for n in ways]) for count in (1, 0))
    assert single.sum() > 0.6 * ids.shape[1]
    assert none.any() == (policy in (BoundaryPolicy.SKIP, BoundaryPolicy.AS_IS))  # inside the emoji
    torch.testing.assert_close(found[0, single], (base + delta)[0, single], atol=2e-4, rtol=1e-4)
    assert torch.equal(found[0, none], base[0, none])


def test_the_exact_alignment_of_a_vocabulary_with_itself_is_the_identity(parts):
    vocabulary, policy = parts.small.vocabulary, BoundaryPolicy.AS_IS
    alignment = align(vocabulary, vocabulary, method="identical-bytes", cache=False)
    bridge, ids, found, *_ = same_vocabulary(parts, policy, lambda _: Projection.of(alignment))
    identity, *_ = same_vocabulary(parts, policy, lambda _: Projection.identity(vocabulary.size))
    emitted = sorted({*vocabulary.usable.tolist(), vocabulary.roles["bos"], vocabulary.roles["eos"]})
    with torch.no_grad():  # but for one number that keeps the mass of what is covered
        plain = identity(ids).logits[..., emitted]
        torch.testing.assert_close(found[..., emitted].log_softmax(-1), plain.log_softmax(-1), atol=1e-3, rtol=1e-3)
    assert bridge.vocabulary.size > len(emitted)


# --- step by step ------------------------------------------------------------------------------------------------


def step_by_step(bridge, ids, sizes):
    """Logits of every position, the text given in parts of these sizes, with a cache."""
    cache, found, start = None, [], 0
    with torch.no_grad():
        for size in [*sizes, *[1] * ids.shape[1]]:
            if start >= ids.shape[1]:
                break
            output = bridge(ids[:, start : start + size], past_key_values=cache, use_cache=True)
            cache, start = output.past_key_values, start + size
            found.append(output.logits)
    return torch.cat(found, 1)


@pytest.mark.quick(4)
def test_incremental_forwards_equal_one_forward_and_one_from_scratch_at_every_step(bridge):
    ids = encode(bridge.vocabulary, PROMPTS[1] + PROMPTS[2])
    found = step_by_step(bridge, ids, [5, 1, 1, 3, 1, 1, 1, 2])
    with torch.no_grad():
        close(found, bridge(ids, use_cache=False).logits)
        for n in (1, 7, 12, ids.shape[1] - 1):
            close(found[:, n - 1], bridge(ids[:, :n], use_cache=False, logits_to_keep=1).logits[:, 0])


@st.composite
def written(draw: st.DrawFn) -> list[int]:
    """Ids of the base's: words, bytes of any text, half characters, control tokens, unused ids."""
    word, byte = st.integers(259, 598), st.integers(3, 258)
    text = st.text(max_size=3).map(lambda text: [3 + byte for byte in text.encode()])
    parts = draw(st.lists(st.one_of(word.map(lambda i: [i]), text, byte.map(lambda i: [i])), max_size=8))
    parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from([[], [1], [2], [0], [703]])))
    return [i for part in parts for i in part][:12]


METHOD_OF = {
    BoundaryPolicy.SKIP: ProjectionMethod.STATIC,
    BoundaryPolicy.AS_IS: ProjectionMethod.EXPONENTIAL,
    BoundaryPolicy.HEAL: ProjectionMethod.LINEAR,
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("kind", ["pair", "residual"])
@pytest.mark.parametrize("policy", BoundaryPolicy)
@given(ids=written(), sizes=st.lists(st.integers(1, 4), max_size=5))
@settings(max_examples=examples(10), derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_in_any_steps_is_as_from_scratch(parts, policy, kind, ids, sizes):
    source = parts.pair if kind == "pair" else parts.residual(0.2)
    bridge = parts.bridge(
        source, METHOD_OF.get(policy, ProjectionMethod.INFORMED), policy=policy, weights=(1.0, 0.8, 0.6)
    )
    text = torch.tensor([[0, *ids]])
    found = step_by_step(bridge, text, sizes)
    with torch.no_grad():
        for n in range(1, text.shape[1] + 1):
            close(found[:, n - 1], bridge(text[:, :n], use_cache=False, logits_to_keep=1).logits[:, 0])


@pytest.mark.parametrize("places", [0, 8])
def test_predictions_beyond_the_cache_budget_are_computed_again(parts, monkeypatch, places):
    bridge, ids = parts.bridge(), encode(parts.base.vocabulary, PROMPTS[1] + PROMPTS[2])
    with torch.no_grad():
        remembered = bridge(ids, use_cache=False).logits
        monkeypatch.setattr(
            "vocabridge.projection.source_predictions._CACHE_BUDGET", places * parts.pair.vocabulary.size
        )
        assert torch.equal(bridge(ids, use_cache=False).logits, remembered)


def test_logits_to_keep_and_labels(bridge):
    ids = encode(bridge.vocabulary, PROMPTS[1])
    with torch.no_grad():
        full = bridge(ids, labels=ids)
        close(bridge(ids, logits_to_keep=3).logits, full.logits[:, -3:])
    expected = torch.nn.functional.cross_entropy(full.logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(full.loss, expected)


def test_labels_of_minus_100_are_left_out(parts):
    bridge, ids = parts.bridge(), encode(parts.base.vocabulary, PROMPTS[0])
    labels = ids.clone()
    labels[0, :-2] = -100
    with torch.no_grad():
        found = bridge(ids, labels=labels)
    expected = torch.nn.functional.cross_entropy(found.logits[0, -3:-1], ids[0, -2:])
    torch.testing.assert_close(found.loss, expected)


def test_padding_and_unused_ids_are_no_text(parts):
    bridge = parts.bridge()
    ids = encode(bridge.vocabulary, "The fox")
    odd = torch.cat([ids, torch.tensor([[703, 0, 2]])], 1)
    ((_, _, positions),) = SourceStreams().advance(bridge.steerings, odd.tolist(), 0, 4)
    assert positions[1:] == positions[:1] * 3


def test_the_source_reads_what_its_own_tokenizer_makes_of_the_text_and_its_own_control_tokens(chatty):
    """Its bos token once and by itself; the base's turn end as its own, which has another id."""
    target, source = chatty.base.vocabulary, chatty.small.vocabulary
    bridge = chatty.bridge(policy=BoundaryPolicy.AS_IS, method=ProjectionMethod.STATIC)
    texts = ("Hello fox", "\n24*7 🙂", "fox")
    ends = [(vocabulary.roles["turn end"], vocabulary.roles["turn begin"]) for vocabulary in (target, source)]
    assert ends[0] != ends[1]
    encoded = [[vocabulary.encode(text).ids.tolist() for text in texts] for vocabulary in (target, source)]
    ids, expected = (
        [*first, end, *second, begin, *third]
        for (first, second, third), (end, begin) in zip(encoded, ends, strict=True)
    )
    ((_, stream, positions),) = SourceStreams().advance(bridge.steerings, [[0, *ids]], 0, len(ids))
    tree, cover = stream.predictor.decoder.trees[0], positions[-1].covers[0]
    assert [tree.tokens[node] for node in tree.ancestors(cover.node)] == expected
    read, text = [], b""
    for i, position in zip(ids, positions, strict=True):
        data = target.token_bytes[i]
        if data is None:
            read = [
                *read,
                *source.encode(text.decode()).ids.tolist(),
                source.roles[{v: k for k, v in target.roles.items()}[i]],
            ]
            text = b""
        text += data or b""
        if position.covers:
            nodes = tree.ancestors(position.covers[0].node)
            assert [tree.tokens[node] for node in nodes] == [*read, *source.encode(text.decode()).ids.tolist()]
        else:
            assert text.decode(errors="ignore").encode() != text


# --- generation --------------------------------------------------------------------------------------------------


@pytest.mark.quick(4)
def test_greedy_generation_is_the_argmax_of_uncached_forwards(bridge):
    ids = encode(bridge.vocabulary, PROMPTS[1])
    found = bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=GREEDY)
    with torch.no_grad():
        for _ in range(found.shape[1] - ids.shape[1]):
            ids = torch.cat([ids, bridge(ids, use_cache=False, logits_to_keep=1).logits.argmax(-1)], 1)
    assert torch.equal(found, ids)


@pytest.mark.quick(4)
def test_a_left_padded_batch_is_its_rows_one_by_one(bridge):
    inputs = padded(bridge.vocabulary, PROMPTS)
    arguments = {"generation_config": GREEDY, "output_logits": True, "return_dict_in_generate": True}
    together = bridge.generate(**inputs, **arguments)
    for number, prompt in enumerate(PROMPTS):
        ids = encode(bridge.vocabulary, prompt)
        alone = bridge.generate(ids, attention_mask=torch.ones_like(ids), **arguments)
        new = alone.sequences[0, ids.shape[1] :].tolist()
        assert together.sequences[number, inputs["input_ids"].shape[1] :][: len(new)].tolist() == new
        for ours, own in zip(together.logits, alone.logits, strict=False):
            close(ours[number], own[0])


@pytest.mark.quick(3)
@pytest.mark.parametrize("method", [ProjectionMethod.LINEAR, ProjectionMethod.INFORMED])
@pytest.mark.parametrize("policy", BoundaryPolicy)
def test_beam_search_with_and_without_caches(parts, method, policy):
    bridge = parts.bridge(method=method, strength=0.6, policy=policy)
    inputs = padded(bridge.vocabulary, PROMPTS[:2])
    config = {"num_beams": 3, "do_sample": False, "max_new_tokens": 10, "pad_token_id": 1}
    cached = bridge.generate(**inputs, generation_config=GenerationConfig(**config))
    plain = bridge.generate(**inputs, generation_config=GenerationConfig(**config, use_cache=False))
    assert torch.equal(cached, plain)


def test_sampling_draws_from_the_bridges_distribution(parts):
    """The same draws with and without a cache."""
    bridge, ids = parts.bridge(), encode(parts.base.vocabulary, PROMPTS[0])
    config = {"max_new_tokens": 8, "do_sample": True, "top_k": 20, "num_return_sequences": 3, "pad_token_id": 1}
    found = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        config |= {"use_cache": use_cache}
        mask = torch.ones_like(ids)
        found.append(bridge.generate(ids, attention_mask=mask, generation_config=GenerationConfig(**config)))
    assert found[0].shape[0] == 3
    assert torch.equal(*found)


@pytest.mark.quick(1)
@pytest.mark.parametrize("policy", BoundaryPolicy)
def test_what_a_token_costs_does_not_grow_with_the_text(parts, policy, forwards, encoded):
    """300 tokens: one forward a token of the base's, at most two of the source's, a few characters encoded again."""
    bridge, ids = parts.bridge(policy=policy), encode(parts.base.vocabulary, PROMPTS[1])
    base, tuned = forwards(parts.base.model), forwards(parts.tuned.model)
    cache, costs = None, []
    following = itertools.cycle(encode(parts.base.vocabulary, "The quick, brown fox. 12 other foxes; ")[0, 1:].tolist())
    with torch.no_grad():
        for _ in range(300):
            for record in (base, tuned, encoded):
                record.clear()
            cache = bridge(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
            costs.append((sum(encoded), sum(width for _, width in tuned)))
            assert len(base) == 1
            assert len(tuned) <= (2 if policy is BoundaryPolicy.LOOKAHEAD else 1)
            ids = torch.tensor([[next(following)]])
    early, late = costs[20:120], costs[200:]
    assert max(characters for characters, _ in late) <= max(characters for characters, _ in early) < 400
    assert sum(columns for _, columns in late) <= 1.1 * sum(columns for _, columns in early)


# --- strength, limits, several -----------------------------------------------------------------------------------


def test_a_schedule_counts_the_tokens_since_the_prompt(parts):
    bridge, ids = parts.bridge(strength=Schedule(1.0, 0.0, 4)), encode(parts.base.vocabulary, PROMPTS[0])
    arguments = {"generation_config": GREEDY, "output_logits": True, "return_dict_in_generate": True}
    found = bridge.generate(ids, attention_mask=torch.ones_like(ids), **arguments)
    for step, strength in enumerate([1.0, 0.75, 0.5, 0.25, 0.0, 0.0]):
        until = found.sequences[:, : ids.shape[1] + step]
        with torch.no_grad():
            logits = parts.bridge(strength=strength)(until, use_cache=False, logits_to_keep=1).logits[:, 0]
            close(found.logits[step], logits)


def test_a_gate_leaves_the_base_as_it_is_and_changes_nothing_elsewhere(parts):
    ids = encode(parts.base.vocabulary, PROMPTS[1])
    with torch.no_grad():
        base, free = parts.base.model(ids).logits[0], parts.bridge()(ids).logits[0]
        p = base.softmax(-1)
        best = p.amax(-1)
        limit = float(best[1:].median()) + 1e-3
        found = parts.bridge(limits=Nudging(sure=limit))(ids).logits[0]
    uncertain = best < limit
    assert 0 < uncertain[1:].sum() < len(uncertain) - 1
    assert torch.equal(found[~uncertain], base[~uncertain])
    close(found[uncertain], free[uncertain])
    assert not torch.allclose(free[1:], base[1:])


def test_implausible_tokens_are_excluded(parts):
    ids = encode(parts.base.vocabulary, PROMPTS[1])
    with torch.no_grad():
        base, free = parts.base.model(ids).logits[0, 1:], parts.bridge()(ids).logits[0, 1:]
        found = parts.bridge(limits=SteeringLimits(plausibility_threshold=0.1))(ids).logits[0, 1:]
    p = base.softmax(-1)
    out = p < 0.1 * p.amax(-1, keepdim=True)
    assert (found[out] == -torch.inf).all()
    torch.testing.assert_close(found[~out], free[~out], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("policy", BoundaryPolicy)
def test_changes_of_several_sources_with_tokenizers_of_their_own_add_up(parts, third, policy):
    target = parts.base.vocabulary
    other = align(third.vocabulary, target, method="retokenize", cache=False)
    made = [
        (parts.pair, parts.alignment, Combination(ProjectionMethod.INFORMED, 1, 0.7, 0.4), 0.8),
        (ExpertPair(third, third), other, Combination(ProjectionMethod.STATIC, 0.9, 0.5, 0.0), 0.5),
        (parts.residual(0.2), parts.alignment, Combination(ProjectionMethod.STATIC, 0.5, 0.5, form=Form.MIXTURE), 1.0),
    ]
    steerings = [
        Steering.over(target, source, alignment, combination, policy=policy, strength=strength)
        for source, alignment, combination, strength in made
    ]
    inputs = padded(target, PROMPTS[:2])
    with torch.no_grad():
        base = parts.base.model(**inputs).logits
        changes = [Bridge(parts.base, [steering])(**inputs).logits - base for steering in steerings]
        together = Bridge(parts.base, steerings)
        torch.testing.assert_close(together(**inputs).logits, base + sum(changes), atol=2e-3, rtol=1e-3)
        ids = encode(target, PROMPTS[1])
        found = step_by_step(together, ids, [3, 2])
        close(found, together(ids, use_cache=False).logits)
    with pytest.raises(VocabridgeError, match="3 steerings"):
        together.steering  # noqa: B018


# --- errors, and what it looks like ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_alignment_for_other_tokenizers_is_refused(parts, side):
    small, base = parts.small.vocabulary, parts.base.vocabulary
    wrong = align(base, base, method="identical-bytes", cache=False) if side == "source" else None
    wrong = wrong or align(small, small, method="identical-bytes", cache=False)
    with pytest.raises(VocabridgeError, match=f"made for the {side} tokenizer"):
        Bridge.over(parts.base, parts.pair, wrong)


def test_a_steering_for_another_vocabulary_is_refused(parts):
    steering = Steering.over(parts.base.vocabulary, parts.pair, parts.alignment)
    with pytest.raises(VocabridgeError, match="align the source with that one"):
        Bridge(parts.small, [steering])


def test_a_base_whose_logits_are_not_as_wide_as_its_vocabulary_is_refused(parts, loaded):
    for model, vocabulary in (
        (loaded["source"], loaded["target"].vocabulary),
        (loaded["target"], loaded["source"].vocabulary),
    ):
        wrong = type(model)(model.name, model.folder, model.model, vocabulary)
        with pytest.raises(VocabridgeError, match=f"gives {model.vocabulary.size} logits"):
            Bridge(wrong, [])


def test_the_bases_weights_stay_and_need_no_gradient(parts):
    before = {name: tensor.clone() for name, tensor in parts.base.model.state_dict().items()}
    bridge = parts.bridge()
    bridge.generate(**padded(bridge.vocabulary, PROMPTS), generation_config=GREEDY)
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.base.model.state_dict().items())
    with torch.no_grad():
        assert not bridge(torch.tensor([[5]])).logits.requires_grad


def test_it_looks_like_its_base(parts):
    bridge = parts.bridge()
    assert bridge.config is parts.base.model.config
    assert (bridge.device, bridge.dtype) == (parts.base.model.device, torch.float32)
    assert bridge.get_input_embeddings() is parts.base.model.get_input_embeddings()
    assert bridge.get_output_embeddings() is parts.base.model.get_output_embeddings()
    assert bridge.can_generate()
