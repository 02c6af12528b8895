"""The configuration of a run: one YAML file, `a.b=value` overrides, validated.

Precedence, lowest first: the defaults below, the YAML file (after the file it names under `extends`, if any), then the
overrides. `python -m gam_kg.config > configs/base.yaml` writes every key with its default and description.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from gam_kg.config_file import Section, apply_override, base_file, find_config, read_yaml, require_own_folder, validated
from gam_kg.config_types import Boundary, Count, LocalPath, Place, Positive, Probability, RunName, Share
from gam_kg.data_config import DataConfig
from gam_kg.errors import ConfigError
from gam_kg.index_config import IndexConfig
from gam_kg.storage import local_folder

NumWorkers = Count | tuple[Positive, Positive]


class PrepareConfig(Section):
    buckets: int = Field(64, ge=1, le=4096, description="stored parts of the graph, divided among the workers")
    duplicates: Literal["merge", "refuse"] = Field(
        "merge",
        description="rows that repeat a fact of the same snapshot: merge them, or refuse them as bad rows",
    )
    max_bad_fraction: Share = Field(0.0, description="share of rows that may be quarantined; above it the stage fails")
    memory_gib: float | None = Field(
        None,
        ge=3,
        description="GiB that all processes of a local Ray may take; what its object store has no room for goes to "
        "disk; null: tasks for four fifths of the memory of the machine, or container",
    )


class HistoryConfig(Section):
    recent: Count = Field(100, description="most recent facts of the subject, any relation")
    same_relation: Count = Field(1000, description="most recent facts of the subject with the query's relation")
    popular: Count = Field(10_000, description="most recent objects of the query's relation, any subject")
    pair_statistics: bool = Field(
        True,
        description="score candidates also by a small network on the rhythm, place and turn of what the pair had",
    )
    two_hop_first: Count = Field(15, description="most recent facts of the subject that a path may start with")
    two_hop_second: Count = Field(10, description="most recent facts of each neighbour that a path may end with")
    two_hop_newest: Count = Field(
        200,
        description="a path may also end in the newest fact of each relation among so many most recent facts of a "
        "neighbour; not where two_hop_second is 0",
    )
    rule_bodies: Count = Field(
        20, description="most recent facts of the subject that a rule may start with; 0 counts no rules"
    )
    rule_heads: Count = Field(5, description="most frequent answers to which a rule may lead")
    rule_count: Positive = Field(
        1, description="how often a rule must lead to an answer to be stored; 2 takes a quarter of the memory"
    )
    max_rules: Positive = Field(
        30_000_000,
        description="rules stored at most, by all workers together; where there are more, rule_count is raised",
    )
    rule_confidence: bool = Field(
        True,
        description="score candidates also by how likely counted rules hold: those of shared facts, and those of pairs",
    )
    dim: Positive = Field(32, description="length of the keys and queries of history attention")
    popularity_dim: Positive = Field(8, description="length of the embeddings of recency and count in popularity")


class ModelConfig(Section):
    name: Literal["gam_lstm"] = Field("gam_lstm", description="graph attention and an LSTM memory")
    dim: int = Field(200, ge=2, le=4096, description="length of an entity's vector, a multiple of heads")
    heads: Positive = Field(4, description="attention heads")
    decoder: Literal["mlp", "distmult", "complex", "conv_transe"] = Field(
        "mlp", description="mlp, distmult, complex or conv_transe"
    )
    dropout: Probability = Field(0.4, description="probability that a hidden value is dropped in training")
    entity_dropout: Probability = Field(
        0.5,
        description="share of entity rows replaced by the shared row, drawn at every step; lower it (to 0) where the "
        "identity of an entity matters more than its name and history",
    )
    relation_dropout: Probability = Field(
        0.1,
        description="share of relations, drawn anew at every step, that use the shared rows of relations without facts "
        "in training; at 0 these stay zero and say only what holds for all relations",
    )
    name_words: bool = Field(True, description="add learned rows for the words that entity names share")
    word_agreement: bool = Field(True, description="a word counts as far as the entities that share it act alike")
    memory: bool = Field(
        True,
        description="entities remember their snapshots, by graph attention and an LSTM; false: their vectors stay the "
        "same over time",
    )
    gate: bool = Field(
        True, description="weigh vectors against the counted past, by relation and by how repetitive a query's past is"
    )
    history: HistoryConfig = Field(
        HistoryConfig(), description="what a query reads of the past, in distinct facts; 0 switches a part off"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} must be a multiple of heads={self.heads}")
        if self.decoder == "complex" and self.dim % 2:
            raise ValueError(f"dim={self.dim} must be even for the complex decoder")
        return self


class TrainConfig(Section):
    epochs: Positive = Field(4, description="passes over the training snapshots, at most")
    learning_rate: float = Field(3e-3, gt=0, description="learning rate of the first step")
    decay_epochs: Positive = Field(
        4,
        description="epochs over which the learning rate falls along a cosine, then stays; apart from `epochs`, so "
        "that a run of one epoch is the first epoch of a run of four",
    )
    final_learning_rate: Share = Field(0.05, description="share of learning_rate that the cosine ends at")
    weight_decay: float = Field(0.1, ge=0, description="decoupled: times the learning rate, per step")
    label_smoothing: Probability = Field(0.1, description="share of the target spread over all candidates")
    gradient_norm: float = Field(1.0, gt=0, description="the global gradient norm is clipped to this")
    window: Count = Field(2, description="memory updates that gradients flow through")
    max_horizon: Positive = Field(
        32,
        description="the largest horizon that is trained, in snapshots after the last visible one; 1: only the next "
        "snapshot, so that nothing is learned of later ones",
    )
    ahead_share: Share = Field(
        0.2,
        description="answers of a later snapshot that a step also scores, as a share of its own; none at max_horizon 1",
    )
    answers_per_step: Positive | None = Field(
        None,
        description="answers per step to aim at; a larger snapshot is several steps; null: 1000, or 5000 where "
        "candidates are sampled",
    )
    max_steps_per_snapshot: Positive = Field(8, description="steps that a snapshot is divided into, at most")
    candidates: Literal["one_vs_all", "sampled"] = Field(
        "one_vs_all",
        description="what an answer competes with: all entities; or sampled: some of the step's other answers, of the "
        "subject's history and of all entities, weighted to stand for the rest",
    )
    num_negatives: Positive = Field(1000, description="sampled: entities drawn per step, and at most as many answers")
    history_links: Positive = Field(
        16,
        description="sampled: past facts and paths per query, on average over a step, drawn anew each step; more "
        "where several lead to known answers",
    )
    valid_facts: Count = Field(
        0, description="number of validation facts ranked per epoch (about), drawn at random; 0: all"
    )
    max_logits: int = Field(
        32_000_000,
        ge=1,
        le=2**31 - 1,  # so that positions in a table of scores fit int32
        description="scores in memory at once; a snapshot above it is cut by queries, with the same result",
    )
    patience: Positive = Field(2, description="epochs without a better validation MRR before training stops")
    checkpoint_steps: Count = Field(0, description="also checkpoint every so many steps; 0: at epoch ends only")
    num_workers: NumWorkers = Field(1, description="Ray Train workers; [1, 4]: as many as have room; 0: without Ray")
    use_gpu: bool = Field(False, description="a CUDA device for each worker")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="of matrix products in training: float32; tf32, on a GPU; or bf16; evaluation is always float32",
    )
    cuda_graphs: bool = Field(
        True,
        description="on one GPU, record steps as CUDA graphs and replay them for batches of the same sizes, which are "
        "padded for it; takes more GPU memory",
    )
    threads: Count = Field(0, description="CPU threads per worker; 0: its share of half the CPUs there are")
    batch_workers: Count | None = Field(
        None,
        description="processes that make the batches of steps, each those of its share of the snapshots; 0: none, "
        "batches are made where training is; null: for a GPU all CPUs but two, 12 at most, else none; with several "
        "training workers there are none",
    )
    read_ahead: Count | None = Field(
        None,
        description="batches of steps that another thread makes ahead of the step that runs, at most; 0: none; null: "
        "2 where a worker has a GPU or a CPU beyond its threads, else none",
    )
    max_failures: Count = Field(3, description="restarts of failed workers, each from the last checkpoint")
    loggers: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        ("tensorboard",),
        description="where metrics of epochs also go: tensorboard (event files, where it is installed) and mlflow (the "
        "server at MLFLOW_TRACKING_URI)",
    )

    @property
    def step_answers(self) -> int:
        """`answers_per_step`, or its default for the kind of candidates."""
        # Each step goes through the window of memory updates, which in a large graph costs as much as many answers.
        return self.answers_per_step or (5000 if self.candidates == "sampled" else 1000)

    @property
    def most_workers(self) -> int:
        """`num_workers`, or the most of a range."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.num_workers, tuple) and self.num_workers[0] > self.num_workers[1]:
            raise ValueError(f"num_workers={[*self.num_workers]}: the fewest come first, as in [1, 4]")
        return self


class EvaluateConfig(Section):
    splits: tuple[Literal["valid", "test"], ...] = Field(
        ("valid", "test"), min_length=1, description="splits whose facts are ranked"
    )
    settings: tuple[Literal["single_step", "multi_step"], ...] = Field(
        ("single_step", "multi_step"),
        min_length=1,
        description="single_step: all facts before a query are history; multi_step: those up to the last validation "
        "timestamp",
    )
    baselines: bool = Field(
        True,
        description="rank with the untrained baselines too; false: updates and stored states leave them out as well",
    )
    facts: Count = Field(0, description="number of facts ranked of each split (about), drawn at random; 0: all")


class EmbedConfig(Section):
    at: Boundary = Field(None, description="timestamp after whose facts entities are embedded; null: the last fact's")


class PredictConfig(Section):
    queries: Place = Field(
        None,
        description="Parquet or CSV file, folder, glob or URI; null: what comes next for the active pairs of "
        "subject and relation",
    )
    top_k: Positive = Field(10, description="answers to each query")
    strict: bool = Field(False, description="refuse the queries if one of them cannot be answered")
    out: LocalPath = Field(None, description="also write the predictions to this file, .parquet or .csv")
    explain: Count = Field(
        0,
        description="facts, paths and rules of the past that carry each answer, in a column `explanation`; 0: no such "
        "column",
    )
    queries_per_file: Positive = Field(
        100_000,
        description="queries that one file answers, at most, and that are in memory at once; an interrupted predict "
        "goes on after the last finished file",
    )
    num_workers: Count = Field(
        0,
        description="actors of Ray Data that answer predict.queries where they are more than queries_per_file; 0: this "
        "process does, without Ray",
    )


class UpdateConfig(Section):
    late: Literal["refuse", "replay", "quarantine"] = Field(
        "refuse",
        description="facts before the last snapshot: refuse the update, replay (go back to a state before them and "
        "forward again), or quarantine them; facts of the last snapshot itself are always replayed",
    )
    score_facts: Count = Field(
        1000,
        description="about how many new facts are ranked before they are added, to see how the run does; 0: none. Of "
        "more than 125,000 entities they are fewer, so that there are 250 million scores at most",
    )
    state_snapshots: Positive = Field(
        16, description="a state is stored once this many snapshots, or a hundredth of all facts, follow the last one"
    )
    keep_states: Count = Field(
        4, description="states that stay; late facts before the first of them are replayed from the first fact"
    )
    fine_tune_rate: float | None = Field(
        None, gt=0, description="learning rate of fine-tuning; null: a fifth of train.learning_rate"
    )


class PublishConfig(Section):
    embeddings: Literal["full", "delta"] = Field(
        "full",
        description="full: a version has all rows; delta: after an update it has those that changed since a full one, "
        "as long as they are at most half of all",
    )
    keep_versions: Positive | None = Field(
        30, description="versions of embeddings and of predictions that stay, the last written; null: all"
    )
    keep_days: float | None = Field(
        None,
        gt=0,
        description="days that a version stays after it was written; null: for ever. The latest always stays",
    )
    grace_minutes: float = Field(
        10, ge=0, description="minutes that a version stays after it need not, for those who have just read its name"
    )


class Config(Section):
    name: RunName = Field("base", description="name of the run; where a file has none, the file's own name")
    run_dir: Place = Field(
        None, description="folder or URI (s3://, gs://, abfs://) of the run, see docs/storage.md; null: runs/<name>"
    )
    seed: Count = Field(0, description="seed of all random numbers")
    data: DataConfig = Field(DataConfig(), description="the facts, and how time is divided")
    prepare: PrepareConfig = Field(PrepareConfig(), description="facts → graph/")
    model: ModelConfig = Field(ModelConfig(), description="what is trained")
    train: TrainConfig = Field(TrainConfig(), description="graph/ → checkpoint/")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="checkpoint/ → evaluation/")
    embed: EmbedConfig = Field(EmbedConfig(), description="checkpoint/ → embeddings/")
    predict: PredictConfig = Field(PredictConfig(), description="checkpoint/ → predictions/")
    update: UpdateConfig = Field(UpdateConfig(), description="new facts → updates/, embeddings/, predictions/")
    publish: PublishConfig = Field(PublishConfig(), description="versions of embeddings/ and predictions/")
    index: IndexConfig = Field(IndexConfig(), description="embeddings/ → index/, approximate nearest entities")

    def changed(self, settings: Mapping[str, Any], source: str = "configuration") -> "Config":
        """The configuration with other values of some settings.

        Args:
            settings: Dotted key → value.
            source: Names them in messages.

        Raises:
            ConfigError: A key is unknown or a value not allowed.
        """
        values = self.model_dump(mode="json")
        for key, value in settings.items():
            *parents, last = key.split(".")
            section = values
            for parent in parents:
                section = section.setdefault(parent, {})
                if not isinstance(section, dict):
                    raise ConfigError(f"{source}: {key}: {parent!r} has a value, and no keys of its own")
            section[last] = value
        return validated(Config, values, source)

    @property
    def run_path(self) -> Path:
        """Absolute folder of the run on this machine: of a run at a URI, its working copy."""
        return local_folder(self.run_dir or f"runs/{self.name}", "run_dir")


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read, merge and validate a configuration.

    Args:
        path: YAML file, or one that comes with gam-kg by its name, as `demo`; None starts from the defaults. `name`
            defaults to the file's stem.
        overrides: `a.b=value` strings; the value is read as YAML.

    Raises:
        ConfigError: The file is missing or not YAML, or a key or value is refused.
    """
    values: dict[str, Any] = {}
    if path is not None:
        file = find_config(str(path))
        values = read_yaml(file)
        values.setdefault("name", file.stem)
    for override in overrides:
        apply_override(values, override)
    config = validated(Config, values, path or "configuration")
    if path is not None and not {"run_dir", "name"} & {override.partition("=")[0].strip() for override in overrides}:
        require_own_folder(file, config.run_path)
    return config


if __name__ == "__main__":
    sys.stdout.write(base_file(Config()))
