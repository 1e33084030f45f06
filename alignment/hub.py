"""Find out with one request whether a name is a repository of the Hugging Face hub.

Without a network, huggingface_hub itself requests every file six times, which takes 24 seconds, and then reports a
missing repository and a missing network as the same error.
"""

from __future__ import annotations

from pathlib import Path

from vocabridge.alignment.errors import VocabridgeError

_PATH_SUFFIXES = (".bin", ".gguf", ".json", ".jsonl", ".model", ".safetensors", ".tiktoken")

_FORBIDDEN, _NOT_FOUND = 403, (401, 404)
"""HTTP statuses. Without a login the hub answers 401 for a missing repository as for a private one."""


def is_path(name: str) -> bool:
    """Whether a name can only mean a local file or folder, existing or not."""
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
    """Request a repository from the hub, once.

    Args:
        name: The name that a user gave.

    Returns:
        True if the hub has the repository; False if the hub cannot be reached but the local hub cache has files of the
        repository.

    Raises:
        VocabridgeError: The name is a path that does not exist; the hub has no such repository or refuses access; or
            the hub cannot be reached and its local cache has nothing of the repository.
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
        raise _missing_path(name) from None
    if is_path(name):
        raise _missing_path(name)
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except RemoteEntryNotFoundError:  # the repository exists, without a config.json
        return True
    except HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, GatedRepoError) or status == _FORBIDDEN:
            raise VocabridgeError(
                f"{name}: the hub refuses access to this repository (status {status}); ask for access on its page, "
                "and log in with `hf auth login`"
            ) from error
        if status in _NOT_FOUND:
            raise VocabridgeError(
                f"{name}: neither a local file or folder nor a repository of the hub; correct the name, or log in with "
                "`hf auth login` if the repository is private"
            ) from error
        reason = f"it answers with status {status}"
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set"
    except Exception as error:  # the HTTP client and its errors differ between versions of huggingface_hub
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        return True
    if _is_cached(name):
        return False
    raise VocabridgeError(
        f"{name}: no local file or folder has this name, and the hub cannot be reached ({reason}); correct the name "
        "or connect to the network"
    )


def _is_cached(name: str) -> bool:
    """Whether the local hub cache has any file of a repository."""
    from huggingface_hub import constants

    return any((Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/*"))


def _missing_path(name: str) -> VocabridgeError:
    return VocabridgeError(
        f"{name}: no such file or folder; give a model's folder, a tokenizer.json, a .gguf file or a hub id"
    )
