"""Reading JSON that anybody may have written.

Whatever is wrong with a text is a ValueError whose message is a part of a sentence; who reads the file knows what it
is for, and says its name and what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vocabridge.alignment.inputs import refuse_packed

DEEPEST = 100
"""Levels of lists and objects: more than any file here needs, and far fewer than Python's recursion allows."""


class JsonError(ValueError):
    """A text that is no JSON that can be worked with."""


def parse_json(text: str | bytes) -> Any:
    """Parse one JSON document.

    Args:
        text: The document, in UTF-8 where it is bytes; a byte order mark is skipped.

    Raises:
        JsonError: It is not UTF-8, not JSON, holds a number of thousands of digits, or is nested too deeply.
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
            for holder in level
            if isinstance(holder, (dict, list))
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
    raise JsonError("it is nested too deeply")


def read_json(path: Path) -> Any:
    """Parse a file that holds one JSON document.

    Raises:
        OSError: It cannot be read.
        JsonError: As for `parse_json`.
        VocabridgeError: gzip has packed it.
    """
    refuse_packed(path)
    return parse_json(path.read_bytes())


def json_type(value: Any) -> str:
    """Return what JSON calls the type of a value, with its article; null and truth values by themselves."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "a string"
    return "a number" if isinstance(value, int | float) else "a list" if isinstance(value, list) else "an object"


def read_json_object(path: Path) -> dict[str, Any]:
    """Parse a file that holds one JSON object.

    Raises:
        OSError: It cannot be read.
        JsonError: As for `parse_json`; or it is a list, a string, a number, a truth value or null.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise JsonError(f"it holds {json_type(value)}; it must be an object")
    return value
