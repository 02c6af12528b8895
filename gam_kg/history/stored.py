"""What a history index has counted up to a snapshot, as tensors to be stored, and how an index is restored from them.

Each rank stores a part. In a part entities are ids, not rows of a shard, and relations are numbered as the graph had
them then. So an index of any number of ranks, also of a graph that has grown since, can be restored from the parts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gam_kg.graph.fact_source import Rows
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.pair_rules import PairCounts, PairRules
from gam_kg.history.recency import KeyTable, RecencyIndex, new_keys
from gam_kg.history.rules import RuleTable
from gam_kg.ops.ragged import insert_at, select, sort_with_positions

if TYPE_CHECKING:
    from gam_kg.history.index import HistoryIndex
    from gam_kg.history.past_facts import PastFacts

Part = dict[str, Tensor]

PAIRS = "pairs."
"""How names of what was counted by pairs of relations begin; it is the same on all ranks."""

_DIGITS = {"facts": "er", "answers": "r", "rules": "rer"}
"""What keys are made of before the entity at their end: numbers of entities and relations, the first counting most."""


def store_history(
    history: "HistoryIndex",
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
    kinds: Mapping[str, PairRules] | None = None,
) -> Part:
    """The rank's part of what an index has counted so far; where all keys were seen, not a copy.

    Args:
        history: The index.
        more: Table ("facts" or "answers") → name → what else was counted of each of its keys.
        kinds: Name → other rules of pairs that were counted.
    """
    ids, num_rows, part = history.partition.ids, history.num_rows, {}

    def with_ids(keys: Tensor) -> Tensor:
        if history.partition.world_size == 1:
            return keys
        return keys // num_rows * history.num_entities + ids[keys % num_rows] if len(keys) else keys

    for name, table in _tables(history).items():
        (seen,) = torch.nonzero(table.count, as_tuple=True)
        columns = {column: getattr(table, column) for column in KeyTable.COLUMNS} | history.turns.columns(table)
        columns |= (more or {}).get(name, {})
        # Only an index of all facts goes on in the order that it has, see `_is_whole`.
        indexes = _indexes(history, table) if history.partition.world_size == 1 else {}
        orders = {index: of_table.order() for index, of_table in indexes.items()}
        keys = table.keys
        if len(seen) < len(keys):  # else nothing is copied
            place = torch.zeros_like(keys).index_copy_(0, seen, torch.arange(len(seen)))
            orders = {index: place[order] for index, order in orders.items()}
            columns = {key: values.index_select(0, seen) for key, values in columns.items()}
            keys = keys.index_select(0, seen)
        part |= {f"{name}.{key}": values for key, values in (columns | orders).items()}
        part[f"{name}.keys"] = with_ids(keys)
    part["queries.keys"], part["queries.total"] = history.turns.totals()
    if history.rules is not None:
        keys, part["rules.hits"], part["groups.keys"], part["groups.exposures"] = history.rules.counts()
        part["rules.keys"] = with_ids(keys)
        part["rules.fewest"] = torch.tensor([history.rules.fewest])
    of_history = {} if history.pair_rules is None else {"kinds": history.pair_rules}
    for name, rules in {**of_history, **(kinds or {})}.items():
        part |= {f"{PAIRS}{name}.{column}": values for column, values in vars(rules.counts()).items()}
    return part


@dataclass(frozen=True)
class StoredHistory:
    """What the ranks of an index have stored together.

    Attributes:
        end: The snapshot after the last one that was counted.
        num_entities, num_relations: Entities, and relations with inverses, of the graph at that time.
        parts: What `store_history` returned on each rank.
    """

    end: int
    num_entities: int
    num_relations: int
    parts: Sequence[Part]
    _found: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By table: the keys of an index, and the places of the stored ones among them."""

    def distinct(self, history: "PastFacts", graph: TemporalGraph, table: str, key: Callable[[Rows], Tensor]) -> Tensor:
        """What `TemporalGraph.distinct` returns, without reading the facts that were counted.

        Args:
            history: The index to be made.
            graph: The facts, those counted included.
            table: "facts" or "answers", whose keys are distinct.
            key: The keys of rows.
        """
        none = torch.zeros(0, dtype=torch.int64)
        later = graph.read([time for time in graph.times if time >= self.end])
        later_keys = torch.cat([none, *(key(Rows(none, one.anchor, one.relation, one.other)) for one in later)])
        stored = self._of_rank(history, table)[0]
        new = new_keys(stored, later_keys)
        at = torch.searchsorted(stored, new) + torch.arange(len(new))
        keys = insert_at(stored, new, at)
        is_stored = torch.ones(len(keys), dtype=torch.bool).index_fill_(0, at, False)
        self._found[table] = keys, torch.nonzero(is_stored)[:, 0]
        return keys

    def restore(self, history: "HistoryIndex") -> None:
        """Put a new index, whose tables have the stored keys among theirs, after the last snapshot that was counted."""
        history.reset()
        history.end = self.end
        for name, table in _tables(history).items():
            targets = {column: getattr(table, column) for column in KeyTable.COLUMNS} | history.turns.columns(table)
            place, *columns = self.columns(history, name, *targets)
            for target, values in zip(targets.values(), columns, strict=True):
                target.index_copy_(0, place, values)
            if table is history.facts:
                place = history.restore_of_subjects(place)
            for index, of_table in _indexes(history, table).items():
                order = place[self.parts[0][f"{name}.{index}"]] if self._is_whole(history) else of_table.sorted(place)
                of_table.restore(order, place)
        queries, total = self._joined("queries.keys"), self._joined("queries.total")
        history.turns.restore(self._renumbered(history, queries, "er"), total)
        if history.config.rule_bodies:
            keys, hits = self._of_rank(history, "rules", "hits")
            groups = self._renumbered(history, self._joined("groups.keys"), "rer")
            groups, order = sort_with_positions(groups)
            first = torch.ones_like(groups, dtype=torch.bool)
            first[1:] = groups[1:] != groups[:-1]  # ranks have some in common, with equal counts
            (groups, exposures) = select(first, groups, self._joined("groups.exposures")[order])
            fewest = int(self.parts[0]["rules.fewest"])
            history.rules = RuleTable(keys, history.num_rows, fewest, groups, grows=True)
            history.rules.restore(hits, exposures)
        if history.pair_rules is not None:
            self.restore_kinds(history.pair_rules, history, "kinds")

    def columns(self, history: "HistoryIndex", table: str, *names: str) -> list[Tensor]:
        """Places in a table of the rank's keys that were counted, ascending, and what is stored of each."""
        keys, known = _tables(history)[table].keys, self._found.get(table)
        if self._is_whole(history) and known is not None and known[0] is keys:
            return [known[1], *(self.parts[0][f"{table}.{name}"] for name in names)]
        stored, *values = self._of_rank(history, table, *names)
        self._found[table] = keys, torch.searchsorted(keys, stored)
        return [self._found[table][1], *values]

    def restore_kinds(self, rules: PairRules, history: "HistoryIndex", name: str) -> None:
        """Restore rules of pairs, still empty, that are stored under a name."""
        pairs, exposures, hits = (self.parts[0][f"{PAIRS}{name}.{column}"] for column in ("pairs", "exposures", "hits"))
        rules.restore(PairCounts(self._renumbered(history, pairs, "rr"), exposures, hits))

    def _is_whole(self, history: "PastFacts") -> bool:
        """Whether an index has all that is stored, in the same order."""
        return len(self.parts) == history.partition.world_size == 1

    def _of_rank(self, history: "PastFacts", name: str, *columns: str) -> list[Tensor]:
        """The keys that belong to the rank of an index, ascending, in rows of its shard; and what is stored of each."""
        keys, *values = (self._joined(f"{name}.{column}") for column in ("keys", *columns))
        rest, partition = keys // self.num_entities, history.partition
        entity = keys - rest * self.num_entities
        rest = self._renumbered(history, rest, _DIGITS[name])
        keys = partition.rows(entity).add(rest, alpha=history.num_rows)
        if self._is_whole(history):
            return [keys, *values]
        keys, entity, *values = select(partition.owns(entity), keys, entity, *values)
        keys, order = sort_with_positions(keys)
        return [keys, *(column.index_select(0, order) for column in values)]

    def _joined(self, name: str) -> Tensor:
        return torch.cat([part[name] for part in self.parts]) if len(self.parts) > 1 else self.parts[0][name]

    def _renumbered(self, history: "PastFacts", numbers: Tensor, digits: str) -> Tensor:
        """Numbers made of those of entities and relations, as the graph of an index makes them."""
        before = {"e": self.num_entities, "r": self.num_relations}
        after = {"e": history.num_entities, "r": history.num_relations}
        if before["r"] == after["r"] and (before == after or "e" not in digits[1:]):
            return numbers
        # Most numbers that follow each other differ in their last digit only, and divisions take long.
        *rest, digit = digits
        upper = torch.div(numbers, before[digit], rounding_mode="floor")
        value = numbers - upper * before[digit]
        if digit == "r":  # inverses come after all relations
            value += (value >= before["r"] // 2) * ((after["r"] - before["r"]) // 2)
        if rest:
            upper, at = torch.unique_consecutive(upper, return_inverse=True)
            upper = self._renumbered(history, upper, "".join(rest)).index_select(0, at)
        return value.add_(upper, alpha=after[digit])


def _tables(history: "HistoryIndex") -> dict[str, KeyTable]:
    return {"facts": history.facts, "answers": history.answers}


def _indexes(history: "HistoryIndex", table: KeyTable) -> dict[str, RecencyIndex]:
    if table is history.facts:
        return {"by_subject": history.by_subject, "by_query": history.by_query}
    return {"by_relation": history.by_relation}
