"""Texts as bytes: everything is compared as UTF-8."""

from __future__ import annotations

from vocabridge.alignment.errors import VocabridgeError


def as_utf8(text: str) -> bytes:
    """Encode a text.

    Raises:
        VocabridgeError: It holds half of a surrogate pair, which a Python string may, but no UTF-8 text.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise VocabridgeError(
            f"the text holds half of a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}; "
            "replace it, for example with text.encode(errors='replace').decode()"
        ) from None
