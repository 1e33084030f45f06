"""Encoding of texts as UTF-8, in which all texts and tokens are compared."""

from __future__ import annotations

from vocabridge.alignment.errors import VocabridgeError


def as_utf8(text: str) -> bytes:
    """Encode a text as UTF-8.

    Raises:
        VocabridgeError: The text holds half of a surrogate pair. A Python string may, but UTF-8 cannot represent it.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise VocabridgeError(
            f"the text holds half of a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}; "
            "replace it, for example with text.encode(errors='replace').decode()"
        ) from None
