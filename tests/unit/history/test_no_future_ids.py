"""Ids descend by degree, and degrees count the future; what is looked up must not depend on it all the same."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from graphs import history_before

from gam_kg.artifacts import Manifest, write_manifest
from gam_kg.config import HistoryConfig
from gam_kg.graph.anchored import anchored_facts
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.schemas import ANCHORED, SNAPSHOTS

PAST = [("team", "hires", f"player {number}", 0) for number in range(9)]
TIME = 1


def load(folder, facts):
    """A stored graph whose ids descend by degree over all facts, as `prepare` gives them."""
    names = [name for subject, _, answer, _ in facts for name in (subject, answer)]
    entities = sorted(set(names), key=lambda name: (-names.count(name), name))
    ids = {name: number for number, name in enumerate(entities)}
    rows = np.array([(ids[s], 0, ids[o], t) for s, _, o, t in facts])
    anchor, relation, other = anchored_facts(rows[:, 0], rows[:, 1], rows[:, 2], 1)
    part = folder / "anchored" / "bucket=000"
    part.mkdir(parents=True)
    columns = [np.tile(rows[:, 3], 2), anchor, relation, other]
    pq.write_table(pa.table(columns, names=ANCHORED.names).cast(ANCHORED), part / "part.parquet")
    first = [min(time for *_, time in (fact for fact in facts if name in fact)) for name in entities]
    pq.write_table(pa.table({"entity": entities, "first_snapshot": first}), folder / "entities.parquet")
    pq.write_table(pa.table({"relation": ["hires"], "first_snapshot": [min(first)]}), folder / "relations.parquet")
    timeline = pa.table(np.unique(rows[:, 3], return_counts=True), names=SNAPSHOTS.names).cast(SNAPSHOTS)
    pq.write_table(timeline, folder / "snapshots.parquet")
    content = {
        "buckets": 1,
        "num_facts": len(facts),
        "num_entities": len(entities),
        "num_relations": 1,
        "valid_start": 2,
        "test_start": 3,
    }
    write_manifest(folder, Manifest("graph", "key", {}, {}, content))
    graph, _ = TemporalGraph.load(folder)
    return graph, Vocabulary(pa.array(entities))


def looked_up(folder, future):
    """Names of what a query at `TIME` finds, by part of the history, cut at ties."""
    graph, names = load(folder, PAST + future)
    config = HistoryConfig(recent=3, same_relation=3, popular=3, two_hop_first=3, two_hop_second=3)
    index = history_before(graph, config, TIME)
    team, first = names.encode(["team", "player 0"])
    found = {}
    for part, subject in (("forward", team), ("backward", first)):
        recent = index.by_subject.recent(torch.tensor([subject]), 3)
        found[part] = names.decode((recent.item % graph.num_entities).numpy()).to_pylist()
    popular = index.by_relation.recent(torch.tensor([0]), 3)
    found["popular"] = names.decode(popular.item.numpy()).to_pylist()
    same = index.by_query.recent(torch.tensor([team * 2]), 3)
    found["same"] = names.decode(same.item.numpy()).to_pylist()
    return found


def test_ties_are_cut_alike_whatever_comes_later(tmp_path):
    quiet = looked_up(tmp_path / "quiet", [("player 8", "hires", "player 7", 2)])
    busy = [(f"player {number}", "hires", "player 0", time) for time in (2, 3) for number in (1, 2, 3)]
    assert looked_up(tmp_path / "busy", busy) == quiet
    assert len(quiet["popular"]) == 3


def test_of_equally_recent_items_the_most_frequent_is_found(tmp_path):
    facts = [("team", "hires", "player 4", 0), *[("team", "hires", f"player {number}", 1) for number in range(9)]]
    graph, names = load(tmp_path, [*facts, ("player 1", "hires", "player 2", 3)])
    index = history_before(graph, HistoryConfig(), 2)
    team = names.encode(["team"])[0]
    found = index.by_subject.recent(torch.tensor([team]), 1)
    assert names.decode((found.item % graph.num_entities).numpy()).to_pylist() == ["player 4"]
