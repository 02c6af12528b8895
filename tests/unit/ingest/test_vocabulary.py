import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.errors import DataError
from gam_kg.ingest.vocabulary import (
    Vocabulary,
    entity_table,
    merge_tallies,
    partition_tally,
    relation_table,
    tally,
    vocabulary_hash,
)
from gam_kg.schemas import ENTITIES, RELATIONS

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


def tally_of(rows):
    text, counts, first = zip(*rows, strict=True) if rows else ((), (), ())
    return tally(pa.array(text, pa.large_string()), np.array(counts, np.int64), np.array(first, np.int64))


def test_ids_descend_in_degree_and_ties_follow_code_points():
    table = entity_table(tally_of([("b", 1, 4), ("a", 1, 3), ("Z", 1, 2), ("é", 1, 1), ("hub", 2, 7), ("hub", 3, 5)]))
    assert table.schema == ENTITIES
    assert table.to_pydict() == {
        "entity_id": [0, 1, 2, 3, 4],
        "entity": ["hub", "Z", "a", "b", "é"],
        "degree": [5, 1, 1, 1, 1],
        "first_snapshot": [5, 2, 3, 4, 1],
    }


def test_relations_have_their_count_and_first_snapshot():
    table = relation_table(tally_of([("visits", 2, 0), ("consults", 7, 3), ("visits", 1, 4)]))
    assert table.schema == RELATIONS
    assert table.to_pydict() == {
        "relation_id": [0, 1],
        "relation": ["consults", "visits"],
        "count": [7, 3],
        "first_snapshot": [3, 0],
    }


rows_of_names = st.lists(st.tuples(names, st.integers(1, 5), st.integers(-9, 9)), min_size=1, max_size=40)


@given(rows_of_names, st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_vocabulary_depends_on_neither_order_nor_blocks(rows, random, parts):
    shuffled = random.sample(rows, len(rows))
    blocks = merge_tallies([tally_of(shuffled[part::parts]) for part in range(parts)])
    assert entity_table(blocks).equals(entity_table(tally_of(rows)))
    order = sorted({row[0] for row in rows}, key=lambda name: (-sum(row[1] for row in rows if row[0] == name), name))
    assert entity_table(blocks)["entity"].to_pylist() == order


@given(rows_of_names, st.integers(1, 5))
def test_a_name_is_in_one_partition_of_all_tallies(rows, partitions):
    whole, half = (partition_tally(tally_of(part), partitions) for part in (rows, rows[::2]))
    assert entity_table(pa.concat_tables(whole)).equals(entity_table(tally_of(rows)))
    for part, others in zip(half, whole, strict=True):
        assert set(part["name"].to_pylist()) <= set(others["name"].to_pylist())


@given(rows_of_names, st.data())
def test_encode_and_decode_are_inverse(rows, data):
    vocabulary = Vocabulary.from_table(entity_table(tally_of(rows)))
    names = data.draw(st.lists(st.sampled_from([row[0] for row in rows])))
    ids = vocabulary.encode(names)
    assert ids.dtype == np.int64
    assert vocabulary.decode(ids).to_pylist() == names
    assert vocabulary.encode(vocabulary.names).tolist() == list(range(len(vocabulary)))


def test_unknown_names_are_named_with_the_closest():
    vocabulary = Vocabulary(pa.array(["China", "Iran", "Citizen_(Nigeria)"]))
    with pytest.raises(DataError) as error:
        vocabulary.encode(["Iran", "Chna", "citizen nigeria", None, "Chna"])
    message = str(error.value)
    assert "3 unknown entity name(s), of 3 known" in message
    assert "'Chna'; did you mean 'China'?" in message
    assert "'citizen nigeria'; did you mean 'Citizen_(Nigeria)'?" in message
    assert "null" in message


def test_long_lists_of_unknown_names_are_cut():
    with pytest.raises(DataError, match="and 15 more"):
        Vocabulary(pa.array(["a"])).encode([f"x{i}" for i in range(20)])


def test_closest_is_best_first_and_empty_where_nothing_is_alike():
    vocabulary = Vocabulary(pa.array(["Barack Obama", "Michelle Obama", "Obama", "Kenya"]))
    assert vocabulary.closest("obama", 2) == ["Obama", "Barack Obama"]
    assert vocabulary.closest("zzz") == []
    assert vocabulary.closest("") == []


def test_the_beginning_of_a_name_and_the_closest_names_are_found_whatever_their_case():
    vocabulary = Vocabulary(pa.array(["Straße_1", "Strasse 2", "STRAßE 3"]))
    assert vocabulary.beginning("straße ", 5) == ["Straße_1", "STRAßE 3"]
    assert vocabulary.beginning("Straße_1", 5) == ["Straße_1"]
    assert vocabulary.closest("straße 3", 1) == ["STRAßE 3"]
    assert vocabulary.alike(pa.array(["STRAßE 1", "x", "straße_1"])) == [[0], [], [0]]


def test_the_hash_depends_on_the_order_and_the_boundaries_of_names():
    hashes = [
        Vocabulary(pa.array(found, pa.large_string())).hash for found in (["ab", "c"], ["a", "bc"], ["c", "ab"], [])
    ]
    assert len(set(hashes)) == 4
    sliced = pa.array(["x", "ab", "c", "y"], pa.large_string())[1:3]
    assert Vocabulary(sliced).hash == hashes[0]
    chunked = pa.chunked_array([["ab"], ["c"]])
    assert Vocabulary(chunked).hash == hashes[0]


def test_the_hash_of_both_vocabularies_depends_on_which_is_which():
    one, two = Vocabulary(pa.array(["a"])), Vocabulary(pa.array(["b"]), "relation")
    assert vocabulary_hash(one, two) != vocabulary_hash(two, one)


def test_a_table_with_gaps_in_its_ids_is_refused():
    table = pa.table({"entity_id": [0, 2], "entity": ["a", "b"]})
    with pytest.raises(DataError, match="0, 1, 2"):
        Vocabulary.from_table(table)


def test_a_message_about_an_endless_name_is_short():
    with pytest.raises(DataError) as error:
        Vocabulary(pa.array(["short", "long" * 10**5])).encode(["x" * 10**7, "long" * 10**6])
    assert len(str(error.value)) < 600
