"""The two packaged models, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.bridge.streaming import stream
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.data import value_network_folder
from vocabridge.diagnostics.alignment_score import own_bits
from vocabridge.models.loading import LoadedModel, load_model
from vocabridge.models.value_network import load_value_source
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.projection import Projection

pytestmark = pytest.mark.real

TEXT = "Value networks are trained on the responses of a small base model, (some) with 12 layers.\n"


@pytest.fixture(scope="module", params=["smollm2-135m-instruct", "gemma-3-270m"])
def loaded(request) -> LoadedModel:
    return load_model(request.param, dtype=torch.float32)


def test_a_text_costs_no_more_bits_over_bytes_than_in_the_models_own_tokens(loaded):
    encoding = loaded.vocabulary.encode(TEXT)
    first, last = 2, len(encoding.ids) - 1  # from the third token to the start of the last
    begin, end = int(encoding.starts[first]), int(encoding.starts[last])
    text, bits = ByteLM.of(loaded, tolerance=1e-3).text([TEXT.encode()[:begin]]), 0.0
    for byte in TEXT.encode()[begin:end]:
        distribution = text.next()
        assert distribution.p.sum() == pytest.approx(1)
        assert distribution.lost < 5e-3
        bits -= np.log2(distribution.p[0, byte])
        text = text.after(bytes([byte]))
    assert bits < 1.001 * own_bits(loaded, encoding.ids.tolist())[first:last].sum()


def test_a_prompt_that_ends_inside_a_word_continues_as_the_whole_word_would(loaded):
    distribution = ByteLM.of(loaded, tolerance=1e-3).text([b"Paris is the capital of Fra"]).next()
    assert distribution.p[0, ord("n")] > 0.9


@pytest.mark.parametrize("prompt", ["Question: Anna has 12 apples and eats 5.\nAnswer:", "Water boils at"])
def test_with_one_tokenizer_the_greedy_text_is_that_of_adding_logits_token_by_token(prompt):
    base = load_model("smollm2-135m-instruct", dtype=torch.float32)
    source = load_value_source(str(value_network_folder()), dtype=torch.float32)
    plain_sum = Combination(ProjectionMethod.LINEAR)
    identity = Projection.identity(base.vocabulary.size)
    by_token = Bridge(base, [Steering(source, base.vocabulary, identity, plain_sum, policy=BoundaryPolicy.AS_IS)])
    by_byte = ByteLevelBridge(base, [ByteLevelSteering(source, plain_sum)], tolerance=1e-3)
    texts = ["".join(stream(bridge, prompt, max_new_tokens=6)) for bridge in (by_token, by_byte)]
    assert texts[0] == texts[1]
