"""Shows the progress of a long command on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich import progress
from rich.console import Console


@contextmanager
def bar(first: str, total: int, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show a bar while the block lasts, if standard error is a terminal; yield the function that updates it.

    `first` is the description at the beginning. The function takes the arguments of rich's `Progress.update`.
    """
    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal
    with progress.Progress(*columns, console=console, transient=True, disable=hidden) as shown:
        yield partial(shown.update, shown.add_task(first, total=total))
