"""The configuration of a run: one YAML file, `a.b=value` overrides, validated.

Precedence, lowest first: the defaults below (`configs/base.yaml` lists them, and a test keeps the two equal), the
YAML file (after the file it names under `extends`, if any), then the overrides. Unknown keys and out-of-range values
are refused with the dotted key, the value and what is allowed.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gam_kg.errors import ConfigError

TimeUnitName = Literal["auto", "hour", "day", "week", "month", "year"]


def _iso(value: object) -> object:
    """YAML reads 2014-11-30 as a date; a boundary keeps its text."""
    return value.isoformat() if isinstance(value, date) else value


Boundary = Annotated[int | str | None, BeforeValidator(_iso)]


Workers = Annotated[int, Field(ge=0)]
NumWorkers = Workers | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ColumnsConfig(Section):
    """Names of the input columns. The last two are used where the input has them."""

    subject: str = "subject"
    relation: str = "relation"
    object: str = "object"
    timestamp: str = "timestamp"
    end_timestamp: str = "end_timestamp"
    split: str = "split"


class SplitConfig(Section):
    """How time is divided: train < valid_start <= valid < test_start <= test.

    Boundaries win over a split column in the input, which wins over fractions of the facts in time order.
    """

    valid_start: Boundary = Field(None, description="first timestamp of validation, in the input's own form")
    test_start: Boundary = Field(None, description="first timestamp of test, in the input's own form")
    valid_fraction: float = Field(0.1, gt=0, lt=1)
    test_fraction: float = Field(0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.valid_start is None) != (self.test_start is None):
            raise ValueError("valid_start and test_start go together: set both or neither")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction + test_fraction must be below 1")
        return self


class DataConfig(Section):
    facts: str | None = Field(None, description="Parquet file, folder, glob or URI of the facts")
    import_from: str | None = Field(
        None,
        description="'lahman', a CSV/TSV file or a folder with train.txt; imported to `facts` when that is missing",
    )
    columns: ColumnsConfig = ColumnsConfig()
    time_unit: TimeUnitName | int = Field(
        "auto",
        description="length of a snapshot: a calendar unit, or an integer step for integer timestamps; "
        "auto is a day, or the greatest step that divides every gap between integer timestamps",
    )
    split: SplitConfig = SplitConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.time_unit, int) and self.time_unit < 1:
            raise ValueError(f"data.time_unit={self.time_unit}: an integer step must be at least 1")
        return self


class PrepareConfig(Section):
    buckets: int = Field(64, ge=1, le=4096, description="stored parts of the graph; workers share them out")
    max_bad_fraction: float = Field(0.0, ge=0, le=1, description="share of rows that may be quarantined")
    memory_gib: float | None = Field(
        None, ge=3, description="memory of all processes of a local Ray together; none: what the machine has"
    )


class HistoryConfig(Section):
    """What a query may look up of the past. Every number is a count of distinct facts."""

    recent: int = Field(100, ge=0, description="most recent facts of the subject, any relation")
    same_relation: int = Field(1000, ge=0, description="most recent facts of the subject with the query's relation")
    popular: int = Field(500, ge=0, description="most recent objects of the query's relation, any subject")
    two_hop_first: int = Field(15, ge=0, description="most recent facts of the subject that a path may start with")
    two_hop_second: int = Field(10, ge=0, description="most recent facts of each neighbour that a path may end with")
    dim: int = Field(32, ge=1)
    popularity_dim: int = Field(8, ge=1)


class ModelConfig(Section):
    name: Literal["gam_lstm"] = "gam_lstm"
    dim: int = Field(200, ge=2, le=4096)
    heads: int = Field(4, ge=1)
    decoder: Literal["mlp", "distmult", "complex", "conv_transe"] = "mlp"
    dropout: float = Field(0.4, ge=0, lt=1)
    entity_dropout: float = Field(
        0.5, ge=0, lt=1, description="share of entity rows replaced by the shared row, a step"
    )
    name_words: bool = Field(True, description="add learned rows for the words that entity names share")
    history: HistoryConfig = HistoryConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} must be a multiple of heads={self.heads}")
        if self.decoder == "complex" and self.dim % 2:
            raise ValueError(f"dim={self.dim} must be even for the complex decoder")
        return self


class TrainConfig(Section):
    epochs: int = Field(5, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    decay_epochs: int = Field(
        5, ge=1, description="epochs over which the learning rate falls; apart from epochs, so that 1 is the first of 5"
    )
    final_learning_rate: float = Field(0.05, ge=0, le=1, description="share of learning_rate the cosine ends at")
    weight_decay: float = Field(0.1, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    gradient_norm: float = Field(1.0, gt=0, description="the global gradient norm is clipped to this")
    window: int = Field(2, ge=0, description="how many memory updates gradients flow through")
    answers_per_step: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="answers a step aims at, a larger snapshot is several; none: 1000, of sampled candidates 5000",
    )
    max_steps_per_snapshot: int = Field(8, ge=1, description="steps a snapshot is divided into at most")
    candidates: Literal["one_vs_all", "sampled"] = Field(
        "one_vs_all", description="what an answer is told apart from in training: all entities, or a sample of them"
    )
    num_negatives: int = Field(
        1000, ge=1, description="entities drawn a step for candidates=sampled, beside as many of its answers at most"
    )
    history_links: int = Field(
        16,
        ge=1,
        description="past facts and paths a query reads for candidates=sampled, on average over a step; more where "
        "several lead to answers or known answers",
    )
    valid_facts: int = Field(0, ge=0, description="about how many validation facts are ranked an epoch; 0: all")
    max_logits: int = Field(32_000_000, ge=1, description="scores held at once; a snapshot above it is cut by queries")
    patience: int = Field(2, ge=1, description="epochs without a better validation MRR before training stops")
    checkpoint_steps: int = Field(0, ge=0, description="also checkpoint every so many steps; 0: at epoch ends only")
    num_workers: NumWorkers = Field(
        1,
        description="Ray Train workers, or [fewest, most] for as many as there is room for; 0 works in this process",
    )
    use_gpu: bool = False
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of matrix products in training; evaluation is always float32"
    )
    threads: int = Field(0, ge=0, description="CPU threads a worker; 0: its share of half the CPUs there are")
    max_failures: int = Field(3, ge=0, description="how often failed workers are restarted from the last checkpoint")

    @property
    def step_answers(self) -> int:
        """`answers_per_step`, or what it is where nothing is said."""
        # Each step goes through the window of memory updates, which in a large graph costs as much as many answers.
        return self.answers_per_step or (5000 if self.candidates == "sampled" else 1000)

    @property
    def most_workers(self) -> int:
        """`num_workers`, or the most of a range."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.num_workers, tuple) and self.num_workers[0] > self.num_workers[1]:
            fewest, most = self.num_workers
            raise ValueError(f"num_workers=[{fewest}, {most}]: the fewest come first, as in [1, 4]")
        return self


class EvaluateConfig(Section):
    splits: tuple[Literal["valid", "test"], ...] = Field(("valid", "test"), min_length=1)
    settings: tuple[Literal["single_step", "multi_step"], ...] = Field(("single_step", "multi_step"), min_length=1)
    baselines: bool = True
    facts: int = Field(0, ge=0, description="about how many facts of a split are ranked, drawn at random; 0: all")


class EmbedConfig(Section):
    at: Boundary = Field(None, description="timestamp the embeddings are as of; none: after the last fact")


class PredictConfig(Section):
    queries: str | None = Field(None, description="Parquet of queries; none: the test queries of the last snapshot")
    top_k: int = Field(10, ge=1)


class Config(Section):
    name: str = "base"
    run_dir: str | None = Field(None, description="folder of the run; none: runs/<name>")
    seed: int = Field(0, ge=0)
    data: DataConfig = DataConfig()
    prepare: PrepareConfig = PrepareConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    embed: EmbedConfig = EmbedConfig()
    predict: PredictConfig = PredictConfig()

    @property
    def run_path(self) -> Path:
        """Absolute folder of the run."""
        return Path(self.run_dir or Path("runs") / self.name).absolute()


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read, merge and validate a configuration.

    Args:
        path: YAML file; None starts from the defaults. `name` defaults to the file's stem.
        overrides: `a.b=value` strings; the value is read as YAML.

    Raises:
        ConfigError: The file is missing or not YAML, or a key or value is refused.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = _read_yaml(Path(path), seen=())
        values.setdefault("name", Path(path).stem)
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ConfigError(f"{path}: 'extends' comes back to this file; remove the circle")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, found {type(values).__name__}")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: 'extends' must name a YAML file, found {base!r}")
    inherited = _read_yaml(path.parent / base, (*seen, path))
    inherited.pop("name", None)  # a name is a file's own
    return _merge(inherited, values)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key=value, for instance train.epochs=3")
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent!r} holds the value {child!r}, it has no keys of its own")
        values = child
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None


def _explain(error: ValidationError, path: str | Path | None) -> str:
    lines = [f"{path or 'configuration'}: {error.error_count()} problem(s)"]
    for problem in error.errors():
        # The branch of a union stands in the location too: int, or literal[...].
        parts = [str(part) for part in problem["loc"] if part not in ("int", "str") and "[" not in str(part)]
        key = ".".join(parts) or "(top)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {key}: unknown key; {_allowed_keys(problem['loc'])}")
        else:
            found = "" if isinstance(problem["input"], (dict, BaseModel)) else f" (found {problem['input']!r})"
            lines.append(f"  {key}: {problem['msg'].removeprefix('Value error, ')}{found}")
    return "\n".join(lines)


def _allowed_keys(location: tuple[int | str, ...]) -> str:
    section: type[BaseModel] = Config
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        section = annotation
    return f"allowed here: {', '.join(section.model_fields)}"
