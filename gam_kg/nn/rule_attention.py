"""What rules that subjects share say of candidates."""

import math

import torch
from torch import Tensor, nn

from gam_kg.config import HistoryConfig
from gam_kg.history.bins import NUM_BINS
from gam_kg.history.confidence import BOUNDS, Confidences
from gam_kg.history.query_kinds import QueryKinds
from gam_kg.history.rule_walks import CONFIDENCES, RULE_PARTS, RuleWalks
from gam_kg.nn.history_attention import FeatureRows
from gam_kg.nn.relation_rows import RelationRows, relation_table, rows_of_kinds
from gam_kg.nn.vectors import segment_log_sum
from gam_kg.ops.sparse import sddmm


class RuleAttention(nn.Module):
    """The query attends over the rules that start from its past; a candidate's rules add up.

    A rule of a kind, from a body (r', c'), weighs w = ⟨(Q[r] + U z_s)∘B[r']∘(1 + D[recency]), 1 + K[kind]⟩ + k[kind] +
    d[recency]; a candidate scores log(1 + Σ exp w). At the start k is the logarithm of the confidence, so that the sum
    is about that of the confidences. Arguments: see `FactAttention`.
    """

    max_log_weight = 10.0

    def __init__(self, num_relations: int, dim: int, config: HistoryConfig) -> None:
        super().__init__()
        width = config.dim
        self.query = RelationRows(num_relations, width, 0.3)
        self.body = relation_table(num_relations, width, 0.3)
        self.recency = nn.Parameter(torch.randn(NUM_BINS, width) * 0.1)
        self.subject = nn.Linear(dim, width, bias=False)
        self.kind = FeatureRows(RULE_PARTS, width)
        confidence = torch.tensor([math.log(bound) for bound in CONFIDENCES])
        self.kind_bias = nn.Parameter(confidence[:, None].expand(RULE_PARTS).flatten())
        self.recency_bias = nn.Parameter(torch.zeros(NUM_BINS))

    def forward(self, query: Tensor, rules: RuleWalks) -> Tensor:
        """Score the pairs of rules, (num_pairs,).

        Args:
            query: Q[r] + U z of each query, (num_queries, width).
            rules: The rules.
        """
        return segment_log_sum(self.log_weights(query, rules), rules.pair, rules.num_pairs)

    def log_weights(self, query: Tensor, rules: RuleWalks) -> Tensor:
        """Logarithms of what the rules weigh, (num_rules,); arguments: see `forward`."""
        relation, recency = rules.body.columns
        body = self.body.index_select(0, relation) * (1 + self.recency.index_select(0, recency))
        left = query.index_select(0, rules.query) * body.index_select(0, rules.body.index)
        of_start = self.recency_bias.index_select(0, recency.index_select(0, rules.body.index))
        weight = sddmm(left, 1 + self.kind(), rules.pattern)
        weight = weight + self.kind_bias.index_select(0, rules.pattern.column)
        return (weight + of_start.index_select(0, rules.pattern.row)).clamp(max=self.max_log_weight)


class ConfidenceScore(nn.Module):
    """What counted rules say together of a candidate, p, by relation and horizon of the query.

    A candidate scores f[bin of p] + ⟨R[r], B[bin of p]⟩. At the start f is log(1 + p / 0.002) / 2, so that the
    model ranks about as the counted rules do, and learns from there.
    """

    width, least = 8, 0.002

    def __init__(self, num_relations: int, config: HistoryConfig) -> None:
        super().__init__()
        self.relation = RelationRows(num_relations, self.width, 0.1)
        lower = torch.cat([BOUNDS[:1] / 2, BOUNDS]).to(torch.get_default_dtype())
        self.value = nn.Parameter(torch.log1p(lower * 2**0.25 / self.least) / 2)
        self.bins = nn.Parameter(torch.randn(len(lower), self.width) * 0.1)

    def forward(self, confidences: Confidences, kinds: QueryKinds) -> Tensor:
        """The score of each pair, (num_pairs,), of queries of some kinds."""
        (relation,) = rows_of_kinds(kinds, self.relation)
        table = relation @ self.bins.T + self.value
        return table.flatten().index_select(0, confidences.kind * len(self.bins) + confidences.bin)
