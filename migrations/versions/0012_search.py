"""The functions by which names and email addresses are searched.

The database folds what is searched and what is searched for by one function with a table of its own, so its
locale has no say (decision 0055). `ops/maintenance/schema.py` builds the index that searches by them, and the
one that lists events by their age, while the service works.

Revision: 0012, after 0010.
"""

import json
import unicodedata
from collections.abc import Mapping

from alembic import op

revision = "0012"
down_revision = "0011"

_CASED_BELOW = 0x1F000
_MARKS = range(0x300, 0x370)
_MARKED = (range(0x530), range(0x1E00, 0x2000))
"""Latin, Greek and Cyrillic, in which accents do not count."""
_FULL_WIDTH = range(0xFF01, 0xFF5F)
_DOTLESS_I = "\N{LATIN SMALL LETTER DOTLESS I}"  # its capital is the I of ASCII

_FOLDED = r"""
CREATE FUNCTION folded(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 500 AS $$
BEGIN
    IF octet_length(value) = length(value) THEN
        RETURN lower(value COLLATE "C");
    END IF;
    RETURN regexp_replace(
        (SELECT string_agg(coalesce($folds${folds}$folds$::jsonb ->> sign, sign), '' ORDER BY place)
         FROM unnest(string_to_array(normalize(lower(value COLLATE "C")), NULL))
              WITH ORDINALITY AS signs (sign, place)) COLLATE "C",
        '([\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff])', ' \1', 'g'
    );
END
$$
"""
# Each word has a part of the event's id in front, so that a search looks at the words of one event.
# PostgreSQL takes no word of 2,046 bytes, and must not refuse a registration for it.
_SEARCH_WORDS = r"""
CREATE FUNCTION search_words(event_id uuid, name text, email text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_to_tsvector(string_to_array(
    right(event_id::text, 8) || regexp_replace(
        left(folded(name || ' ' || coalesce(email, '')), 400) COLLATE "C",
        '[\u0001-/:-@\[-`\{-\u00a0\u2000-\u206f\u3000-\u3003]+', ' ' || right(event_id::text, 8), 'g'
    ),
    ' '
))
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(folded(folds()))
    op.get_bind().exec_driver_sql(_SEARCH_WORDS)


def downgrade() -> None:
    op.execute("DROP INDEX IF EXISTS registration_words_idx, registration_search_idx, event_created_idx")
    op.execute("DROP FUNCTION search_words")
    op.execute("DROP FUNCTION folded")


def folded(folds: Mapping[str, str]) -> str:
    """Return the statement that creates the function `folded` with these folds."""
    table = json.dumps(folds, ensure_ascii=False).replace("%", "%%")  # the driver's sign for a parameter
    return _FOLDED.replace("{folds}", table)


def folds() -> Mapping[str, str]:
    """Return the characters beyond ASCII that a search takes for others."""
    marks = dict.fromkeys(map(chr, _MARKS), "")
    signs = {chr(code): _fold(chr(code)) for code in range(0x80, _CASED_BELOW)}
    wide = {chr(code): unicodedata.normalize("NFKC", chr(code)).casefold() for code in _FULL_WIDTH}
    return {sign: fold for sign, fold in {**signs, **wide, **marks}.items() if fold != sign}


def _fold(sign: str) -> str:
    """Fold a character's case by Unicode's full folding, and leave out its accents."""
    folded = "i" if sign == _DOTLESS_I else sign.casefold()
    if not any(ord(each) in letters for each in folded for letters in _MARKED):
        return folded
    apart = unicodedata.normalize("NFD", folded)
    return "".join(each for each in apart if ord(each) not in _MARKS)
