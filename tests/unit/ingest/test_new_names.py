import numpy as np
import pyarrow as pa

from gam_kg.ingest.new_names import NewNames
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.schemas import ENTITIES, RELATIONS

KNOWN = Vocabulary(pa.array(["a", "b"]))


def chunked(*chunks):
    return pa.chunked_array([*chunks], pa.large_string())


def test_known_names_have_their_ids_and_new_ones_follow():
    new, ids = NewNames.find(chunked(["x", "b"], [], ["y", "x", "a"]), KNOWN)
    assert ids.tolist() == [2, 1, 3, 2, 0]
    assert new.names.to_pylist() == ["x", "y"]


def test_new_names_are_numbered_by_first_snapshot_then_count_then_name():
    new, ids = NewNames.find(chunked(["late", "unused", "z", "é", "often", "early"]), KNOWN)
    late, _, z, accent, often, early = ids
    places = [(late, 9), (late, 9), (often, 5), (z, 5), (often, 7), (accent, 5), (early, 3), (1, 0)]
    table, final = new.number(np.array(places), ENTITIES)
    assert table.to_pylist() == [
        {"entity_id": 2, "entity": "early", "degree": 1, "first_snapshot": 3},
        {"entity_id": 3, "entity": "often", "degree": 2, "first_snapshot": 5},
        {"entity_id": 4, "entity": "z", "degree": 1, "first_snapshot": 5},
        {"entity_id": 5, "entity": "é", "degree": 1, "first_snapshot": 5},
        {"entity_id": 6, "entity": "late", "degree": 2, "first_snapshot": 9},
    ]
    assert final.tolist() == [6, -1, 4, 5, 3, 2]
    assert new.renumbered(np.array([[late, 0], [1, early]]), final).tolist() == [[6, 0], [1, 2]]


def test_there_may_be_no_new_names():
    new, ids = NewNames.find(chunked(["b"]), KNOWN)
    table, final = new.number(np.array([[1, 4]]), RELATIONS)
    assert table.equals(RELATIONS.empty_table())
    assert new.renumbered(ids, final).tolist() == [1]
    empty, ids = NewNames.find(chunked(), KNOWN)
    assert not len(empty.number(np.empty((0, 2), np.int64), ENTITIES)[0])
    assert not len(ids)
