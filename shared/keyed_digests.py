"""Digests under the secret key: without the key, guessing the text that a digest is of is of no use.

The first byte of a digest is its version, 2: HMAC-SHA-256. Version 1, SHA-256 without a key, has none.
"""

import hmac
from collections.abc import Sequence

_HMAC_SHA_256 = b"\x02"


def keyed(key: bytes, message: bytes) -> bytes:
    """Return the digest of a message under a key, 33 bytes."""
    return _HMAC_SHA_256 + hmac.digest(key, message, "sha256")


def fingerprint(keys: Sequence[bytes], content: bytes) -> bytes:
    """Return the fingerprint to keep of a request, by the first key; without a key `content` itself.

    `content` is the SHA-256 of the request.
    """
    return keyed(keys[0], content) if keys[0] else content


def is_of(kept: bytes, keys: Sequence[bytes], content: bytes) -> bool:
    """Return True if the kept fingerprint is of this request, made by any of the keys or without one."""
    return any(
        hmac.compare_digest(kept, made) for made in (content, *(keyed(key, content) for key in keys if key))
    )
