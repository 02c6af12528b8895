"""The steps of an epoch on the rank with the most entities: how many, and of what size."""

import numpy as np

from gam_kg.config import Config
from gam_kg.graph.partition import Partition
from gam_kg.plan.counts import GraphCounts


class Workload:
    """Training with a configuration on a counted graph; arrays are (num_train_snapshots,) and count all ranks.

    Attributes:
        config, counts, world_size: As given.
        rows: Entities of the rank.
        vector_bytes: Bytes of the vector of an entity.
        links: Facts and paths in the history of a query that end in the rank's entities.
        confidences: Rules whose confidences a query joins; likewise.
        sampled: Whether candidates are sampled.
        recorded: Whether steps are recorded as CUDA graphs.
        steps, active: Optimizer steps and active entities of each snapshot.
        queries, answers: Numbers of one of these steps, of its own snapshot.
        scored, scored_answers: Those ahead included.
        candidates: Those that the rank scores for all queries of one of these steps.
        ranked: Queries of each validation snapshot that are ranked, (num_valid_snapshots,).
    """

    def __init__(self, config: Config, counts: GraphCounts, world_size: int) -> None:
        train, self.config, self.counts, self.world_size = config.train, config, counts, world_size
        self.rows = Partition(counts.num_entities, len(counts.bucket_facts), 0, world_size).num_rows
        self.vector_bytes = 4 * config.model.dim
        self.links = counts.history_links(config.model.history) / world_size
        self.confidences = counts.confidences(config.model.history) / world_size
        self.sampled = train.candidates == "sampled"
        self.recorded = train.use_gpu and train.cuda_graphs and world_size == 1
        facts, queries, self.active = (of[counts.train] for of in (counts.num_facts, counts.queries, counts.active))
        steps = np.minimum(np.round(2 * facts / train.step_answers), train.max_steps_per_snapshot)
        self.steps = np.maximum(1, np.minimum(steps, queries))
        self.queries, self.answers = queries / self.steps, 2 * facts / self.steps
        # Nothing comes after the last snapshot.
        ahead = np.where(np.arange(len(facts)) < len(facts) - 1, train.ahead_share * (train.max_horizon > 1), 0.0)
        self.scored, self.scored_answers = (1 + ahead) * self.queries, (1 + ahead) * self.answers
        self.candidates = self._drawn() / world_size if self.sampled else np.full(len(facts), float(self.rows))
        total = counts.num_facts[counts.valid].sum()
        self.ranked = counts.queries[counts.valid] * (train.valid_facts / total if 0 < train.valid_facts < total else 1)

    def _drawn(self) -> np.ndarray:
        """Sampled candidates: answers of the step, and others drawn with replacement unless all are taken."""
        entities, negatives = self.counts.num_entities, self.config.train.num_negatives
        own = np.minimum(np.minimum(self.scored_answers, self.active), negatives)
        drawn = entities * -np.expm1(-negatives / entities) if negatives < entities else entities
        return own + drawn * (1 - own / entities)
