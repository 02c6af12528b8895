"""The facts of an update: read as `prepare` reads facts, in this process, and numbered after those of a graph."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.artifacts import Manifest
from gam_kg.config import Config
from gam_kg.data_config import ColumnsConfig, DataConfig
from gam_kg.errors import DataError
from gam_kg.importers.dispatch import import_facts
from gam_kg.ingest.fact_reader import (
    MAX_SNAPSHOTS_PER_FACT,
    Reader,
    read_date_digits,
    read_facts,
    read_quarantine,
    require_short,
    summarise_facts,
)
from gam_kg.ingest.look_alikes import report_new_look_alikes
from gam_kg.ingest.merging import SOURCED_FACTS, duplicates, merge_facts, stored
from gam_kg.ingest.new_names import NewNames
from gam_kg.ingest.open_facts import OPEN, carry, each_snapshot, positions
from gam_kg.ingest.quarantine import Quarantine
from gam_kg.ingest.retractions import require_additions
from gam_kg.ingest.sources import Sources
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.time_notes import Notes, read_as, require_kind
from gam_kg.ingest.time_types import formatted_kind
from gam_kg.ingest.time_zones import UTC_NAME
from gam_kg.ingest.timestamps import TimeForm
from gam_kg.ingest.validation import DUPLICATE, NAME_COLUMNS, RENAMED
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.schemas import ENTITIES, QUARANTINE, RELATIONS

KEY = "--facts"
EARLY, CLOSED, LATE = "before_first_fact", "closes_in_the_past", "late"

IsStored = Callable[[np.ndarray], np.ndarray]
logger = logging.getLogger("gam_kg")
_NONE_OPEN = np.empty((0, 4), np.int64)


@dataclass(frozen=True)
class NewFacts:
    """The facts of an update.

    Attributes:
        rows: Distinct (subject, relation, object, snapshot) by snapshot, subject, relation and object, int64
            (num_facts, 4); some may be in the graph already.
        entities, relations: ENTITIES and RELATIONS of the new names, whose ids go on from those of the graph, by first
            snapshot, then by descending degree or count, then by name.
        open_facts: The facts that stay open, (subject, relation, object, start), int64 (num_open, 4).
        quarantine: QUARANTINE: the rows that cannot be used.
        quarantined: Reason → such rows.
        num_rows: Rows of the input.
        merged: Rows merged with the same fact of the same snapshot.
        names_changed: Rows with names that were stripped or folded.
        inputs: Name → hash of each file, as a manifest records them.
    """

    rows: np.ndarray
    entities: pa.Table
    relations: pa.Table
    open_facts: np.ndarray
    quarantine: pa.Table
    quarantined: dict[str, int]
    num_rows: int
    merged: int
    names_changed: int
    inputs: dict[str, str]


@dataclass(frozen=True)
class _Input:
    """The checked input of an update, and its good rows in the order of the input, as SOURCED_FACTS."""

    reader: Reader
    parts: pa.Table
    num_rows: int
    facts: pa.Table
    notes: Notes

    def quarantined(self, refused: dict[str, pa.Table]) -> pa.Table:
        """QUARANTINE of the bad rows, and of good ones that are refused: reason → their (source, row)."""
        rows = {reason: _by_source(table) for reason, table in refused.items()}
        tables = [QUARANTINE.empty_table()]
        if len(self.facts) < self.num_rows or any(rows.values()):
            tables += read_quarantine(self.parts, self.reader, rows)
        return pa.concat_tables(table.cast(QUARANTINE) for table in tables)


def read_new_facts(
    place: str,
    config: Config,
    graph: Manifest,
    entities: Vocabulary,
    relations: Vocabulary,
    axis: TimeAxis,
    *,
    open_facts: np.ndarray = _NONE_OPEN,
    last: int | None = None,
    is_stored: IsStored | None = None,
) -> NewFacts:
    """Read the facts of an update.

    Args:
        place: A Parquet file, folder, glob or URI; or what else `gam-kg import` reads, as a CSV file.
        config: The configuration of the run as it is recorded: `data` and `prepare` apply.
        graph: Manifest of the graph.
        entities: Names of the graph and of all updates before.
        relations: The same.
        axis: The graph's time axis.
        open_facts: The open facts before the update, as in `NewFacts`; none unless `data.open_end` is "holds".
        last: The last snapshot of the graph and of all updates before; None: that of the graph.
        is_stored: Which of some facts (num_facts, 4) at or before `last` are in the graph, bool (num_facts,). Rows
            with others are quarantined as "late", which `prepare.max_bad_fraction` does not count. None: no row is.

    Raises:
        ConfigError: As `prepare`.
        DataError: As `prepare`; timestamps are not of the graph's form; or too many rows are bad, among them those
            before the graph's first snapshot, and those that end an open fact before a snapshot in which it is stored.
    """
    last = graph.content["last_snapshot"] if last is None else last
    holds = config.data.open_end == "holds"
    with TemporaryDirectory() as folder:
        given = _find(place)
        require_additions(given, config.data)
        found = _read(*_as_parquet(given, place, config.data, Path(folder, "facts.parquet")), config.data, axis)
        new_entities, new_relations, rows = _encode(found.facts, axis, entities, relations, holds=holds)
        open_stop = _last_of(rows, last) if holds else None
        require_short(axis, [summarise_facts(found.facts)], found.reader.sources.names, open_stop)
        reasons = _refusals(rows, open_facts, last, is_stored)
        good = ~np.any([*reasons.values()], axis=0)
        facts, rows = found.facts.filter(pa.array(good)), rows[good]
        list_duplicates = config.prepare.duplicates == "refuse"
        merged = merge_facts(facts, axis, open_stop=open_stop, list_duplicates=list_duplicates)
        refused = {reason: found.facts.filter(pa.array(which)) for reason, which in reasons.items()}
        refused[DUPLICATE] = duplicates(merged)
        quarantine = Quarantine(Path(folder, Quarantine.NAME), config, found.num_rows)
        bad_rows = found.quarantined(refused)
        quarantine.write([bad_rows])
        quarantine.check(uncounted=LATE)
    last_after = _last_of(rows, last)
    _require_near(open_facts, last_after, axis, place)
    added, open_after = carry(open_facts, rows, last, last_after)
    twice = np.concatenate([added[:, [0, 3]], added[added[:, 0] != added[:, 2]][:, [2, 3]]])
    entity_rows, entity_ids = new_entities.number(twice, ENTITIES)
    relation_rows, relation_ids = new_relations.number(added[:, [1, 3]], RELATIONS)
    for part in (added, open_after):
        part[:, [0, 2]] = new_entities.renumbered(part[:, [0, 2]], entity_ids)
        part[:, 1] = new_relations.renumbered(part[:, 1], relation_ids)
    for table, known in ((entity_rows, entities), (relation_rows, relations)):
        report_new_look_alikes(table[known.kind].combine_chunks(), known)
    return NewFacts(
        rows=added[np.lexsort(added[:, [2, 1, 0, 3]].T)],
        entities=entity_rows,
        relations=relation_rows,
        open_facts=open_after[np.lexsort(open_after[:, ::-1].T)],
        quarantine=bad_rows,
        quarantined=quarantine.counts,
        num_rows=found.num_rows,
        merged=sum(stored(merged)["merged"].to_pylist()) - len(refused[DUPLICATE]),
        names_changed=found.notes.count(RENAMED),
        inputs=given.hashes(),
    )


def _find(place: str) -> Sources:
    """The Parquet files at a place, as `prepare` finds them; where there are none, those of text."""
    given = Sources.find(place, KEY, text_tables=True)
    return given if all(file.format == "text" for file in given.files) else Sources.find(place, KEY)


def _as_parquet(given: Sources, place: str, data: DataConfig, out: Path) -> tuple[Sources, ColumnsConfig]:
    """The facts as Parquet, imported to `out` where all files are text, and the names of their columns.

    Raises:
        DataError: The text cannot be imported.
    """
    own = ColumnsConfig()  # importers write the columns under their own names
    if given.files[0].format == "parquet":
        return given, own if data.import_from is not None else data.columns
    for line in import_facts(place, out, data, may_be_empty=True).lines()[1:]:
        logger.info("%s: %s", KEY, line)
    imported = Sources.find(str(out), KEY)
    return replace(imported, files=(replace(imported.files[0], name=place),)), own


def _read(sources: Sources, columns: ColumnsConfig, data: DataConfig, axis: TimeAxis) -> _Input:
    """Check the files and read the good rows.

    Raises:
        DataError: A file cannot be read, or its timestamps are not of the graph's form.
    """
    time, groups = sources.check(columns, data.open_end)
    kind, num_rows = formatted_kind(time, data.time_format), sum(group.num_rows for group in groups)
    if num_rows:
        require_kind(kind, axis, sources.names)
    form = TimeForm(axis.zone or UTC_NAME, data.time_format)
    # The snapshots after the graph's last one are in no split.
    reader = Reader(sources, columns, form, data.normalize_names, use_split=False)
    parts = pa.Table.from_pylist([asdict(group) for group in groups])
    facts = pa.concat_tables([SOURCED_FACTS.empty_table(), *read_facts(parts, reader)])
    notes = Notes.of(facts)
    if len(facts) and kind is not None and read_as(kind, axis, data.time_zone, notes, sources.names) != kind:
        facts = read_date_digits(facts)
    return _Input(reader, parts, num_rows, facts, notes)


def _encode(
    facts: pa.Table, axis: TimeAxis, entities: Vocabulary, relations: Vocabulary, *, holds: bool
) -> tuple[NewNames, NewNames, np.ndarray]:
    """The new names, and the rows as `carry` takes them, with provisional ids of new names."""
    subject, relation, other = (facts[name] for name in NAME_COLUMNS)
    new_entities, ids = NewNames.find(pa.chunked_array([*subject.chunks, *other.chunks], pa.large_string()), entities)
    new_relations, relation_ids = NewNames.find(relation, relations)
    start, has_end = axis.snapshot(facts["timestamp"].to_numpy()), facts["end"].is_valid().to_numpy()
    end = axis.snapshot(pc.coalesce(facts["end"], facts["timestamp"]).to_numpy())
    stop = np.where(has_end | (not holds), end, OPEN)
    return (
        new_entities,
        new_relations,
        np.column_stack([ids[: len(facts)], relation_ids, ids[len(facts) :], start, stop]),
    )


def _last_of(rows: np.ndarray, last: int) -> int:
    """The last snapshot after some rows."""
    return int(np.where(rows[:, 4] == OPEN, rows[:, 3], rows[:, 4]).max(initial=last))


def _require_near(open_facts: np.ndarray, last: int, axis: TimeAxis, place: str) -> None:
    """Refuse a last snapshot up to which open facts would hold for too long, as a year with a wrong digit."""
    first = int(open_facts[:, 3].min(initial=last))
    if last - first >= MAX_SNAPSHOTS_PER_FACT:
        raise DataError(
            f"{KEY}={place}: its last fact is in {axis.label(last)}, and open facts that began in {axis.label(first)} "
            f"would hold in {last - first + 1} snapshots; at most {MAX_SNAPSHOTS_PER_FACT} are allowed. Correct the "
            "timestamp, or close them"
        )


def _refusals(rows: np.ndarray, open_facts: np.ndarray, last: int, is_stored: IsStored | None) -> dict[str, np.ndarray]:
    """Reason → the rows that are not used for it, bool (num_rows,); a row has one reason at most."""
    early = rows[:, 3] < 0
    known = positions(open_facts, rows[:, :4]) >= 0
    closed = known & (rows[:, 4] < last)
    late = np.zeros(len(rows), bool)
    if is_stored is not None:
        # Of an open fact, all snapshots up to the last one are stored.
        (at,) = np.nonzero(~early & ~known)
        run, facts = each_snapshot(np.column_stack([rows[at, :4], np.minimum(rows[at, 4], last)]))
        late[at[run[~is_stored(facts)]]] = True
    return {EARLY: early, CLOSED: closed, LATE: late}


def _by_source(table: pa.Table) -> dict[int, np.ndarray]:
    """Source → row numbers, ascending."""
    source, row = table["source"].to_numpy(), table["row"].to_numpy()
    return {int(which): np.sort(row[source == which]) for which in np.unique(source)}
