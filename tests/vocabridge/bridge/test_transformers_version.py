"""Which versions of transformers are taken, and that what they call a cache does not matter."""

import re
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.cache import BridgeCache
from vocabridge.bridge.streaming import stream
from vocabridge.cli._errors import sentence
from vocabridge.models import transformers_version
from vocabridge.models.loading import load_model
from vocabridge.models.transformers_version import CACHE, NEXT, OLDEST, cache_name, check_transformers

GREEDY = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=1)


def test_pyproject_admits_the_versions_that_the_code_does():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    (least, below) = re.findall(r'"transformers>=([\d.]+),<([\d.]+)"', text)[0]
    assert (least, below) == (".".join(map(str, OLDEST)), ".".join(map(str, NEXT)))


@pytest.fixture
def installed(monkeypatch):
    """Return a function that sets the installed version, in the module that the check reads."""
    return lambda version: monkeypatch.setattr(transformers_version.transformers, "__version__", version)


@pytest.mark.parametrize("version", ["5.15.1", "4.57.6", "5.25.0", "5.25.0.dev0", "6.0.0"])
def test_a_version_that_was_not_tried_is_one_sentence_when_a_model_is_loaded(installed, model_folders, version):
    installed(version)
    with pytest.raises(VocabridgeError) as error:
        load_model(str(model_folders.source))
    assert sentence(error.value) == (
        f"transformers {version} is installed, and vocabridge needs transformers>=5.16,<5.25; "
        "run: pip install 'transformers>=5.16,<5.25'"
    )


@pytest.mark.parametrize("version", ["5.16.0", "5.20.2", "5.24.0", "5.24.1.dev0"])
def test_a_version_that_was_tried_is_taken(installed, version):
    installed(version)
    check_transformers()


@pytest.mark.parametrize("name", ["past_key_values", "cache", "of_another_name"])
def test_a_cache_is_taken_by_any_name(parts, name):
    bridge, ids = parts.bridge(), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        cache = bridge(ids[:, :2], use_cache=True)[CACHE]
        found = bridge(ids[:, 2:], **{name: cache})
        assert isinstance(cache, BridgeCache)
        assert found[CACHE] is cache
        torch.testing.assert_close(found.logits, bridge(ids).logits[:, 2:], atol=1e-4, rtol=1e-4)
        assert cache.get_seq_length() == 4


@pytest.mark.parametrize("name", ["past_key_values", "cache", "of_another_name"])
def test_a_cache_that_only_the_base_would_read_is_refused_by_any_name(parts, name):
    with pytest.raises(VocabridgeError, match="a bridge cannot use a DynamicCache"):
        parts.bridge()(torch.tensor([[5, 6]]), **{name: DynamicCache()})


def test_two_caches_are_refused(parts):
    caches = {"past_key_values": BridgeCache(DynamicCache()), "cache": BridgeCache(DynamicCache())}
    with pytest.raises(VocabridgeError, match="past_key_values and cache are both a cache; give one of them"):
        parts.bridge()(torch.tensor([[5, 6]]), **caches)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_puts_the_cache_of_transformers_into_one_for_all_models(parts, beams):
    ids = torch.tensor([[0, 5, 6, 7]])
    written = parts.bridge().generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GREEDY,
        num_beams=beams,
        return_dict_in_generate=True,
    )
    cache = written[cache_name(written)]
    assert isinstance(cache, BridgeCache)
    assert cache.streams._streams
    assert cache.changed_rate is not None


def test_at_strength_0_generation_and_streams_are_the_bases(parts):
    ids = torch.tensor([[0, *parts.base.vocabulary.encode("The quick fox").ids.tolist()]])
    bridge, mask = parts.bridge(strength=0.0), torch.ones_like(ids)
    theirs = parts.base.model.generate(ids, attention_mask=mask, generation_config=GREEDY)
    assert torch.equal(bridge.generate(ids, attention_mask=mask, generation_config=GREEDY), theirs)
    new = b"".join(parts.base.vocabulary.token_bytes[i] or b"" for i in theirs[0, ids.shape[1] :].tolist())
    text = "".join(stream(bridge, "The quick fox", max_new_tokens=8))
    assert text == new.decode(errors="replace")
