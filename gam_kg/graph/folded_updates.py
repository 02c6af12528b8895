"""Many updates of a run in one artifact, `updates/folded`, so that opening a run does not read their many small files.

It is a copy: the updates stay where they are, and are read where it is damaged or of other updates. Each update names
the one before it, so that the id of the last one says which updates they are.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import (
    MANIFEST,
    Content,
    Manifest,
    open_artifact,
    read_json,
    read_manifest,
    redo,
    write_artifact,
)
from gam_kg.errors import ArtifactError
from gam_kg.graph.stored_update import FACTS, UPDATES, VOCABULARIES, Update, fact_rows, fact_table, unless_seen
from gam_kg.parquet import read_table, write_table
from gam_kg.schemas import SCHEMA_VERSION

FOLDED = "folded"
"""The folder, and the kind of the artifact."""

_MANIFESTS = "manifests.json"
_EVERY = 16

logger = logging.getLogger("gam_kg")


def read_folded(run: Path) -> Sequence[Update]:
    """The first updates of a run, of which no file is read but those of `updates/folded`; none without it.

    The last one of the run is not among them, so that its files are verified.
    """
    folder = run / UPDATES / FOLDED
    if not (folder / MANIFEST).exists():
        return ()
    try:
        found = unless_seen(folder, lambda: _read(run, folder))
    except ArtifactError as error:
        logger.warning("updates are read one by one: %s", error)
        return ()
    with suppress(ArtifactError):  # where it is not there any more, or damaged, it is read as the others are
        if read_manifest(found[-1].path, "update").id == found[-1].manifest.id:
            return found
    return ()


def fold_updates(run: Path, updates: Sequence[Update]) -> None:
    """Write `updates/folded` anew where it lacks 16 updates or more.

    Args:
        run: Folder of the run, whose lock the caller owns.
        updates: All of them.

    Raises:
        OutputError: It cannot be written.
    """
    if len(updates) - len(read_folded(run)) < _EVERY:
        return

    def write(folder: Path) -> Content:
        write_table(fact_table(np.concatenate([update.facts() for update in updates])), folder / FACTS)
        for kind, (file, _) in VOCABULARIES.items():
            new = [update.entities() if kind == "entity" else update.relations() for update in updates]
            write_table(pa.concat_tables(new), folder / file)
        manifests = [{one.name: getattr(update.manifest, one.name) for one in fields(Manifest)} for update in updates]
        (folder / _MANIFESTS).write_text(json.dumps(manifests), encoding="utf-8")
        return {"num_updates": len(updates)}

    write_artifact(run / UPDATES / FOLDED, Manifest.of(FOLDED, {"updates": updates[-1].manifest.id}, {}), write)


def _read(run: Path, folder: Path) -> tuple[Update, ...]:
    folded = open_artifact(folder, FOLDED)
    try:
        updates = _updates(run, folder)
    except (TypeError, KeyError, AttributeError) as error:  # fields of manifests that are missing or unknown
        raise ArtifactError(f"{folder / _MANIFESTS} cannot be read ({error!r}); {redo(FOLDED)}") from None
    # Another process may have replaced the folder between the reading of one file and of the next.
    if read_manifest(folder, FOLDED).id != folded.id or updates[-1].manifest.id != folded.inputs["updates"]:
        raise ArtifactError(f"{folder} was replaced while it was read")
    return updates


def _updates(run: Path, folder: Path) -> tuple[Update, ...]:
    facts = fact_rows(read_table(folder / FACTS))
    new = {kind: read_table(folder / file) for kind, (file, _) in VOCABULARIES.items()}
    first = {kind: table[f"{kind}_id"][0].as_py() if len(table) else 0 for kind, table in new.items()}
    updates, num_facts, start = list[Update](), 0, dict.fromkeys(new, 0)
    for number, values in enumerate(read_json(folder / _MANIFESTS, FOLDED), 1):
        manifest = Manifest(**values)
        if manifest.schema_version != SCHEMA_VERSION:
            found = f"an update of schema version {manifest.schema_version}, this gam-kg reads {SCHEMA_VERSION}"
            raise ArtifactError(f"{folder / _MANIFESTS} has {found}; {redo(FOLDED)}")
        end = {
            kind: manifest.content[f"num_{file.removesuffix('.parquet')}"] - first[kind]
            for kind, (file, _) in VOCABULARIES.items()
        }
        own = {kind: table.slice(start[kind], end[kind] - start[kind]) for kind, table in new.items()}
        more = num_facts + manifest.content["num_facts"]
        updates.append(Update(run / UPDATES / f"{number:06d}", manifest).with_read(facts[num_facts:more], own))
        num_facts, start = more, end
    if num_facts != len(facts):
        raise ArtifactError(f"{folder} has {len(facts):,} facts, its updates have {num_facts:,}; {redo(FOLDED)}")
    return tuple(updates)
