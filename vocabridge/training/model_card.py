"""The record of a training run: its provenance for `value_network.json`, and a model card for readers."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vocabridge.alignment import write_atomically
from vocabridge.models.value_network_files import ValueNetworkConfig
from vocabridge.utils.hashing import json_digest
from vocabridge.utils.jsonl import data_digest

CARD = "README.md"

_IDENTITY = ("sha256", "share", "revision", "digest", "configs")
_PACKAGES = ("vocabridge", "torch", "transformers", "peft", "accelerate")


def package_versions() -> dict[str, str | None]:
    """Return the versions of the packages that training uses; None for a package that is not installed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def command_line() -> str:
    """Return the command line of this process, quoted for a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_data(source: str | Path | float | None) -> dict[str, Any] | None:
    """Return the name and SHA-256 of texts, or the share of the data that is held out; None for None."""
    if source is None:
        return None
    if isinstance(source, float):
        return {"share": source}
    return {"name": Path(source).name if Path(source).exists() else str(source), "sha256": data_digest(source)}


def identity_of(description: Mapping[str, Any] | list[dict[str, Any]] | None) -> Any:
    """Return what identifies models or data, so that a run is only resumed with the same ones.

    Args:
        description: Description of data by `describe_data`, of a model by `Reference.as_dict`, or a list of them.
    """
    if isinstance(description, list):
        return [identity_of(entry) for entry in description]
    known = {name: description[name] for name in _IDENTITY if description.get(name)} if description else {}
    if adapts := (description or {}).get("adapts"):
        known["adapts"] = identity_of(adapts)
    return json_digest(known) if len(known) > 1 else next(iter(known.values()), None)


def write_card(folder: Path, config: ValueNetworkConfig, record: Mapping[str, Any]) -> None:
    """Write `README.md`, a model card in the format of the hub.

    Args:
        folder: Folder of the value network.
        config: Configuration of the value network.
        record: The entry `training` of `value_network.json`.

    Raises:
        VocabridgeError: The file cannot be written.
    """
    source, data = record["source"], record["data"]
    known = f"commit {source['revision']}" if source["revision"] else f"weights {source['digest'][:12]}"
    facts = {
        "source model": f"{source['name']} ({known}; tokenizer {source['fingerprint'][:12]})",
        "data": f"{data['name']} (SHA-256 {data['sha256'][:12]}), {record['examples']} texts",
        "validation": _held_out(record["validation"]),
        **{
            name.replace("_", " "): value
            for name, value in record["config"].items()
            if name != "source" and value != []
        },
        "steps": record["steps"],
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version),
    }
    results = {
        "cross-entropy in the last epoch, nats a learned token": f"{record['losses'][-1]:.3f}",
        "size of the change of logits in the last epoch": f"{record['norms'][-1]:.3f}",
        "tokens changed in the last epoch": f"{record['changed'][-1]:.1%}",
    }
    if record["validation_before"] is not None:
        for when, name in (("the base alone", "before"), ("with the value network", "after")):
            results[f"held-out texts, bits a learned token, {when}"] = f"{record[f'validation_{name}']:.3f}"
    text = f"""---
library_name: vocabridge
base_model: {source["name"]}
tags: [value-network]
---

# A value network for {source["name"]}

A small model of what post-training adds to the logits of {source["name"]} (Lu et al., 2024, arXiv 2410.21027). It
steers base models of any family, whose weights do not change:

    vocabridge bridge -o my-bridge --base BASE --value {folder.resolve().name}

{_table("training", facts)}
{_table("result", results)}
Trained with: `{record["command"]}`

`value_network.json` holds all of this and the curves. The value network has the limits of its source model and its
data, and their licenses apply to it.
"""
    write_atomically(folder / CARD, text.encode())


def _held_out(validation: Mapping[str, Any] | None) -> str:
    if validation is None:
        return "none"
    if "share" in validation:
        return f"{validation['share']:.0%} of the data, held out"
    return f"{validation['name']} (SHA-256 {validation['sha256'][:12]})"


def _table(title: str, rows: Mapping[str, Any]) -> str:
    return f"| {title} | |\n| --- | --- |\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())
