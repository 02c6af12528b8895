"""Updates: facts, entities and relations that were added to a run after its graph was prepared.

`updates/000001`, `000002`, ... of a run are artifacts, each of which names the one before it. Ids go on from those that
were there: no update changes an id, a file of `graph/` or an earlier update.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.artifacts import Content, Manifest, command, redo, write_artifact, write_manifest
from gam_kg.errors import ArtifactError
from gam_kg.graph.folded_updates import read_folded
from gam_kg.graph.stored_update import FACTS, UPDATES, VOCABULARIES, Update, fact_table, verified
from gam_kg.ingest.open_facts import FILE as OPEN
from gam_kg.ingest.vocabulary import Vocabulary, vocabulary_hash
from gam_kg.parquet import read_table, write_table
from gam_kg.schemas import OPEN_FACTS, QUARANTINE

_QUARANTINE = "quarantine.parquet"


def read_updates(run: Path, graph: Manifest, checkpoint: Manifest | None = None) -> tuple[Update, ...]:
    """The updates of a run in their order; none where it has none.

    Args:
        run: Folder of the run.
        graph: Manifest of its graph.
        checkpoint: Manifest of the checkpoint that all updates must have been made with; None: any.

    Raises:
        ArtifactError: An update is missing, damaged, or does not follow the one before it or belong to the graph.
    """
    folder = run / UPDATES
    names = sorted(path.name for path in folder.glob("*") if re.fullmatch(r"\d{6}", path.name))
    folded, updates = read_folded(run)[: len(names) - 1] if names else (), list[Update]()
    for number, name in enumerate(names, 1):
        path = folder / name
        if name != f"{number:06d}":
            raise ArtifactError(
                f"{_path(run, number)} is missing, and {path} is there: put it back, or remove all updates after the "
                f"missing one and add their facts again: {command('update')}"
            )
        update = folded[number - 1] if number <= len(folded) else verified(path)
        for kind, expected in {"graph": graph, "checkpoint": checkpoint}.items():
            found = update.manifest.inputs.get(kind)
            if expected is not None and found != expected.id:
                raise ArtifactError(
                    f"{path} belongs to another {kind} ({found}, here {expected.id}): put that one back, or move "
                    f"{folder} away and add the facts again: {command('update')}"
                )
        if update.manifest.inputs.get("previous") != chain_id(updates):
            before = updates[-1].path if updates else "graph"
            raise ArtifactError(f"{path} does not follow the {before} that is there; {redo('update')}")
        updates.append(update)
    return tuple(updates)


def chain_id(updates: Sequence[Update]) -> str:
    """What all updates of a run together are known by: the id of the last one; "" without updates."""
    return updates[-1].manifest.id if updates else ""


def last_snapshot(graph: Manifest, updates: Sequence[Update]) -> int:
    """The last snapshot of a graph, with its updates, that has facts."""
    of_updates = (update.content["last_snapshot"] for update in updates if update.content["num_facts"])
    return max([graph.content["last_snapshot"], *of_updates])


def read_open_facts(graph: Path, updates: Sequence[Update]) -> np.ndarray:
    """The facts of a graph with its updates that have no end yet.

    Args:
        graph: The `graph/` artifact.
        updates: Its updates.

    Returns:
        Rows (subject, relation, object, start), int64 (num_open, 4).

    Raises:
        ArtifactError: The file is damaged.
    """
    path = (updates[-1].path if updates else graph) / OPEN
    table = read_table(path) if path.exists() else OPEN_FACTS.empty_table()
    return np.stack([table[name].to_numpy() for name in OPEN_FACTS.names], 1).astype(np.int64)


def updates_after(updates: Sequence[Update], chain: str) -> tuple[Update, ...] | None:
    """The updates that have followed since the `chain_id` was this one; None where it never was."""
    ids = ["", *(update.manifest.id for update in updates)]
    return tuple(updates[ids.index(chain) :]) if chain in ids else None


def sizes(graph: Manifest, updates: Sequence[Update]) -> tuple[int, int]:
    """Number of entities and number of relations, without inverses, of a graph with its updates."""
    content = updates[-1].content if updates else graph.content
    return content["num_entities"], content["num_relations"]


def write_update(
    run: Path,
    *,
    graph: Manifest,
    checkpoint: Manifest,
    previous: Update | None,
    vocabularies: tuple[Vocabulary, Vocabulary],
    facts: np.ndarray,
    entities: pa.Table | None = None,
    relations: pa.Table | None = None,
    open_facts: np.ndarray | None = None,
    quarantine: pa.Table | None = None,
    inputs: dict[str, str] | None = None,
    config: Content | None = None,
    content: Content | None = None,
    sources: dict[str, Content] | None = None,
    write_more: Callable[[Path], Content] = lambda _: {},
) -> Update:
    """Write the next update of a run.

    Args:
        run: Folder of the run.
        graph: Manifest of its graph.
        checkpoint: Manifest of its checkpoint.
        previous: The last update so far; None: there is none.
        vocabularies: Entities and relations of the graph with the updates so far.
        facts: Rows (subject, relation, object, snapshot) that are not there yet, int64 (num_facts, 4), in any order.
        entities: The new ones, ENTITIES, with the ids that follow; None: no new ones.
        relations: Likewise, RELATIONS.
        open_facts: The facts that are open after it, rows (subject, relation, object, start); None: none.
        quarantine: Rows of the input that are not used, QUARANTINE; None: none.
        inputs: Hashes of the input files, by name.
        config: The settings that the update was made with.
        content: More of the content of the manifest.
        sources: See `Manifest`.
        write_more: Writes more files into the folder, which already is an update that can be read, and returns more of
            the content.

    Returns:
        The update as it is on disk.
    """
    number, previous_id = (1, "") if previous is None else (previous.content["number"] + 1, previous.manifest.id)
    path = _path(run, number)
    assert not path.exists(), f"{path} is there already"
    new = {"entity": entities, "relation": relations}
    tables = {kind: VOCABULARIES[kind][1].empty_table() if table is None else table for kind, table in new.items()}
    grown = [_grown(before, tables[before.kind]) for before in vocabularies]
    rows = np.unique(np.asarray(facts, np.int64).reshape(-1, 4)[:, [3, 0, 1, 2]], axis=0)[:, [1, 2, 3, 0]]
    _require_known(rows, *map(len, grown))
    quarantine = QUARANTINE.empty_table() if quarantine is None else quarantine
    about: Content = {
        "number": number,
        "num_facts": len(rows),
        "num_entities": len(grown[0]),
        "num_relations": len(grown[1]),
        "vocabulary": vocabulary_hash(*grown),
        "quarantined": {one["values"]: one["counts"] for one in pc.value_counts(quarantine["reason"]).to_pylist()},
    }
    if len(rows):
        about |= {"first_snapshot": int(rows[0, 3]), "last_snapshot": int(rows[-1, 3])}

    def write(folder: Path) -> Content:
        write_table(fact_table(rows), folder / FACTS)
        for kind, (file, schema) in VOCABULARIES.items():
            if len(tables[kind]):
                write_table(tables[kind].cast(schema), folder / file)
        if open_facts is not None and len(open_facts):
            write_table(pa.table(list(open_facts.T), schema=OPEN_FACTS), folder / OPEN)
        if len(quarantine):
            write_table(quarantine.cast(QUARANTINE), folder / _QUARANTINE)
        write_manifest(folder, replace(manifest, content=about))
        return about | write_more(folder)

    made_from = {"graph": graph.id, "checkpoint": checkpoint.id, "previous": previous_id, **(inputs or {})}
    manifest = replace(Manifest.of("update", made_from, config or {}), sources=sources or {})
    about |= content or {}
    return Update(path, write_artifact(path, manifest, write))


def _path(run: Path, number: int) -> Path:
    return run / UPDATES / f"{number:06d}"


def _grown(before: Vocabulary, table: pa.Table) -> Vocabulary:
    ids = table[f"{before.kind}_id"].to_numpy()
    assert np.array_equal(ids, len(before) + np.arange(len(ids))), f"{before.kind}_id must go on from {len(before)}"
    return Vocabulary(pa.chunked_array([before.names, *table[before.kind].chunks], pa.large_string()), before.kind)


def _require_known(rows: np.ndarray, num_entities: int, num_relations: int) -> None:
    """Refuse rows (subject, relation, object, snapshot) with ids or snapshots that are none."""
    ends = [num_entities, num_relations, num_entities, np.iinfo(np.int64).max]
    assert ((rows >= 0) & (rows < ends)).all(), "a fact has an id without a name, or a negative snapshot"
