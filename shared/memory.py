"""How a process that lives long keeps the garbage collector out of its way."""

import gc

_ALLOCATIONS_BETWEEN_COLLECTIONS = 20_000


def freeze() -> None:
    """Take what is loaded now for permanent, and look for cycles rarely: the hot paths make none.

    Called once, when everything is imported and connected.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_BETWEEN_COLLECTIONS)
