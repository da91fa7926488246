"""Latin letters that a search takes for plain ones: `lukasz` finds Łukasz (decision 0055).

A letter's name in Unicode has its plain letters, as in LATIN SMALL LETTER L WITH STROKE. PostgreSQL's
unaccent.rules have the same ones, and those of letters with names of their own.

The index has the words of the old function, so the migration drops it. `ops/maintenance/schema.py` builds it
while the service works; until then searches are slow, and find all that they should.

Revision: 0020, after 0019.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from alembic import op

revision = "0020"
down_revision = "0019"

_LATIN = range(0x80, 0x1E000)
_PLAIN_IN_NAME = re.compile("LATIN SMALL (?:LETTER|LIGATURE) ([A-Z]{1,2})(?: WITH .+)?")
_PLAIN_BY_RULES = {"ð": "d", "þ": "th", "ŋ": "n", "ɛ": "e", "ʉ": "u"}


def upgrade() -> None:
    folds = {sign: sign for sign in map(chr, _LATIN)} | _search().folds()
    plain = {sign: "".join(map(_plain, fold)) for sign, fold in folds.items()}
    _replace({sign: fold for sign, fold in plain.items() if fold != sign})


def downgrade() -> None:
    _replace(_search().folds())


def _plain(sign: str) -> str:
    named = _PLAIN_IN_NAME.fullmatch(unicodedata.name(sign, ""))
    return named[1].lower() if named else _PLAIN_BY_RULES.get(sign, sign)


def _replace(folds: Mapping[str, str]) -> None:
    op.execute("DROP INDEX IF EXISTS registration_words_idx, registration_search_idx")
    statement = _search().folded(folds).replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    op.get_bind().exec_driver_sql(statement)


def _search() -> Any:  # noqa: ANN401 - a module whose name is no name in Python
    """Return the migration that made the function."""
    return op.get_context().opts["script"].get_revision("0012").module
