"""`admitone bench --against REV`: measures this version and another one in turns, on one machine."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import arena, plan
from benchmarks.judge import checkouts, figures, judgement, report
from benchmarks.judge.figures import Turn
from benchmarks.judge.judgement import OTHER, THIS, Judgement, Turned
from benchmarks.judge.version import Version
from benchmarks.processes import BenchmarkError
from benchmarks.report import machine, printing
from benchmarks.report.printing import Progressed
from ops import embedded
from ops.embedded import Postgres, Valkey
from ops.stack.programs import CHECKOUT
from shared import open_files
from shared.messaging import results

REPORT_FILE = "judgement.json"
DEFAULT_FIGURES = tuple(name for name in figures.FIGURES if name != figures.EVENTS_1000)
SECONDS, SECONDS_QUICK = 3, 1
WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a judgement; `variables` are settings of this version that the other one has not.

    `rate` is the open loop's arrivals per second; `OPEN_LOOP_SHARE` of the closed loop's decided/s if None.
    """

    against: str
    figures: tuple[str, ...]
    turns_each: int
    seconds: int
    rate: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


def options(  # noqa: PLR0913 - one parameter for each option
    against: str,
    *,
    quick: bool = False,
    only: str | None,
    turns: int | None,
    seconds: int | None,
    rate: int | None = None,
    variables: Sequence[str] = (),
) -> Options:
    """Return the options with their defaults; raises `BenchmarkError` for a value out of range.

    Without a rate the open loop needs the decided/s that the closed one measures.
    """
    wanted = set(only.split(",")) if only else set(DEFAULT_FIGURES)
    if rate is not None and figures.OPEN not in wanted:
        raise BenchmarkError("a rate is the open loop's: name it among the figures")
    if figures.OPEN in wanted and rate is None:
        wanted.add(figures.CLOSED_256)
    if unknown := sorted(wanted - set(figures.FIGURES)):
        raise BenchmarkError(f"{unknown[0]!r} is none of the figures {', '.join(figures.FIGURES)}")
    turns_min = 1 if quick else judgement.TURNS_MIN
    turns = turns or (judgement.TURNS_QUICK if quick else judgement.TURNS_MIN)
    if not turns_min <= turns <= plan.ROUNDS_MAX:
        raise BenchmarkError(f"turns must be {turns_min} to {plan.ROUNDS_MAX}")
    seconds = seconds or (SECONDS_QUICK if quick else SECONDS)
    if not 1 <= seconds <= plan.SECONDS_MAX:
        raise BenchmarkError(f"seconds must be 1 to {plan.SECONDS_MAX}")
    return Options(
        against=against,
        figures=tuple(name for name in figures.FIGURES if name in wanted),
        turns_each=turns,
        seconds=seconds,
        rate=rate,
        variables=dict(map(_variable, variables)),
    )


def _variable(text: str) -> tuple[str, str]:
    name, is_set, value = text.partition("=")
    if not (is_set and name.startswith("ADMITONE_")):
        raise BenchmarkError(f"{text!r} is not of the form ADMITONE_NAME=VALUE")
    return name, value


def command(wanted: Options, *, as_json: bool, output: Path) -> int:
    """Judge this version against a revision, show the judgement and write it; return the exit status."""
    total = 2 * wanted.turns_each * len(wanted.figures)
    with printing.progressing(total, quiet=as_json) as progressed:
        judged = judge(wanted, progressed)
    content = printing.keep(judged, output / REPORT_FILE)
    if as_json:
        print(content)  # noqa: T201
    else:
        report.show(judged)
        print(f"Kept in {output / REPORT_FILE}")  # noqa: T201
    return 1 if judged.violations else 0


def judge(wanted: Options, progressed: Progressed = lambda _name: None) -> Judgement:
    """Measure both versions in turns; raises `BenchmarkError` or `EmbeddedError` if it cannot."""
    names = {THIS: checkouts.described(), OTHER: checkouts.commit_of(wanted.against)}
    with running(names[OTHER], wanted.variables) as (versions, described):
        turns, open_per_second = _measure_all(versions, wanted, progressed)
    return Judgement(
        machine=described,
        this=" with ".join([names[THIS], *(f"{name}={value}" for name, value in wanted.variables.items())]),
        other=names[OTHER],
        seconds=wanted.seconds,
        turns_each=wanted.turns_each,
        workers=WORKERS,
        open_loop_per_second=open_per_second,
        comparisons=judgement.compare(turns),
        turns=turns,
        violations=judgement.violations(turns),
    )


def _measure_all(
    versions: Mapping[str, Version], wanted: Options, progressed: Progressed
) -> tuple[list[Turned], float | None]:
    """Measure one figure after the other, each in turns, after one warm-up turn of each version."""
    turns: list[Turned] = []
    open_per_second = None
    for version in (THIS, OTHER):
        figures.MEASURES[figures.CLOSED_256](_turn(versions, version, seconds=1))
    for figure in wanted.figures:
        if figure == figures.OPEN:
            open_per_second = wanted.rate or plan.OPEN_LOOP_SHARE * _lower_maximum(turns)
        for pair, version in judgement.order(wanted.turns_each):
            turn = _turn(versions, version, wanted.seconds, open_per_second)
            measured = figures.MEASURES[figure](turn)
            turns.append(Turned(figure=figure, version=version, pair=pair, measured=measured))
            progressed(figure)
    return turns, open_per_second


def _turn(
    versions: Mapping[str, Version], version: str, seconds: int, open_per_second: float | None = None
) -> Turn:
    idle = versions[OTHER if version == THIS else THIS]
    return Turn(version=versions[version], idle=idle, seconds=seconds, open_per_second=open_per_second)


def _lower_maximum(turns: list[Turned]) -> float:
    """Return the decided/s that both versions reach in the closed loop."""
    return min(
        median(judgement.values_of(turns, version, figures.CLOSED_256, figures.PER_SECOND))
        for version in (THIS, OTHER)
    )


@contextmanager
def running(commit: str, variables: Mapping[str, str]) -> Iterator[tuple[dict[str, Version], dict[str, str]]]:
    """Run both versions while the block lasts, this one with the variables; their folder is removed."""
    open_files.raise_limit()
    with tempfile.TemporaryDirectory(prefix="admitone-judge-") as made, ExitStack() as ends:
        folder = Path(made)
        checkout = checkouts.export(commit, folder)
        postgres = ends.enter_context(arena.running(Postgres, folder / "postgres"))
        versions = {}
        for name, files in ((THIS, CHECKOUT), (OTHER, checkout)):
            valkey = ends.enter_context(arena.running(Valkey, folder / name))
            versions[name] = Version(name, files, folder, postgres, valkey)
            versions[name].start(ends, WORKERS, variables if name == THIS else {})
        with closing(results.connect(embedded.addresses(folder / THIS).result_url)) as client:
            described = machine.describe(versions[THIS].database, client)
        yield versions, described
