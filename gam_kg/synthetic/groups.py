"""The settings of a synthetic graph, and its division into groups of relations that are made independently."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Self

from pydantic import Field, model_validator

from gam_kg.config_file import Section

PATTERNS = ("recurrent", "persistent", "periodic", "chained", "random")
FACTS_AN_ENTITY = 5
FACTS_A_RELATION = 10

# A relation has facts at no more than this share of its (series, snapshot) pairs, so that which pairs stays open.
_MAX_DENSITY = 0.25
_PERIODS = (2, 3)
_SPELLS = (3, 10, 30)  # mean lengths
_HOME_OF_SPELLS = 4  # facts of a persistent series for each of another


class SyntheticConfig(Section):
    """The settings of `gam-kg generate`, an option each."""

    entities: int = Field(1000, ge=2, description="Entities; nearly all of them take part.")
    relations: int = Field(20, description="Relations, divided among the patterns as the facts are; a chain has two.")
    facts: int = Field(50_000, description="Facts, exactly.")
    snapshots: int = Field(100, ge=4, description="Timestamps, from 0 on.")
    seed: int = Field(0, ge=0, description="Equal settings give equal facts.")
    recurrent: float = Field(0.3, ge=0, description="Share of facts that repeat the last.")
    persistent: float = Field(
        0.2, ge=0, description="Share of facts that hold for a time, stated in each snapshot of it."
    )
    periodic: float = Field(0.2, ge=0, description="Share of facts that take turns.")
    chained: float = Field(0.2, ge=0, description="Share of leads and what follows from them.")
    random: float = Field(0.1, ge=0, description="Share of facts without a pattern.")
    noise: float = Field(0.1, ge=0, le=0.5, description="Probability that a fact breaks its pattern; not in spells.")
    exponent: float = Field(2.2, ge=1.5, le=10, description="Of the power law of degrees, P(degree = d) ~ d^-exponent.")
    newcomers: float = Field(0.1, ge=0, le=0.5, description="Share of entities that come after the first snapshot.")

    @property
    def shares(self) -> dict[str, float]:
        """Pattern → its share of the facts, in (0, 1]; patterns without facts are left out."""
        total = sum(getattr(self, pattern) for pattern in PATTERNS)
        return {pattern: getattr(self, pattern) / total for pattern in PATTERNS if getattr(self, pattern) > 0}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """What is wrong with values that are allowed one by one; each check presumes that those before it pass."""
        if not self.shares:
            yield f"{', '.join(PATTERNS)}: at least one must be above 0"
        fewest = sum(2 if pattern == "chained" else 1 for pattern in self.shares)
        if self.relations < fewest:
            yield f"relations={self.relations}: at least {fewest} for {', '.join(self.shares)} (a chain has two)"
        for name in ("relations", "facts"):
            if set(self.shares) == {"chained"} and getattr(self, name) % 2:
                yield f"{name}={getattr(self, name)}: an even number is needed where all facts are chained"
        fewest = max(FACTS_AN_ENTITY * self.entities, FACTS_A_RELATION * self.relations, 2 * self.snapshots)
        if self.facts < fewest:
            reason = f"{FACTS_AN_ENTITY} an entity, {FACTS_A_RELATION} a relation and 2 a snapshot"
            yield f"facts={self.facts}: at least {fewest}, which is {reason}"
        emissions = {group.emissions: group.pattern for group in plan_groups(self)}
        if not min(emissions):
            pattern = emissions[0]
            reason = "too small a share for each of its relations to have a fact"
            yield f"{pattern}={getattr(self, pattern)}: {reason}; raise it, or leave the pattern out with 0"
        # The entities that are there from the start must be enough for all facts of a relation.
        most, present = max(emissions), (1 - self.newcomers) * self.entities
        room = int(_MAX_DENSITY * present * (self.snapshots - 1))
        if most > room:
            yield (
                f"facts={self.facts}: a relation would have {most}, of which {self.entities} entities over "
                f"{self.snapshots} snapshots have room for {room}; lower it, or raise relations, entities or snapshots"
            )


@dataclass(frozen=True)
class Group:
    """Relations whose facts depend on each other, and on no others: one, or the two of a chain.

    Attributes:
        index: Position among the groups.
        pattern: One of PATTERNS.
        relations: Names; of a chain that of the leads and that of the follows.
        emissions: Facts of each relation.
        period: How many facts of its series ago a fact repeats; 0 for none.
        spell: Mean length in snapshots of the spells of a persistent relation; 0 for the others.
        home: Part [start, stop) of the shuffled entities, all of which are subjects here.
    """

    index: int
    pattern: str
    relations: tuple[str, ...]
    emissions: int
    period: int
    spell: int
    home: tuple[int, int]

    @property
    def num_facts(self) -> int:
        """Facts of all its relations."""
        return self.emissions * len(self.relations)


def plan_groups(config: SyntheticConfig) -> list[Group]:
    """The groups, in a fixed order; their facts add up to `config.facts`."""
    num_relations, num_facts = _relations_of(config), _facts_of(config)
    planned: list[tuple[str, int, int]] = []
    for pattern in config.shares:
        size = 2 if pattern == "chained" else 1
        count, emissions = num_relations[pattern] // size, num_facts[pattern] // size
        planned += [(pattern, place, emissions // count + (place < emissions % count)) for place in range(count)]
    weight = [-(-emissions // (_HOME_OF_SPELLS if pattern == "persistent" else 1)) for pattern, _, emissions in planned]
    cuts = [config.entities * part // sum(weight) for part in accumulate(weight, initial=0)]
    return [
        Group(index, pattern, _names(pattern, place), emissions, _period(pattern, place), _spell(pattern, place), home)
        for index, ((pattern, place, emissions), home) in enumerate(zip(planned, pairwise(cuts), strict=True))
    ]


def _names(pattern: str, place: int) -> tuple[str, ...]:
    name = f"{pattern}_{place}"
    return (f"{name}_lead", f"{name}_follow") if pattern == "chained" else (name,)


def _period(pattern: str, place: int) -> int:
    return {"periodic": _PERIODS[place % len(_PERIODS)], "random": 0}.get(pattern, 1)


def _spell(pattern: str, place: int) -> int:
    return _SPELLS[place % len(_SPELLS)] if pattern == "persistent" else 0


def _relations_of(config: SyntheticConfig) -> dict[str, int]:
    """Relations of each pattern: at least one, an even number for chains."""
    shares = dict(config.shares)
    chained = shares.pop("chained", 0)
    nearest = max(1, round(config.relations * chained / 2))
    pairs = min(nearest, (config.relations - len(shares)) // 2) if chained else 0
    rest = _apportion(config.relations - 2 * pairs - len(shares), shares)
    return {"chained": 2 * pairs, **{pattern: 1 + more for pattern, more in rest.items()}}


def _facts_of(config: SyntheticConfig) -> dict[str, int]:
    """Facts of each pattern; even for chains, since each lead has one follow."""
    shares = dict(config.shares)
    chained = 2 * round(config.facts * shares.pop("chained", 0) / 2)
    return {"chained": chained, **_apportion(config.facts - chained, shares)}


def _apportion(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole parts of a total, as near to the shares as they can be (largest remainders)."""
    scale = total / sum(shares.values()) if shares else 0
    parts = {name: int(share * scale) for name, share in shares.items()}
    missing = total - sum(parts.values()) if shares else 0
    nearest = sorted(shares, key=lambda name: parts[name] - shares[name] * scale)
    return parts | {name: parts[name] + 1 for name in nearest[:missing]}
