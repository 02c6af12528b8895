"""What each stage of a run is: its artifact, what that is made from, and whether there is a current one.

How a stage writes is in the file named after its verb. Nothing here imports Ray or torch, so that a finished run is
recognised at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gam_kg.artifacts import Manifest, open_artifact, read_manifest, require_same
from gam_kg.config import Config
from gam_kg.errors import ArtifactError, GamKGError
from gam_kg.graph.update_chain import Update, chain_id, last_snapshot, read_updates
from gam_kg.ingest.sources import Sources
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.run_config import SETTINGS, differences, require_same_settings
from gam_kg.run_folder import graph_to_train, waiting
from gam_kg.versions import revisions, version_name
from gam_kg.workflow.inputs import notices, record
from gam_kg.workflow.prediction_file import out_path


@dataclass(frozen=True)
class Description:
    """What a stage makes, and from what.

    Attributes:
        kind: The artifact, and its folder in the run.
        verb: The command that makes it.
        reads: Kinds of the artifacts that it is made from.
        files: Configuration → the input files that it is made from, by configuration key.
        keys: The configuration keys that name input files.
        after: (configuration, time axis, last snapshot) → the snapshot whose facts are the last that a version is made
            from; None: the artifact has no versions.
        shows_updates: Whether it is made anew after an update, though it has no versions.
    """

    kind: str
    verb: str
    reads: tuple[str, ...] = ("graph", "checkpoint")
    files: Callable[[Config], tuple[Sources, ...]] = lambda _: ()
    keys: tuple[str, ...] = ()
    after: Callable[[Config, TimeAxis, int], int] | None = None
    shows_updates: bool = False


def _facts_and_features(config: Config) -> tuple[Sources, ...]:
    facts, features = Sources.find(config.data.facts), config.data.entity_features
    return (facts,) if features is None else (facts, Sources.find(features, "data.entity_features"))


def _queries(config: Config) -> tuple[Sources, ...]:
    out_path(config)  # refused before any work
    queries = config.predict.queries
    return () if queries is None else (Sources.find(queries, "predict.queries", text_tables=True),)


GRAPH = Description(
    "graph",
    "prepare",
    reads=(),
    files=_facts_and_features,
    keys=("data.facts", "data.import_from", "data.entity_features"),
)
CHECKPOINT = Description("checkpoint", "train", reads=("graph",))
EMBEDDINGS = Description(
    "embeddings", "embed", after=lambda config, axis, last: min(axis.snapshot_at(config.embed.at, last), last)
)
EVALUATION = Description("evaluation", "evaluate")
PREDICTIONS = Description(
    "predictions", "predict", files=_queries, keys=("predict.queries",), after=lambda _config, _axis, last: last
)
REPORT = Description("report", "report", reads=("graph", "checkpoint", "evaluation"), shows_updates=True)
STAGES = (GRAPH, CHECKPOINT, EVALUATION, EMBEDDINGS, PREDICTIONS, REPORT)
"""In the order of a run."""


@dataclass(frozen=True)
class Moment:
    """What a version is made from, in time.

    Attributes:
        snapshot: The last whose facts it is made from.
        label: Its start, as a user writes it.
        at_end: Whether it is the last snapshot of all.
    """

    snapshot: int
    label: str
    at_end: bool

    @property
    def version(self) -> str:
        """Name of the version."""
        return version_name(self.label)


@dataclass(frozen=True)
class Situation:
    """What a stage finds before it begins.

    Attributes:
        stage: The stage.
        config: The run's configuration.
        manifest: That of the artifact to be made, still without content.
        paths: Kind → folder of each artifact that it is made from.
        read: Kind → manifest of each artifact that it is made from.
        sources: The input files, by configuration key.
        notices: What users of the result must know.
        moment: That of the version to be made; None where the artifact has no versions.
        updates: Those of the run that it is made from.
    """

    stage: Description
    config: Config
    manifest: Manifest
    paths: dict[str, Path]
    read: dict[str, Manifest]
    sources: tuple[Sources, ...]
    notices: tuple[str, ...]
    moment: Moment | None
    updates: tuple[Update, ...]

    @classmethod
    def of(cls, stage: Description, config: Config) -> "Situation":
        """Look at what a stage is to be made from.

        Raises:
            ArtifactError: An artifact that it is made from is missing, or they do not belong together.
            ConfigError: Settings, or facts, differ from those that these artifacts were made with.
            DataError: The input files cannot be read.
        """
        run = config.run_path
        paths = {kind: run / kind for kind in stage.reads}
        if stage is CHECKPOINT:
            paths["graph"] = graph_to_train(run)
        read = {kind: read_manifest(path, kind) for kind, path in paths.items()}
        for kind, manifest in read.items():
            for name in manifest.inputs.keys() & read.keys():
                require_same(name, manifest.inputs[name], read[name].id, paths[kind])
        require_same_settings(stage.verb, config, {paths[kind]: manifest for kind, manifest in read.items()})
        sources = stage.files(config)
        # Before the content is hashed, which it then cannot be older than.
        recorded = record(config, stage.keys, sources)
        inputs = {kind: manifest.id for kind, manifest in read.items()}
        for one in sources:
            inputs |= one.hashes()
        moment, updates = None, ()
        if stage.after is not None or stage.shows_updates:
            updates = read_updates(run, read["graph"])
            inputs |= {"updates": chain_id(updates)} if updates else {}
        if stage.after is not None:
            axis, last = TimeAxis(**read["graph"].content["time"]), last_snapshot(read["graph"], updates)
            snapshot = stage.after(config, axis, last)
            moment = Moment(snapshot, axis.label(snapshot), snapshot == last)
        manifest = replace(Manifest.of(stage.kind, inputs, SETTINGS[stage.kind](config)), sources=recorded)
        found = notices(config, read["graph"]) if "graph" in read else ()
        return cls(stage, config, manifest, paths, read, sources, found, moment, updates)

    def require_whole(self) -> None:
        """Refuse damaged files of what the stage is made from.

        Raises:
            ArtifactError: A file is not what was written.
        """
        for kind, path in self.paths.items():
            open_artifact(path, kind)

    def current(self, report: Callable[[str], None] = lambda _: None) -> Path | None:
        """The folder of a whole artifact that was made from the same, with the same settings, if there is one.

        Args:
            report: Receives what is damaged.
        """
        kind, run = self.stage.kind, self.config.run_path
        places = [waiting(run, kind), run / kind]
        if self.moment is not None:  # another revision may be on its way out
            places = revisions(run / kind, self.moment.version)[:1]
        for path in places:
            try:
                found = read_manifest(path, kind)
                # Which moment a version is of, its name says, however the moment was given.
                others = [key for key, *_ in differences(self.config, found) if key != "embed.at"]
                if found.inputs == self.manifest.inputs and not others:
                    open_artifact(path, kind)
                    return path
            except ArtifactError as error:
                if path.exists():
                    report(f"{kind} is made anew: {error}")
        return None


def finished(config: Config) -> dict[Path, Situation]:
    """Folder of each artifact of the run → what its stage finds, where all are there and current; else nothing."""
    if waiting(config.run_path, "graph").exists():
        return {}
    found = {}
    try:
        for stage in STAGES:
            situation = Situation.of(stage, config)
            if not (path := situation.current()):
                return {}
            found[path] = situation
    except GamKGError:  # the stage itself explains it
        return {}
    return found
