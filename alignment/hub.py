"""The model hub: whether a name is one of its repositories, asked once.

huggingface_hub asks for every file six times, 24 seconds in all, where nobody answers, and reports a missing
repository and a missing network as the same error.
"""

from __future__ import annotations

from pathlib import Path

from vocabridge.alignment.errors import VocabridgeError

_PATH_SUFFIXES = (".bin", ".gguf", ".json", ".jsonl", ".model", ".safetensors", ".tiktoken")

_FORBIDDEN, _NOT_FOUND = 403, (401, 404)
"""Statuses. Without a login the hub answers 401 for a repository that is not there, as for a private one."""


def is_path(name: str) -> bool:
    """Whether a name can only mean a file or folder here, be it there or not."""
    path = Path(name)
    return (
        path.exists()
        or name.startswith((".", "/", "~"))
        or name.endswith(_PATH_SUFFIXES)
        or len(path.parts) > 2
        or "\\" in name
        or (len(path.parts) == 2 and path.parent.is_dir())
    )


def reach_repository(name: str) -> bool:
    """Ask the hub for a repository, once.

    Args:
        name: What a user wrote.

    Returns:
        True if the hub has it; False if the hub cannot be reached, but files of this repository are in its cache here.

    Raises:
        VocabridgeError: The name means a path where nothing is, or no repository; or the hub cannot be reached, and
            nothing of the repository is here.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise _nothing_here(name) from None
    if is_path(name):
        raise _nothing_here(name)
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except RemoteEntryNotFoundError:  # the repository is there
        return True
    except HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, GatedRepoError) or status == _FORBIDDEN:
            raise VocabridgeError(
                f"{name}: the hub does not let us read this repository (status {status}); ask for access on its page, "
                "and log in with `hf auth login`."
            ) from error
        if status in _NOT_FOUND:
            raise VocabridgeError(
                f"{name}: neither a file or folder here nor a repository of the hub; correct the name, or log in with "
                "`hf auth login` if the repository is private."
            ) from error
        reason = f"it answers with status {status}"
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set"
    except Exception as error:  # of the HTTP client, which is another one from version to version
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        return True
    if _is_cached(name):
        return False
    raise VocabridgeError(
        f"{name}: no file or folder here has this name, and the hub cannot be reached ({reason}); correct the name, or "
        "connect to the network."
    )


def _is_cached(name: str) -> bool:
    """Whether any file of a repository is in the hub's cache here."""
    from huggingface_hub import constants

    return any((Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/*"))


def _nothing_here(name: str) -> VocabridgeError:
    return VocabridgeError(
        f"{name}: no such file or folder; give a model's folder, a tokenizer.json, a .gguf file or a hub id."
    )
