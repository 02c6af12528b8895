"""Facts streamed from files are those in memory, in time order, whatever the size of files, slabs and batches."""

import gc
import weakref
from itertools import pairwise
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from graphs import graph_of, random_facts, write_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.errors import ArtifactError
from gam_kg.graph import fact_source
from gam_kg.graph.fact_source import MemoryFacts, Rows, StoredFacts, count_rows
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.schemas import ANCHORED

BUCKETS = 3


def stored(folder, rows: Rows, row_group_size: int = 4) -> StoredFacts:
    """Files of a bucket each; the first bucket has two."""
    buckets: list[list] = [[] for _ in range(BUCKETS)]
    place = torch.where(rows.anchor % 2 == 0, rows.anchor % BUCKETS, BUCKETS + rows.anchor % BUCKETS)
    for number in range(2 * BUCKETS):
        mine = rows.at(place == number)
        if number < BUCKETS or len(mine.time):
            path = folder / f"{number}.parquet"
            table = pa.table([column.numpy() for column in mine], names=ANCHORED.names).cast(ANCHORED)
            pq.write_table(table, path, row_group_size=row_group_size)
            buckets[number % BUCKETS].append(path)
    snapshots, counts = torch.unique(rows.time, return_counts=True)
    return StoredFacts(buckets, snapshots.numpy(), counts.numpy())


def same(found: Rows, expected: Rows) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


@pytest.fixture
def small_reads(monkeypatch):
    monkeypatch.setattr(fact_source, "SLAB_ROWS", 30)


@given(seed=st.integers(0, 1000), size=st.integers(0, 120), slab=st.integers(1, 200), group=st.integers(1, 50))
@settings(max_examples=40)
def test_slabs_are_all_rows_in_time_order(tmp_path_factory, seed, size, slab, group):
    rows = graph_of(random_facts(seed, size)).rows()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fact_source, "SLAB_ROWS", slab)
        slabs = list(stored(tmp_path_factory.mktemp("facts"), rows, group).slabs())
    for before, found in pairwise(slabs):
        assert ((found.rows.time >= before.end) & (found.rows.time < found.end)).all()
    columns = [torch.cat(parts) for parts in zip(*(found.rows for found in slabs), strict=True)] or Rows.of([])
    assert same(Rows(*columns), rows)


@given(seed=st.integers(0, 1000), slab=st.integers(1, 200), group=st.integers(1, 50), first=st.integers(0, 9))
@settings(max_examples=40)
def test_slabs_from_a_snapshot_on_are_the_rows_from_there_on(tmp_path_factory, seed, slab, group, first):
    rows = graph_of(random_facts(seed, 120)).rows()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fact_source, "SLAB_ROWS", slab)
        of_files = stored(tmp_path_factory.mktemp("facts"), rows, group)
    for source in (of_files, MemoryFacts(rows)):
        columns = [torch.cat(parts) for parts in zip(*(found.rows for found in source.slabs(first)), strict=True)]
        assert same(Rows(*(columns or Rows.of([]))), rows.at(rows.time >= first))


def test_row_groups_before_a_snapshot_are_not_read(tmp_path):
    facts = stored(tmp_path, long_graph(40, 10).rows())
    whole, late = [], []
    with pytest.MonkeyPatch.context() as patch:
        opened = fact_source.open_file
        patch.setattr(fact_source, "open_file", lambda path: whole.append(path) or opened(path))
        list(facts.slabs())
        patch.setattr(fact_source, "open_file", lambda path: late.append(path) or opened(path))
        list(facts.slabs(38))
    assert 0 < len(late) < len(whole) / 5
    assert list(facts.slabs(40)) == []


def long_graph(num_snapshots, num_facts):
    """As many facts in every snapshot."""
    facts = [(s % 7, s % 3, (s + t) % 10, t) for t in range(num_snapshots) for s in range(num_facts)]
    return graph_of(facts, valid_start=num_snapshots, test_start=num_snapshots)


def saved(folder, graph, row_group_size):
    """The graph as `prepare` stores it, in two buckets."""
    write_graph(folder, graph, buckets=2, row_group_size=row_group_size)
    return folder


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_slabs_have_a_bounded_number_of_rows_on_any_number_of_ranks(tmp_path, world_size):
    saved(tmp_path, long_graph(100, 3), 10)
    for rank in range(2):
        graph, _ = TemporalGraph.load(tmp_path, rank=rank % world_size, world_size=world_size)
        sizes = [len(slab.rows.time) for slab in graph.facts.slabs()]
        # Two buckets are shared out, so that each of eight ranks expects a quarter of what two of them have.
        assert max(sizes) <= (30 + 6) * max(1, world_size // 2)
        assert len(sizes) > 1


def test_one_row_group_of_a_file_is_in_memory_at_a_time(tmp_path):
    graph = long_graph(400, 50)
    saved(tmp_path, graph, 1_000)
    stream = fact_source.row_groups(next((tmp_path / "anchored" / "bucket=000").iterdir()))
    before = pa.total_allocated_bytes()
    allocated, seen = [], 0
    for rows in stream:
        seen += len(rows)
        del rows
        allocated.append(pa.total_allocated_bytes() - before)
    assert seen > 10_000
    whole = seen * 28  # bytes of a row
    assert max(allocated) < whole / 4


def test_more_files_than_may_be_open_are_read(tmp_path):
    import resource

    graph = long_graph(3, 40)
    write_graph(tmp_path, graph, buckets=200)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        found, _ = TemporalGraph.load(tmp_path)
        assert same(found.rows(), graph.rows())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("small_reads")
def test_used_slabs_are_freed(tmp_path):
    saved(tmp_path, long_graph(60, 20), 10)  # every snapshot is larger than a slab
    graph, _ = TemporalGraph.load(tmp_path)
    slabs: list[weakref.ref] = []
    read = graph.facts.slabs

    def watched(first):
        for slab in read(first):
            slabs.append(weakref.ref(slab.rows.time.untyped_storage()))
            yield slab

    object.__setattr__(graph, "facts", SimpleNamespace(slabs=watched))
    alive = []
    gc.freeze()  # a collection then looks at the objects of this test alone, and not at a million others
    try:
        for _ in read_snapshots(graph, graph.times, Communicator()):
            gc.collect()
            alive.append(sum(slab() is not None for slab in slabs))
    finally:
        gc.unfreeze()
    assert len(slabs) == 60
    assert max(alive) <= 3


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("times", [[0, 1, 2, 3, 4, 5, 6, 7], [5], [3, 4], [2, 7, 9], [], [40, 41]])
def test_a_stored_graph_reads_the_snapshots_of_one_in_memory(tmp_path, times):
    graph = graph_of(random_facts(1, 120))
    streamed = TemporalGraph(**{**vars(graph), "facts": stored(tmp_path, graph.rows())})
    found, expected = list(streamed.read(times)), list(graph.read(times))
    assert [snapshot.time for snapshot in found] == times
    for mine, theirs in zip(found, expected, strict=True):
        for name in ("anchor", "relation", "other"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))
    assert same(streamed.rows(), graph.rows())


def test_distinct_keys_are_those_of_all_rows(tmp_path):
    graph = graph_of(random_facts(1, 120))
    streamed = TemporalGraph(**{**vars(graph), "facts": stored(tmp_path, graph.rows())})

    def key(rows):
        return rows.relation * 100 + rows.anchor

    expected = torch.unique(key(graph.rows()))
    assert torch.equal(streamed.distinct(key), expected)
    assert torch.equal(graph.distinct(key), expected)


def test_every_part_has_all_facts_of_its_anchors(tmp_path):
    rows = graph_of(random_facts(2, 120)).rows()
    parts = list(stored(tmp_path, rows).parts())
    anchors = [set(part.anchor.tolist()) for part in parts]
    assert sum(len(some) for some in anchors) == len(set().union(*anchors)) == len(set(rows.anchor.tolist()))
    assert sum(len(part.time) for part in parts) == len(rows.time)


def test_a_damaged_file_is_named(tmp_path):
    facts = stored(tmp_path, graph_of(random_facts(0)).rows())
    (tmp_path / "1.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(ArtifactError, match=r"1\.parquet: cannot be read"):
        list(facts.slabs())
    with pytest.raises(ArtifactError, match=r"1\.parquet: cannot be read"):
        list(facts.parts())
    with pytest.raises(ArtifactError, match="cannot be read"):
        count_rows([tmp_path / "1.parquet"])
