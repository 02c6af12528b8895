"""The section `data` of a configuration: the facts, how their files are read, and how time is divided."""

from typing import Literal, Self

from pydantic import Field, model_validator

from gam_kg.config_file import Section
from gam_kg.config_types import Boundary, LocalPath, Place, Positive, Separator

TimeUnit = Literal["auto", "hour", "day", "week", "month", "year"] | Positive


class ColumnsConfig(Section):
    subject: str = Field("subject", description="subjects: strings or integers")
    relation: str = Field("relation", description="relations: strings or integers")
    object: str = Field("object", description="objects: strings or integers")
    timestamp: str = Field("timestamp", description="integers, dates, timestamps or ISO 8601 strings")
    end_timestamp: str = Field(
        "end_timestamp",
        description="optional; a fact with an end is in every snapshot from its start to its end, both included; "
        "data.open_end says in which one without an end is",
    )
    split: str = Field("split", description="optional; train, valid or test")

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = self.model_dump()
        if same := [role for role, name in named.items() if [*named.values()].count(name) > 1]:
            raise ValueError(
                f"{' and '.join(same)} are the same column {named[same[0]]!r}; give each a column of its own"
            )
        return self


class SplitConfig(Section):
    """How time is divided: train < valid_start <= valid < test_start <= test; test may be empty."""

    valid_start: Boundary = Field(None, description="first timestamp of validation, in the input's own form")
    test_start: Boundary = Field(
        None, description="first timestamp of test, in the input's own form; after the last fact: there is no test"
    )
    valid_fraction: float = Field(0.1, gt=0, lt=1, description="share of the facts, in time order, for validation")
    test_fraction: float = Field(0.1, ge=0, lt=1, description="share of the facts, the last ones, for test; 0: no test")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.valid_start is None) != (self.test_start is None):
            raise ValueError("valid_start and test_start go together: set both or neither")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction + test_fraction must be below 1")
        return self


class CsvConfig(Section):
    """How text tables are read; each null is found in the file."""

    separator: Separator | None = Field(
        None, min_length=1, max_length=1, description='what separates cells, as "," or ";" or "\\t"; null: found'
    )
    decimal: Literal[".", ","] = Field(".", description="decimal sign of numbers")
    quote: str | None = Field(
        '"', min_length=1, max_length=1, description="what encloses cells that contain the separator; null: nothing"
    )
    encoding: str | None = Field(
        None, description="latin-1, cp1252, utf-16, ...; null: UTF-8, or UTF-16 where the file begins with its mark"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.separator is not None and self.separator in (self.quote, "\r", "\n"):
            raise ValueError("the separator must not be the quote or a line end")
        if self.quote is not None and self.quote in "\r\n \t,;|":
            raise ValueError("the quote must not be a line end, a blank or a usual separator")
        return self


class DataConfig(Section):
    facts: Place = Field(None, description="Parquet file, folder, glob or URI of the facts")
    import_from: LocalPath = Field(
        None,
        description="'lahman', a CSV/TSV file or a folder with train.txt; imported to `facts` where that is missing or "
        "was imported from other content",
    )
    entity_features: Place = Field(
        None,
        description="optional; Parquet file, folder, glob or URI with a row for each entity: its name in the column "
        "`entity`, and columns of numbers, categories, lists of categories or text",
    )
    columns: ColumnsConfig = Field(ColumnsConfig(), description="names of the input's columns")
    csv: CsvConfig = Field(CsvConfig(), description="how CSV and TSV files are read")
    normalize_names: tuple[Literal["case", "blanks", "unicode"], ...] = Field(
        (),
        description="differences between names that do not count: case, blanks (how much white space), unicode (form); "
        "white space and control characters around a name never count",
    )
    time_zone: str | None = Field(
        None,
        description="zone in which snapshots begin, as Europe/Berlin; null: the zone of the timestamp column, UTC "
        "for text with offsets, and none where timestamps have none: then neither may those of queries and boundaries",
    )
    time_format: str | None = Field(
        None,
        description="form of timestamps that are text, or integers with digits of a date, as %d/%m/%Y or %Y%m%d; "
        "integer: plain integers; null: ISO 8601 or YYYYMMDD; integers are plain unless all are dates YYYYMMDD",
    )
    time_unit: TimeUnit = Field(
        "auto",
        description="length of a snapshot: hour, day, week, month, year, or an integer step for integer timestamps; "
        "auto: a day (a month or year where no timestamp says more), or the greatest step that divides every gap "
        "between integer timestamps",
    )
    open_end: Literal["first_snapshot", "holds"] = Field(
        "first_snapshot",
        description="where a fact without an end is: in its first snapshot only; or holds: in every snapshot from its "
        "start on, until an update has a row of the same fact and start with an end",
    )
    split: SplitConfig = Field(
        SplitConfig(), description="boundaries win over a split column, which wins over fractions of the facts"
    )
