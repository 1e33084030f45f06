"""The two packaged models, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vocabridge.byte_model import ByteModel
from vocabridge.models import LoadedModel, load_model
from vocabridge.score import own_bits

pytestmark = pytest.mark.real

TEXT = "Value networks are trained on the responses of a small base model, (some) with 12 layers.\n"


@pytest.fixture(scope="module", params=["smollm2-135m-instruct", "gemma-3-270m"])
def loaded(request) -> LoadedModel:
    return load_model(request.param, dtype=torch.float32)


def test_by_bytes_a_text_costs_no_more_than_by_its_own_tokens(loaded):
    encoding = loaded.vocabulary.encode(TEXT)
    first, last = 2, len(encoding.ids) - 1  # from behind the first words to the last token's start
    begin, end = int(encoding.starts[first]), int(encoding.starts[last])
    text, bits = ByteModel.of(loaded, tolerance=1e-3).text([TEXT.encode()[:begin]]), 0.0
    for byte in TEXT.encode()[begin:end]:
        found = text.next()
        assert found.p.sum() == pytest.approx(1)
        assert found.lost < 5e-3
        bits -= np.log2(found.p[0, byte])
        text = text.after(bytes([byte]))
    assert bits < 1.001 * own_bits(loaded, encoding.ids.tolist())[first:last].sum()


def test_a_prompt_that_ends_inside_of_a_word_goes_on_as_the_text_would(loaded):
    found = ByteModel.of(loaded, tolerance=1e-3).text([b"Paris is the capital of Fra"]).next()
    assert found.p[0, ord("n")] > 0.9
