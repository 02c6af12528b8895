"""The Python API of a finished run: `gam_kg.load` opens one, and a `Run` answers questions."""

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from gam_kg.api_opened import At, Name, OpenedRun, named, one_of, path_text, plain_time, positive, relation_of
from gam_kg.inference.answers import answer_queries, encode_query, find_name
from gam_kg.inference.embed import embedding_table, vectors_of
from gam_kg.inference.fact_tables import FactRanks, FactTable, rank_table
from gam_kg.inference.frames import arrow_table, frame
from gam_kg.inference.predict import prediction_table
from gam_kg.inference.queries import QueryRows, read_queries
from gam_kg.inference.search import nearest_entities
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.run_config import folder_of_run

if TYPE_CHECKING:
    from gam_kg.inference.explain import Explanation

Kind = Literal["entity", "relation"]
Vector = Literal["embedding", "search_vector"]

_NEEDED = ("graph", "checkpoint", "updates", "state")
_OF_THE_QUESTION = ["subject", "relation", "object", "timestamp", "snapshots_beyond_last_fact"]


def load(run: str | PathLike[str]) -> "Run":
    """Open a finished run for questions.

    The files of its graph and of its checkpoint are verified. Nothing is written, except the working copy of a run at
    a URI.

    Args:
        run: Its folder, its URI (as s3://bucket/runs/demo) or its configuration file.

    Raises:
        ArtifactError: There is no finished run in the folder, or it is damaged.
        ConfigError: `run` is no path, or there is nothing there.
        StorageError: The storage that a URI names cannot be used.

    Example:
        >>> import gam_kg
        >>> run = gam_kg.load("runs/demo")
        >>> run.ask("Mike Trout", "plays_center_field_for", at="2018", k=3)
    """
    return Run(TrainedRun.load(folder_of_run(path_text(run, "run"), "run", *_NEEDED)))


class Run(OpenedRun):
    """A finished run in memory, for questions; `gam_kg.load` and `gam_kg.train` return one.

    What was computed for a moment stays in memory for further questions about it, for the four moments used last.
    Threads may share a run; their questions are answered one after another. Once its graph or its checkpoint is
    replaced on disk, each question raises ArtifactError: load it again. Updates that are added do not matter to it.

    Args:
        trained_run: The run, in a world of one.

    Attributes:
        trained_run: The same: what the library itself works with.
    """

    def ask(
        self,
        subject: Name | None = None,
        relation: Name | None = None,
        object: Name | None = None,
        *,
        at: At = None,
        k: int = 10,
        among: Name | Iterable[Name] | None = None,
    ) -> pd.DataFrame:
        """The best answers to (subject, relation, ?), or to (?, relation, object), from the facts before a time.

        Args:
            subject: The known subject; leave it out to look for subjects of an object.
            relation: The relation.
            object: The known object; leave it out to look for objects of a subject.
            at: The time of the question, as "2018", a date, or an integer where the facts have integers; None: the
                snapshot after the last fact.
            k: Answers, at least 1; fewer where there are fewer candidates.
            among: Name or names of the candidates; None: all entities.

        Returns:
            A row an answer, best first: `position` from 1, `answer_id`, `answer`, `score`, `probability` (over all
            candidates, calibrated), `times_seen` and `last_seen` of the same fact before. `attrs` has the question.

        Raises:
            DataError: A name is unknown (the message has the closest ones), or the arguments do not make a question.
            ConfigError: `at` is no timestamp of the graph, or before the first fact.

        Example:
            >>> run.ask("Mike Trout", "plays_center_field_for", at="2018", k=3)
            >>> run.ask(object="Los Angeles Angels of Anaheim", relation="plays_center_field_for")
        """
        run, k = self.trained_run, positive(k)
        query = encode_query(run, subject, relation_of(relation), object, plain_time(at))
        candidates = None if among is None else self._ids(among)
        with self._working():
            opened = self._moments.before(int(query.snapshot[0]))
            table = prediction_table(
                opened, QueryRows.of(opened, query), answer_queries(opened, query, k, among=candidates)
            )
        found = frame(table.drop_columns([*_OF_THE_QUESTION, "query_id", "status", "reason"]))
        found.attrs = table.select(_OF_THE_QUESTION).slice(0, 1).to_pylist()[0]
        return found

    def ask_many(self, questions: pd.DataFrame, *, k: int = 10) -> pd.DataFrame:
        """Answer a table of questions, as `gam-kg predict` does.

        Args:
            questions: A row a question: `relation`, and `subject` or `object` with the other one missing, and
                optionally `timestamp`, where missing means the snapshot after the last fact. Columns may also have the
                names that those of the facts had. Other columns are repeated beside the answers.
            k: Answers to each, at least 1.

        Returns:
            A row an answer, question by question in their order, and best first; `query_id` counts the questions from
            0. A question that cannot be answered has one row, with its `status` and `reason`, and no answer.

        Raises:
            DataError: A column is missing, of a wrong type or there twice.

        Example:
            >>> run.ask_many(pd.DataFrame({"subject": ["Mike Trout"], "relation": ["plays_center_field_for"]}), k=3)
        """
        k, table = positive(k), arrow_table(questions, "ask_many")
        with self._working(), named("ask_many"):
            rows = read_queries(self.trained_run, table, self._columns)
            opened = self._across(rows.encoded.snapshot)
            return frame(prediction_table(opened, rows, answer_queries(opened, rows.encoded, k)))

    def like(self, name: Name, *, at: At = None, k: int = 10) -> pd.DataFrame:
        """The entities that are most like one, by the cosine of their search vectors.

        Args:
            name: The entity.
            at: The last time whose facts count; None: that of the last fact.
            k: Entities, at least 1.

        Returns:
            `entity_id`, `entity`, `cosine`, and when each was `last_seen` (missing: never), best first.

        Raises:
            DataError: The name is unknown; the message has the closest ones.
            ConfigError: `at` is no timestamp of the graph, or before the first fact.

        Example:
            >>> run.like("Derek Jeter", at="2014", k=5)
        """
        run, k = self.trained_run, positive(k)
        find_name(run, run.entities, name)
        with self._working():
            last = self._last_of(at)
            return frame(nearest_entities(self._moments.before(last + 1), str(name), run.axis.label(last), k))

    def explain(
        self,
        subject: Name | None = None,
        relation: Name | None = None,
        object: Name | None = None,
        *,
        answer: Name | None = None,
        at: At = None,
        k: int = 5,
    ) -> "Explanation":
        """Why an answer has its score: the share of each part of the model, and the past facts that carry it.

        Args:
            subject: The known subject, as in `ask`.
            relation: The relation.
            object: The known object, as in `ask`.
            answer: The answer to explain; None: the best one.
            at: The time of the question; None: the snapshot after the last fact.
            k: Reasons, at least 1.

        Returns:
            The score, its `parts`, which sum to it, and the `reasons`, best first.

        Raises:
            DataError: A name is unknown, or the arguments do not make a question.
            ConfigError: `at` is no timestamp of the graph, or before the first fact.

        Example:
            >>> print(run.explain("Mike Trout", "plays_center_field_for", at="2018").summary())
        """
        from gam_kg.inference.explain import explain

        run, k = self.trained_run, positive(k)
        query = encode_query(run, subject, relation_of(relation), object, plain_time(at))
        given = None if answer is None else np.array([find_name(run, run.entities, answer)])
        with self._working():
            opened = self._moments.before(int(query.snapshot[0]))
            entity = answer_queries(opened, query, 1).entity[:, 0] if given is None else given
            (found,) = explain(opened, query, entity, top=k)
        return found

    @overload
    def embeddings(
        self, *, at: At = ..., kind: Kind = ..., vector: Vector = ..., form: Literal["pandas"] = ...
    ) -> pd.DataFrame: ...
    @overload
    def embeddings(
        self, *, at: At = ..., kind: Kind = ..., vector: Vector = ..., form: Literal["arrow"]
    ) -> pa.Table: ...
    @overload
    def embeddings(
        self, *, at: At = ..., kind: Kind = ..., vector: Vector = ..., form: Literal["torch"]
    ) -> torch.Tensor: ...

    def embeddings(
        self, *, at: At = None, kind: Kind = "entity", vector: Vector = "embedding", form: str = "pandas"
    ) -> pd.DataFrame | pa.Table | torch.Tensor:
        """The vectors of all entities after the facts of a time, or of all relations.

        Args:
            at: The last time whose facts count; None: that of the last fact. Relations do not change over time.
            kind: "entity", or "relation": all relations, then their inverses.
            vector: "embedding", or for entities "search_vector", which `like` compares.
            form: "pandas", "arrow" or "torch".

        Returns:
            "pandas": float32 columns 0, 1, ..., with the names as the index. "arrow": the table that `gam-kg embed`
            writes, with both vectors. "torch": float32 (num_rows, dim), by id.

        Raises:
            ConfigError: `at` is no timestamp of the graph, or before the first fact; or another value is not allowed.

        Example:
            >>> vectors = run.embeddings(at="2014")
            >>> vectors.loc["Derek Jeter"]
        """
        one_of(kind, "kind", "entity", "relation")
        one_of(form, "form", "pandas", "arrow", "torch")
        one_of(vector, "vector", *(("embedding", "search_vector") if kind == "entity" else ("embedding",)))
        with self._working():
            last = self._last_of(at)
            table = embedding_table(self._moments.before(last + 1), last, kind)
        if form == "arrow":
            return table
        vectors = vectors_of(table, vector)
        if form == "torch":
            return torch.from_numpy(vectors.copy())
        return pd.DataFrame(vectors, index=pd.Index(frame(table.select([kind]))[kind]))

    def evaluate(self, facts: pd.DataFrame) -> FactRanks:
        """Rank facts that are given, each as two queries among all entities, by the protocol of `gam-kg evaluate`.

        Of each fact the run sees its own facts before that time, and no fact of the table. Other true answers of the
        same query and time, of the run and of the table, do not count against it.

        Args:
            facts: `subject`, `relation`, `object` and `timestamp`, or the names that the columns of the facts had.

        Returns:
            `metrics` and a table of `ranks`; a row that cannot be ranked, as one with an unknown name, has its status
            and reason there. Columns of yours that have a name of ours there get `query_` before it.

        Raises:
            DataError: A column is missing, of a wrong type or there twice.
            EvaluationError: A score is NaN or infinite.

        Example:
            >>> found = run.evaluate(pd.read_parquet("next_year.parquet"))
            >>> found.metrics["both"]["mrr"]
        """
        table = arrow_table(facts, "evaluate")
        with self._working(), named("evaluate"):
            found = FactTable.of(self.trained_run, table, self._columns)
            return rank_table(self._across(found.facts[:, 3]), found)
