"""Read JSON from untrusted files.

Every fault is a `JsonError` whose message is a clause, such as "it is nested too deeply". The caller completes the
sentence with the file's name and what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vocabridge.alignment.inputs import refuse_gzip

DEEPEST = 100
"""Levels of nested lists and objects: more than any valid file needs, and far below Python's recursion limit."""


class JsonError(ValueError):
    """A text that is not valid JSON, or whose JSON is not usable."""


def parse_json(text: str | bytes) -> Any:
    """Parse one JSON document.

    Args:
        text: The document; bytes are decoded as UTF-8, with or without a byte order mark.

    Raises:
        JsonError: The document is not UTF-8, not JSON, holds a number of thousands of digits, or is nested too deeply.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(decoded)
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 text at byte {error.start}") from error
    except RecursionError as error:
        raise JsonError("it is nested too deeply") from error
    except ValueError as error:
        raise JsonError(str(error)) from error
    level = [value]
    for _ in range(DEEPEST + 1):
        if not level:
            return value
        level = [
            item
            for container in level
            if isinstance(container, (dict, list))
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    raise JsonError("it is nested too deeply")


def read_json(path: Path) -> Any:
    """Parse a file that holds one JSON document.

    Raises:
        OSError: The file cannot be read.
        JsonError: As for `parse_json`.
        VocabridgeError: The file is compressed with gzip.
    """
    refuse_gzip(path)
    return parse_json(path.read_bytes())


def json_type(value: Any) -> str:
    """Return JSON's name for the type of a value, with its article ("a list"), or the literal null, true or false."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "a string"
    return "a number" if isinstance(value, int | float) else "a list" if isinstance(value, list) else "an object"


def read_json_object(path: Path) -> dict[str, Any]:
    """Parse a file that holds one JSON object.

    Raises:
        OSError: The file cannot be read.
        JsonError: As for `parse_json`; or the document is not an object.
        VocabridgeError: The file is compressed with gzip.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise JsonError(f"it holds {json_type(value)}; it must be an object")
    return value
