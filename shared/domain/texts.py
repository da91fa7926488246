"""Texts that people send: the form in which they are kept, found and compared (pure)."""

import re
import unicodedata
from collections.abc import Collection

import idna

_NORMALIZED_LENGTH_MAX = 2_000
"""The length of the longest text, 500, when each of its characters comes in the most parts, 4.

A longer text is refused in any form, and its form could take seconds: marks on one letter are sorted.
"""
LOCAL_PART_BYTES_MAX = 64
DOMAIN_LENGTH_MAX = 253

# White space, seen or not: Unicode's White_Space, then its Default_Ignorable_Code_Point and other characters
# without ink, marks of direction among them.
_SEEN = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_UNSEEN = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2060-\u2065\u206a-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb"
)
# Without ink as well, but the end of an emoji, or of a phrase of shorthand or music: never trimmed.
_SELECTORS, _TAGS = "\ufe00-\ufe0f", "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
_OUTER = "".join(re.findall(f"[{_SEEN}{_UNSEEN}]", "".join(map(chr, range(0x10000)))))
_INVISIBLE = re.compile(f"[{_SEEN}{_UNSEEN}{_SELECTORS}{_TAGS}]*")
_SEPARATORS = re.compile("[\x85\u2028\u2029]")
_CONTROLS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SURROGATES = "\ud800-\udfff"
_HALF = re.compile(f"[{_SURROGATES}]")
_REFUSED = re.compile(f"[{_CONTROLS}{_SURROGATES}]")
"""Control characters, those that turn the direction of the text around them, and halves of characters."""

PATTERN = "".join(
    character if " " <= character <= "~" else f"\\u{ord(character):04x}"
    for character in f"^[^{_CONTROLS}]*[^{_CONTROLS}{_SEEN}{_UNSEEN}{_SELECTORS}][^{_CONTROLS}]*$"
)
"""The pattern of the texts that `clean` takes as they are, as JSON Schema writes it."""

_LOCAL_PART = re.compile(r'[^\s"(),:;<>@\[\\\]]+|"(?:[^"\\]|\\.)*"')
_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+$){_LABEL}")
_LABEL_LENGTH_MAX = 63


def clean(text: str) -> str:
    """Return the text in NFC and without outer white space; a line or paragraph separator becomes a blank.

    Raises `ValueError` with the reason if the text holds control characters, characters of direction or
    halves of characters, or nothing but invisible ones. An empty text stays empty.
    """
    cleaned = _trimmed(text)
    if _HALF.search(cleaned):
        raise ValueError("must not hold half of a character, as of an emoji that was cut")
    if _REFUSED.search(cleaned):
        raise ValueError("must not hold control characters or characters that change the direction of text")
    if cleaned and _INVISIBLE.fullmatch(cleaned):
        raise ValueError("must hold something visible")
    return cleaned


def is_blank(text: str) -> bool:
    """Return True if the text has nothing but white space, seen or not."""
    return not _trimmed(text)


def printable(text: str) -> str:
    """Return the text as `clean` does, with a blank for what `clean` refuses; empty if nothing is visible."""
    cleaned = _trimmed(_REFUSED.sub(" ", text))
    return "" if _INVISIBLE.fullmatch(cleaned) else cleaned


def email_key(email: str) -> str:
    """Return the form in which two spellings of one address are equal: lower case, the domain as A-labels."""
    if email.isascii():
        return email.lower()
    local, at, domain = unicodedata.normalize("NFC", email).lower().rpartition("@")
    return f"{local}{at}{_a_labels(domain)}"


def email_keys_stored(email: str) -> frozenset[str]:
    """Return all keys under which the address may be stored: its own, and that of version 0.1."""
    return frozenset((email_key(email), email.casefold()))


def email_address(text: str, domains_refused: Collection[str] = ()) -> str:
    """Return the address as it is kept: trimmed, in NFC, its domain in lower case and in Unicode.

    Raises `ValueError` with the reason. The local part has 1 to 64 bytes without blanks, or is quoted; dots
    may stand anywhere in it. The domain has at least two labels of letters, digits and inner hyphens; the
    last label is not a number. `domains_refused` (A-labels) and the domains below them are refused. The
    domain need not exist.
    """
    local, at, domain = clean(text).rpartition("@")
    labels = _a_labels(domain.lower()) if len(domain) <= DOMAIN_LENGTH_MAX else ""
    is_local_part = _LOCAL_PART.fullmatch(local) and local.isprintable()
    if not at or not is_local_part or len(local.encode()) > LOCAL_PART_BYTES_MAX:
        raise ValueError("must be an email address, such as ann@example.org")
    if (
        not _DOMAIN.fullmatch(labels)
        or len(labels) > DOMAIN_LENGTH_MAX
        or any(len(label) > _LABEL_LENGTH_MAX for label in labels.split("."))
    ):
        raise ValueError("must be an email address with a domain, such as ann@example.org")
    if any(f".{labels}".endswith(f".{refused}") for refused in domains_refused):
        raise ValueError(f"must not be an address at {domain}")
    return f"{local}@{_in_unicode(labels)}"


def _trimmed(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text.strip(" ")
    trimmed = _SEPARATORS.sub(" ", text).strip(_OUTER)
    return unicodedata.normalize("NFC", trimmed) if len(trimmed) <= _NORMALIZED_LENGTH_MAX else trimmed


def _a_labels(domain: str) -> str:
    """Return the domain's A-labels (IDNA 2008, mapped by UTS 46), or the domain itself if it has none."""
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        return domain


def _in_unicode(labels: str) -> str:
    if "xn--" not in labels:
        return labels
    try:
        return idna.decode(labels)
    except idna.IDNAError:
        return labels


def camel(name: str) -> str:
    """Return a name in snake_case in camelCase, as JSON has it."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
