"""The byte-level mode beside genlm-bytes: the same weights, the same text, in one run.

    pip install genlm-bytes
    python benchmarks/compare_genlm.py [--models NAME ...] [--bytes 16] [--beam 5] [--prune 0]
                                      [--tolerance 1e-3] [--output FILE]

Byte by byte along an English sentence, float32: total variation of the two distributions of the next byte, how often
the likeliest is the same, the bits of the text, and seconds a byte; of SmolLM2, and of Gemma-3, which genlm-bytes may
refuse. It counts tokenisations that no tokenizer makes, too; here they are left out. It needs gigabytes, the more
bytes, the more. It is no dependency of this project, and this is not run by `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from compare_byte_level import MODELS, beginning
from genlm.backend.llm.hf import AsyncTransformer
from genlm.bytes import BeamParams, ByteBeamState
from transformers import AutoTokenizer

from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.models.loading import LoadedModel, load_model, model_folder

TEXT = " The value network reads the text that the base model writes, cut anew into tokens of its own."


def ours(loaded: LoadedModel, text: bytes, tolerance: float) -> tuple[np.ndarray, float]:
    """Return the distributions of the next byte in front of each of a text, (n, 256), and seconds a byte."""
    model = ByteLM.of(loaded, tolerance=tolerance)
    here = model.text(beginning(loaded.vocabulary))
    here.next()  # what is cached at first use
    found, begin = [], perf_counter()
    for byte in text:
        found.append(here.next().p[0, :256])
        here = here.after(bytes([byte]))
    return np.array(found), (perf_counter() - begin) / len(text)


def theirs(loaded: LoadedModel, tokenizer: Any, text: bytes, limits: BeamParams) -> tuple[np.ndarray, float]:
    """Return the same of genlm-bytes."""

    async def along() -> tuple[np.ndarray, float]:
        model = AsyncTransformer(loaded.model, tokenizer)
        state = await ByteBeamState.initial(model, limits)
        await state.logp_next()
        found, begin = [], perf_counter()
        for byte in text:
            found.append(np.exp(np.asarray((await state.logp_next()).ps)[:256]))
            state = await (state << byte)
        return np.array(found), (perf_counter() - begin) / len(text)

    return asyncio.run(along())


def main() -> None:
    """Compare, print, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--bytes", type=int, default=16)
    parser.add_argument("--beam", type=int, default=5, help="so many tokenisations are kept there")
    parser.add_argument("--prune", type=float, default=0.0, help="and none that is less probable, beside the likeliest")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = TEXT.encode()[: arguments.bytes]
    limits, rows = BeamParams(K=arguments.beam, prune_threshold=arguments.prune), []
    for name in arguments.models:
        loaded = load_model(name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(model_folder(name), trust_remote_code=False)
        here, seconds = ours(loaded, text, arguments.tolerance)
        here = here / here.sum(1, keepdims=True)  # without the control tokens
        row = {"model": name, "bytes": len(text), "s a byte": seconds, "bits": bits(here, text)}
        try:
            there, their_seconds = theirs(loaded, tokenizer, text, limits)
        except Exception as error:  # whatever it refuses a tokenizer with
            row |= {"genlm-bytes": f"refuses it: {error}"[:300]}
        else:
            there = there / there.sum(1, keepdims=True)
            variation = np.abs(here - there).sum(1) / 2
            row |= {
                "genlm-bytes: s a byte": their_seconds,
                "ratio": seconds / their_seconds,
                "genlm-bytes: bits": bits(there, text),
                "variation, mean": float(variation.mean()),
                "variation, most": float(variation.max()),
                "same likeliest byte": float((here.argmax(1) == there.argmax(1)).mean()),
            }
        rows.append(row)
        print(json.dumps(row, indent=2, ensure_ascii=False), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def bits(p: np.ndarray, text: bytes) -> float:
    """Return what a text costs by distributions of the next byte."""
    return -float(np.log2(p[np.arange(len(text)), list(text)]).sum())


if __name__ == "__main__":
    main()
