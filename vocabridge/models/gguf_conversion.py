"""Converting GGUF files to folders that transformers loads, once each, into the cache.

A folder holds the digests of its files. If the files do not match their digests, the GGUF file is converted again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from vocabridge.alignment import VocabridgeError, cache_folder, read_gguf_tokenizer
from vocabridge.alignment.files import new_folder
from vocabridge.alignment.jsonio import read_json
from vocabridge.models.loading_checks import check_finite, check_keys, is_untied, weights_of
from vocabridge.utils.digest_cache import cached_file_digest

logger = logging.getLogger("vocabridge")

_DIGESTS = "digests.json"
"""The file of a converted folder with the SHA-256 of all others."""

_sound: set[Path] = set()
"""The folders whose digests this process has checked."""


def from_pretrained(folder: str, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model with transformers, and return it with transformers' loading info.

    Tensors of another shape than the model's are listed under "mismatched_keys" in the info, and raise no error.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        trust_remote_code=False,  # by default transformers asks on stdin
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    model, report = loaded
    return model, report


def convert_once(gguf: Callable[[Path], Path], key: str) -> Path:
    """Return the cache folder of a converted GGUF file; convert the file if the folder is missing or damaged.

    A lock lets only one of several processes convert. A damaged folder causes a warning to the logger "vocabridge".

    Args:
        gguf: Returns the path of the file; its argument is a scratch folder that it may write into.
        key: The folder's name.
    """
    models = cache_folder() / "models"
    if _is_sound(target := models / key):
        return target
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f"{key}.lock"):
        if not _is_sound(target):
            if target.exists():
                logger.warning("Converting a damaged model of the cache again: %s", target)
            with new_folder(target) as folder:
                scratch = folder / "scratch"
                scratch.mkdir()
                _convert(gguf(scratch), folder)
                shutil.rmtree(scratch)
                (folder / _DIGESTS).write_text(json.dumps(_digests(folder)))
                shutil.rmtree(target, ignore_errors=True)
            _sound.add(target)
    return target


def _is_sound(folder: Path) -> bool:
    """Whether a converted folder exists and matches its digests, which are checked once in a process."""
    if folder not in _sound and folder.is_dir():
        with contextlib.suppress(OSError, ValueError, VocabridgeError):
            if read_json(folder / _DIGESTS) == _digests(folder):
                _sound.add(folder)
    return folder in _sound and folder.is_dir()


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: cached_file_digest(path) for path in sorted(folder.iterdir()) if path.name != _DIGESTS}


def _convert(gguf: Path, folder: Path) -> None:
    model, report = from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    check_keys(str(gguf), f"a {type(model).__name__}", report)
    model = model.bfloat16()
    check_finite(str(gguf), weights_of(model))
    # transformers refuses to save a model that it considers quantized.
    model.hf_quantizer = None  # type: ignore[assignment]
    model.is_quantized = False  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if is_untied(model):  # the file has output embeddings, which llama.cpp uses
        model.config.get_text_config().tie_word_embeddings = False
    model.save_pretrained(folder)
    tokenizer = read_gguf_tokenizer(gguf)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.tokenizer,
        chat_template=tokenizer.chat_template,
        add_bos_token=tokenizer.add_bos_token,
        **{
            f"{role}_token": tokenizer.tokens[tokenizer.roles[role]]
            for role in ("bos", "eos", "pad", "unk")
            if role in tokenizer.roles
        },
    ).save_pretrained(folder)
