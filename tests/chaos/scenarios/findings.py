"""The findings of a scenario: figures with their bars, and violations."""

from msgspec import Struct, field


class Figure(Struct, kw_only=True, rename="camel"):
    """A measured number; it is good up to `most`, and from `least` on."""

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def is_beyond(self) -> bool:
        return (self.most is not None and self.value > self.most) or (
            self.least is not None and self.value < self.least
        )

    @property
    def bar(self) -> str:
        bars = (("at most", self.most), ("at least", self.least))
        return ", ".join(f"{words} {value:,.6g}" for words, value in bars if value is not None)

    def __str__(self) -> str:
        return f"{self.name} is {self.value:,.6g} {self.unit}, not {self.bar}"


class Findings(Struct, kw_only=True, rename="camel"):
    """All that a scenario found; figures are judged if it was `timed`."""

    scenario: str
    seed: int
    timed: bool
    servers: str
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @property
    def beyond(self) -> list[str]:
        """The figures beyond their bars."""
        return [str(figure) for figure in self.figures if figure.is_beyond]

    @property
    def passed(self) -> bool:
        return not (self.violations or (self.timed and self.beyond))
