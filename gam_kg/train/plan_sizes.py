"""Sizes of what a worker handles: its rows, and the queries, candidates and rows of its largest step."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gam_kg.config import Config, ModelConfig
from gam_kg.data.partition import Partition
from gam_kg.nn.model import ENTITY, GAMLSTM
from gam_kg.train.evaluate import MOST_WRITTEN_OUT, QUERIES_AT_ONCE
from gam_kg.train.plan_counts import GraphCounts
from gam_kg.train.step import MOST_QUERIES

# Links that a query reads for each that it is given: several lead to answers and known answers. Measured: 1.0 to 4.1.
_READ_A_LINK = 2


def shared_shapes(config: ModelConfig, num_relations: int, num_words: int) -> list[int]:
    """Elements of each parameter that all ranks have alike.

    Args:
        config: The model.
        num_relations: Without inverses.
        num_words: Words that names share.
    """
    with torch.random.fork_rng(devices=[]):
        model = GAMLSTM(config, num_relations, torch.zeros(1, dtype=torch.bool))  # one entity: all else is as large
    words = [num_words * config.dim] if num_words else []
    return [value.numel() for name, value in model.named_parameters() if name != ENTITY] + words


@dataclass(frozen=True)
class WorkerSizes:
    """Sizes of what a worker handles: the rank with the most, at the largest step.

    Attributes:
        config: The run's configuration.
        counts: Of the graph.
        world_size: Number of workers.
    """

    config: Config
    counts: GraphCounts
    world_size: int

    @cached_property
    def rows(self) -> int:
        """Entities of the largest shard."""
        return Partition(self.counts.num_entities, self.counts.buckets, 0, self.world_size).most_rows

    @cached_property
    def shared(self) -> list[int]:
        """Elements of each shared parameter."""
        return shared_shapes(self.config.model, self.counts.num_relations, self.counts.num_words)

    @property
    def sampled(self) -> bool:
        """Whether a step has sampled candidates."""
        return self.config.train.candidates == "sampled"

    @cached_property
    def steps(self) -> np.ndarray:
        """Optimizer steps of each training snapshot, (num_train_snapshots,)."""
        train, answers = self.config.train, 2 * self._train(self.counts.num_facts)
        wanted = np.minimum(np.round(answers / train.step_answers), train.max_steps_per_snapshot)
        return np.maximum(1, np.minimum(wanted, self._train(self.counts.queries)))

    @cached_property
    def answers(self) -> np.ndarray:
        """Answers of a step of each training snapshot."""
        return 2 * self._train(self.counts.num_facts) / self.steps

    @cached_property
    def queries(self) -> np.ndarray:
        """Queries of a step of each training snapshot."""
        return self._train(self.counts.queries) / self.steps

    def candidates_of(self, answers: np.ndarray) -> np.ndarray:
        """Candidates that a rank scores for all queries in steps with so many answers."""
        if not self.sampled:
            return np.full(len(answers), float(self.rows))
        entities, negatives = self.counts.num_entities, self.config.train.num_negatives
        return np.ceil(np.minimum(entities, np.minimum(answers, negatives) + negatives) / self.world_size)

    @property
    def history_share(self) -> float:
        """Share of what histories have that a step reads, when all of the graph is the past."""
        links = self.counts.lookups.pairs + self.counts.lookups.paths
        wanted = _READ_A_LINK * self.config.train.history_links
        return min(1.0, wanted / max(1.0, links)) if self.sampled else 1.0

    @cached_property
    def candidates(self) -> float:
        """The most candidates of a step."""
        return float(self.candidates_of(self.answers).max(initial=1))

    @property
    def step_queries(self) -> float:
        """The most queries of a step."""
        return float(self.queries.max(initial=1))

    @property
    def block_queries(self) -> float:
        """The most queries that are scored together in training."""
        most = self.rows
        if self.sampled:
            most = min(2 * self.config.train.num_negatives, self.counts.num_entities)
        return self._block(self.step_queries, most)

    @property
    def valid_queries(self) -> float:
        """The most queries that are ranked together in validation."""
        ranked = float(self.ranked.max(initial=1))
        return self._block(ranked, self.rows) if self.valid_written_out else min(ranked, QUERIES_AT_ONCE)

    @property
    def valid_written_out(self) -> bool:
        """Whether validation writes scores out to rank them."""
        return self.rows <= MOST_WRITTEN_OUT

    @cached_property
    def ranked(self) -> np.ndarray:
        """Queries of each validation snapshot that are ranked, which may be a share of all."""
        valid, wanted = self.counts.split("valid"), self.config.train.valid_facts
        total = self.counts.num_facts[valid].sum()
        return self.counts.queries[valid] * (wanted / total if 0 < wanted < total else 1.0)

    def _block(self, queries: float, num_candidates: float) -> float:
        return min(queries, MOST_QUERIES, max(1, self.config.train.max_logits // max(1, num_candidates)))

    def _train(self, values: np.ndarray) -> np.ndarray:
        return values[self.counts.split("train")]

    @property
    def active(self) -> float:
        """The most active entities of a snapshot, of a rank."""
        return float(self._train(self.counts.active).max(initial=1)) / self.world_size

    @property
    def edges(self) -> float:
        """The most edges of a snapshot, of a rank."""
        return 2 * float(self._train(self.counts.num_facts).max(initial=1)) / self.world_size

    @cached_property
    def read_rows(self) -> float:
        """Rows that a sampled step reads: candidates, and where pairs and paths of its queries end."""
        found, active = self.counts.lookups, self.config.train.window * self.active
        second = self.counts.distinct_ends(self.step_queries * found.first) * found.second
        ends = self.counts.distinct_ends(self.step_queries * found.pairs + second) / self.world_size
        own = 2 * float(self.answers.max(initial=1)) / self.world_size
        return min(self.rows, self.candidates + own + self.history_share * ends + active)
