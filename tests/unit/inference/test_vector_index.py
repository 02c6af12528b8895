"""An index finds what exact search finds, as far as it says, and belongs to one version of the embeddings."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from stored_vectors import clustered, unit_rows, write_version

from gam_kg.artifacts import read_manifest
from gam_kg.config import IndexConfig
from gam_kg.errors import ArtifactError, ConfigError, DataError, EvaluationError
from gam_kg.inference import faiss_index, vector_source
from gam_kg.inference.faiss_index import exact
from gam_kg.inference.vector_index import VectorIndex, build_index, current_index
from gam_kg.inference.vector_source import VectorSource, find_version
from gam_kg.ingest.vocabulary import Vocabulary

pytest.importorskip("faiss", reason="faiss is not installed")

VERSION = "as_of=2024"


@pytest.fixture(scope="module")
def vectors():
    return clustered(4000, 24, 60)


@pytest.fixture
def run(tmp_path, vectors):
    write_version(tmp_path, vectors)
    return tmp_path


def nearest(vectors, queries, top_k):
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :top_k]


def share(found, expected):
    pairs = zip(found.tolist(), expected.tolist(), strict=True)
    return np.mean([len({*one} & {*other}) / len(other) for one, other in pairs])


def test_exact_search_in_blocks_is_that_of_the_whole_matrix(vectors, monkeypatch):
    monkeypatch.setattr(faiss_index, "_BLOCK", 333)
    ids, similarity = exact(vectors, vectors[:9], 7)
    assert ids.tolist() == nearest(vectors, vectors[:9], 7).tolist()
    assert similarity == pytest.approx(np.take_along_axis(vectors[:9] @ vectors.T, ids, 1), abs=1e-5)


@pytest.mark.parametrize("kind", ["flat", "ivf_pq", "hnsw"])
def test_an_index_has_the_recall_that_it_says(run, vectors, kind):
    said = list[str]()
    made = build_index(run, VERSION, IndexConfig(kind=kind, min_recall=0.9, sample=200), said.append)
    assert made.content["sample"] == 100  # the other half is what settings were chosen on
    assert said[-1] == "recall@10 was measured on 100 entities"
    assert made.content["kind"] == kind
    assert made.content["recall"] >= 0.9
    index = VectorIndex.load(run)
    queries = unit_rows(vectors[:500] + 0.3 * clustered(500, 24, 500, seed=3))
    ids, similarity = index.search(queries, 10)
    assert share(ids, nearest(vectors, queries, 10)) >= made.content["recall"] - 0.07
    assert similarity == pytest.approx((queries[:, None] * vectors[ids]).sum(2), abs=2e-3)


def test_neighbours_by_name_are_the_exact_ones(run, vectors):
    build_index(run, VERSION, IndexConfig(kind="flat"))
    found = VectorIndex.load(run).like("entity 12", top_k=6)
    expected = nearest(vectors, vectors[[12]], 7)[0, 1:]
    assert found["entity_id"].to_pylist() == expected.tolist()
    assert found["entity"].to_pylist() == [f"entity {row}" for row in expected]
    assert found["cosine"].to_numpy() == pytest.approx(vectors[expected] @ vectors[12], abs=1e-5)
    assert found["last_seen"].to_pylist() == ["2024" if row % 3 else None for row in expected]
    with pytest.raises(DataError, match="unknown entity"):
        VectorIndex.load(run).like("nobody")


def test_a_name_is_found_whatever_its_case_and_blanks(run):
    build_index(run, VERSION, IndexConfig(kind="flat"))
    index = VectorIndex.load(run)
    assert index.like("Entity_12") == index.like("entity 12")


def test_names_that_are_integers_are_returned_as_such(run):
    build_index(run, VERSION, IndexConfig(kind="flat"))
    index, graph = VectorIndex.load(run), read_manifest(run / "graph", "graph")
    vars(index)["_graph"] = replace(graph, content={**graph.content, "integer_names": ["entity"]})
    vars(index)["_names"] = Vocabulary([str(7 * row) for row in range(4000)], "entity")
    found = index.like(84, top_k=3)
    assert found["entity"].type == pa.int64()
    assert found["entity"].to_pylist() == [7 * row for row in found["entity_id"].to_pylist()]


def test_the_embeddings_are_not_verified_again_for_a_search(run, monkeypatch):
    build_index(run, VERSION, IndexConfig(kind="flat"))
    opened = []
    monkeypatch.setattr(vector_source, "open_artifact", lambda path, *_, **more: opened.append(path))
    VectorIndex.load(run).like("entity 12")
    assert opened == []


@pytest.mark.parametrize(
    ("settings", "knobs"),
    [
        (
            {"kind": "ivf_pq", "probes": 1, "rerank": 0, "subvectors": 1},
            "probes .now 1 of 80.*index.rerank .now 0",
        ),
        ({"kind": "hnsw", "ef_search": 1, "neighbours": 2, "ef_construction": 1}, "index.ef_search .now 1.*neighbours"),
    ],
)
def test_a_bad_index_is_refused_and_leaves_nothing(run, settings, knobs):
    with pytest.raises(EvaluationError, match=rf"finds \d+\.\d% of the 10 nearest.*{knobs}.*index.kind=flat"):
        build_index(run, VERSION, IndexConfig(**settings, min_recall=0.95))
    assert list(run.glob("index/*")) == list(run.glob("index/.*")) == []


def test_an_index_that_is_refused_leaves_the_one_before(run):
    made = build_index(run, VERSION, IndexConfig(kind="flat"))
    with pytest.raises(EvaluationError):
        build_index(run, VERSION, IndexConfig(kind="ivf_pq", probes=1, rerank=0, subvectors=1))
    assert VectorIndex.load(run).manifest.id == made.id


def test_a_search_takes_no_more_effort_than_recall_needs(run):
    efforts = [
        build_index(run, VERSION, IndexConfig(kind="ivf_pq", min_recall=least)).content["probes"]
        for least in (0.1, 0.9)
    ]
    assert efforts[0] == 1 < efforts[1]


def test_equal_vectors_are_equally_right(tmp_path):
    write_version(tmp_path, np.repeat(clustered(20, 8, 20), 50, axis=0))
    assert build_index(tmp_path, VERSION, IndexConfig(kind="hnsw")).content["recall"] > 0.9


def test_vectors_of_length_zero_are_no_queries(tmp_path, vectors):
    write_version(tmp_path, np.where(np.arange(4000)[:, None] < 3900, 0, vectors).astype(np.float32))
    assert build_index(tmp_path, VERSION, IndexConfig(kind="flat")).content["sample"] == 50
    write_version(tmp_path, np.zeros((50, 8), np.float32))
    with pytest.raises(EvaluationError, match="of 50 vectors 0 are not zero"):
        build_index(tmp_path, find_version(tmp_path), IndexConfig(kind="flat"))


def test_auto_is_exact_while_that_is_fast(run, monkeypatch):
    assert build_index(run, VERSION, IndexConfig()).content["kind"] == "flat"
    monkeypatch.setattr(faiss_index, "_FLAT_UP_TO", 3999)
    found = build_index(run, VERSION, IndexConfig()).content
    assert (found["kind"], found["lists"], found["subvectors"]) == ("ivf_pq", 80, 12)


def test_an_index_of_embeddings_that_were_replaced_is_refused(run, vectors):
    build_index(run, VERSION, IndexConfig())
    write_version(run, -vectors)
    assert find_version(run) == "as_of=2024.revision-2"
    with pytest.raises(ArtifactError, match=r"no index of this version.*there are: as_of=2024; run: gam-kg index RUN$"):
        VectorIndex.load(run)
    assert current_index(run, find_version(run), IndexConfig()) is None
    # The same folder with other files.
    (run / "index" / VERSION).rename(run / "index" / "as_of=2024.revision-2")
    with pytest.raises(ArtifactError, match=r"the embeddings were replaced after it was built; run: gam-kg index RUN$"):
        VectorIndex.load(run)


def test_the_index_of_a_version_that_has_gone_goes_too(run, vectors):
    build_index(run, VERSION, IndexConfig())
    new = write_version(run, -vectors)
    (run / "embeddings" / VERSION).rename(run / "gone")
    build_index(run, new.name, IndexConfig())
    assert [path.name for path in (run / "index").iterdir()] == [new.name]


def test_a_version_is_found_by_a_timestamp(run, vectors):
    write_version(run, -vectors, name="as_of=2023")
    build_index(run, "as_of=2023", IndexConfig())
    assert VectorIndex.load(run, "2023").manifest.content["version"] == "as_of=2023"
    with pytest.raises(
        ArtifactError, match="no version as_of=2022; there are: as_of=2023, as_of=2024; make it: gam-kg"
    ):
        VectorIndex.load(run, "2022")


def test_a_damaged_index_is_refused(run):
    build_index(run, VERSION, IndexConfig())
    file = run / "index" / VERSION / "index.faiss"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"index.faiss was changed or damaged.*gam-kg index RUN --force"):
        VectorIndex.load(run)


def test_what_was_built_with_other_settings_is_not_current(run):
    build_index(run, VERSION, IndexConfig())
    assert current_index(run, VERSION, IndexConfig()) is not None
    assert current_index(run, VERSION, IndexConfig(sample=99)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subvectors": 7}, r"index.subvectors=7 does not divide the length of the vectors, 24; use 1, 2, 3, 4, 6, 8"),
        ({}, "index.kind=ivf_pq needs 1,000 vectors, there are 500; use index.kind=flat"),
    ],
)
def test_settings_that_do_not_fit_the_vectors_are_refused(tmp_path, vectors, settings, message):
    write_version(tmp_path, vectors[: 4000 if settings else 500])
    with pytest.raises(ConfigError, match=message):
        build_index(tmp_path, VERSION, IndexConfig(kind="ivf_pq", **settings))


def test_without_faiss_the_message_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'gam-kg\[index\]'"):
        build_index(run, VERSION, IndexConfig())


def test_rows_of_several_files_and_of_a_base_are_read_each_once(tmp_path, vectors):
    base = write_version(tmp_path, vectors, files=3)
    later = vectors.copy()
    later[[5, 70, 3999]] *= -1
    write_version(tmp_path, later, name="as_of=2025", base=base.name, ids=[70, 5, 3999], files=2)
    with VectorSource.open(tmp_path, "as_of=2025") as source:
        assert np.array_equal(source.load(), later)
        assert np.array_equal(source.read(np.array([70, 3])), later[[70, 3]])
        assert set(source.inputs) == {"embeddings", "base"}
        assert sum(map(len, source.batches())) == source.num_rows == 4000
