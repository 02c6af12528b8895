"""What a synthetic graph is asked to be, and its division into groups of relations that are made independently."""

from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np

from gam_kg.errors import ConfigError

PATTERNS = ("recurrent", "periodic", "chained", "random")
MAX_NOISE = 0.5
MAX_NEWCOMERS = 0.5
FACTS_AN_ENTITY = 5
FACTS_A_RELATION = 10

# At most this share of the moments at which a series may speak is used, so that which of them are stays open.
_MAX_DENSITY = 0.25
_PERIODS = (2, 3)


@dataclass(frozen=True)
class SyntheticConfig:
    """The settings of `gam-kg generate`; a flag each.

    Attributes:
        entities: Entities that may take part.
        relations: Relations, shared out over the patterns as the facts are; a chain needs two.
        facts: Facts, exactly.
        snapshots: Timestamps 0 to snapshots - 1.
        seed: Everything random follows from it.
        recurrent, periodic, chained, random: Shares of the facts, relative to their sum.
        noise: Probability that a fact breaks its pattern.
        exponent: Of the power law of degrees, P(degree = d) ~ d^-exponent.
        newcomers: Share of the entities that come later than the first snapshot.

    Raises:
        ConfigError: A value is out of range, or the values do not fit together.
    """

    entities: int = 1000
    relations: int = 20
    facts: int = 50_000
    snapshots: int = 100
    seed: int = 0
    recurrent: float = 0.4
    periodic: float = 0.2
    chained: float = 0.2
    random: float = 0.2
    noise: float = 0.1
    exponent: float = 2.2
    newcomers: float = 0.1

    def __post_init__(self) -> None:
        self._require("entities", self.entities >= 2, "at least 2")
        self._require("snapshots", self.snapshots >= 4, "at least 4")
        self._require("seed", self.seed >= 0, "0 or more")
        for pattern in PATTERNS:
            self._require(pattern, 0 <= getattr(self, pattern) < np.inf, "a share, 0 or more")
        if not any(self.shares.values()):
            raise ConfigError(f"{', '.join(f'--{name}' for name in PATTERNS)}: at least one must be above 0")
        self._require("noise", 0 <= self.noise <= MAX_NOISE, f"from 0 to {MAX_NOISE}")
        self._require("exponent", 1.5 <= self.exponent <= 10, "from 1.5 to 10")
        self._require("newcomers", 0 <= self.newcomers <= MAX_NEWCOMERS, f"from 0 to {MAX_NEWCOMERS}")
        self._require("relations", self.relations >= self._fewest_relations, self._relations_allowed)
        if set(self.shares) == {"chained"}:
            for name in ("relations", "facts"):
                self._require(name, getattr(self, name) % 2 == 0, "even, where all facts are chained")
        fewest = max(FACTS_AN_ENTITY * self.entities, FACTS_A_RELATION * self.relations, 2 * self.snapshots)
        reason = f"{FACTS_AN_ENTITY} an entity, {FACTS_A_RELATION} a relation and 2 a snapshot"
        self._require("facts", self.facts >= fewest, f"at least {fewest}, which is {reason}")
        self._check_groups()

    @property
    def shares(self) -> dict[str, float]:
        """Pattern → its share of the facts, in (0, 1]; patterns without facts are left out."""
        total = sum(getattr(self, pattern) for pattern in PATTERNS)
        return {pattern: getattr(self, pattern) / total for pattern in PATTERNS if getattr(self, pattern) > 0}

    @property
    def _fewest_relations(self) -> int:
        return sum(2 if pattern == "chained" else 1 for pattern in self.shares)

    @property
    def _relations_allowed(self) -> str:
        return f"at least {self._fewest_relations} for {', '.join(self.shares)} (a chain has two)"

    def _check_groups(self) -> None:
        fewest = min(plan_groups(self), key=lambda group: group.emissions)
        if not fewest.emissions:
            raise ConfigError(
                f"--{fewest.pattern}: found {getattr(self, fewest.pattern)}, too small a share for each of its "
                f"relations to have a fact; raise it, or leave the pattern out with --{fewest.pattern} 0"
            )
        # Those there from the start alone must be able to say it all.
        most = max(group.emissions for group in plan_groups(self))
        room = int(_MAX_DENSITY * (1 - self.newcomers) * self.entities * (self.snapshots - 1))
        self._require(
            "facts",
            most <= room,
            f"fewer, since a relation would have {most}, of which {self.entities} entities over {self.snapshots} "
            f"snapshots can hold {room}; or raise --relations, --entities or --snapshots",
        )

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ConfigError(f"--{name}: found {getattr(self, name)}, allowed: {allowed}")


@dataclass(frozen=True)
class Group:
    """Relations whose facts depend on each other, and on no others: one, or the two of a chain.

    Attributes:
        index: Position among the groups.
        pattern: One of PATTERNS.
        relations: Names; of a chain that of the leads and that of the follows.
        emissions: Facts of each relation.
        period: How many facts of its series ago a fact repeats; 0 for none.
        home: Part [start, stop) of the shuffled entities that are subjects here whatever else they are.
    """

    index: int
    pattern: str
    relations: tuple[str, ...]
    emissions: int
    period: int
    home: tuple[int, int] = field(default=(0, 0))

    @property
    def num_facts(self) -> int:
        """Facts of all its relations."""
        return self.emissions * len(self.relations)


def plan_groups(config: SyntheticConfig) -> list[Group]:
    """The groups, in a fixed order; their facts add up to those asked for."""
    num_relations, num_facts = _relations_of(config), _facts_of(config)
    planned: list[tuple[str, int, int]] = []
    for pattern in config.shares:
        size = 2 if pattern == "chained" else 1
        count, emissions = num_relations[pattern] // size, num_facts[pattern] // size
        planned += [(pattern, place, emissions // count + (place < emissions % count)) for place in range(count)]
    weight = [emissions for _, _, emissions in planned]
    cuts = [config.entities * part // sum(weight) for part in accumulate(weight, initial=0)]
    return [
        Group(index, pattern, _names(pattern, place), emissions, _period(pattern, place), home)
        for index, ((pattern, place, emissions), home) in enumerate(zip(planned, pairwise(cuts), strict=True))
    ]


def _names(pattern: str, place: int) -> tuple[str, ...]:
    name = f"{pattern}_{place}"
    return (f"{name}_lead", f"{name}_follow") if pattern == "chained" else (name,)


def _period(pattern: str, place: int) -> int:
    if pattern == "periodic":
        return _PERIODS[place % len(_PERIODS)]
    return 0 if pattern == "random" else 1


def _relations_of(config: SyntheticConfig) -> dict[str, int]:
    """Relations of each pattern: at least one, an even number for chains."""
    shares = dict(config.shares)
    chained = shares.pop("chained", 0)
    pairs = 0
    if chained:
        nearest = max(1, round(config.relations * chained / 2))
        pairs = min(nearest, (config.relations - len(shares)) // 2)
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
