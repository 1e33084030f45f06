"""A loaded model has the name that the user gave, wherever its files are."""

from __future__ import annotations

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.models import loading as models
from vocabridge.models.loading import check_model, load_model, resolve_vocabulary
from vocabridge.models.packaged import PACKAGED, PackagedModel


@pytest.fixture
def packaged(monkeypatch, model_folders) -> str:
    """Return the name of a packaged model whose converted files are in a folder of the cache."""
    package = PackagedModel(module="json", requirement="tiny==1", gguf=lambda package, _: package)
    monkeypatch.setitem(PACKAGED, "tiny", package)
    monkeypatch.setattr(models, "_converted_package", lambda *_: model_folders.target)
    return "tiny"


def test_a_packaged_model_has_its_short_name_and_no_path_of_the_cache(packaged):
    loaded = load_model(packaged)
    assert (loaded.name, loaded.vocabulary.name, loaded.model.name_or_path) == ("tiny", "tiny", "tiny")
    assert resolve_vocabulary(packaged).name == "tiny"


def test_check_model_reports_a_missing_model_without_reading_weights(packaged, monkeypatch, own):
    check_model(packaged)
    (own / "target" / "model.safetensors").write_bytes(b"")
    check_model(str(own / "target"))
    monkeypatch.setitem(PACKAGED, "gone", PackagedModel("no_such_module", "gone==1", lambda *_: own))
    for name, message in (
        ("gone", "gone is not installed; run: pip install gone==1"),
        (str(own / "nowhere.gguf"), r"there is no file .*nowhere\.gguf"),
        (str(own / "nowhere"), "no such file or folder"),
        (str(own), "holds no model, as there is no config.json"),
    ):
        with pytest.raises(VocabridgeError, match=message):
            check_model(name)
