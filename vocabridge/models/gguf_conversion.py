"""GGUF files as folders that transformers loads, each converted once and kept in the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from vocabridge.alignment import cache_folder, read_gguf_tokenizer
from vocabridge.alignment.files import new_folder
from vocabridge.models.loading_checks import check_finite, check_keys, is_untied, weights_of


def from_pretrained(folder: str, **how: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a model as transformers makes it, and its report on the keys, those of another shape among them."""
    made: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        trust_remote_code=False,  # or it would ask, on stdin
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **how,
    )
    model, report = made
    return model, report


def convert_once(gguf: Callable[[Path], Path], key: str) -> Path:
    """Convert a GGUF file to a folder of the cache; two processes at once do the work once.

    Args:
        gguf: Gives the file, given a scratch folder to write into.
        key: The folder's name.
    """
    models = cache_folder() / "models"
    if (target := models / key).is_dir():
        return target
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f"{key}.lock"):
        if not target.is_dir():
            with new_folder(target) as folder:
                scratch = folder / "scratch"
                scratch.mkdir()
                _convert(gguf(scratch), folder)
                shutil.rmtree(scratch)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    model, report = from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    check_keys(str(gguf), f"a {type(model).__name__}", report)
    model = model.bfloat16()
    check_finite(str(gguf), weights_of(model))
    # transformers refuses to save what it still believes to be quantized.
    model.hf_quantizer = None  # type: ignore[assignment]
    model.is_quantized = False  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if is_untied(model):  # the file's own output embeddings, as llama.cpp takes them
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
