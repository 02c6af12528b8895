"""What the neighbours of entities share, by their embeddings, and centred and whitened ones: which are best for search.

    python tests/performance/neighbours.py RUN [--shrinkage 1 0.98 0.9 0]

RUN has `graph/` and `embeddings/`. Of each seen entity the 10 nearest by cosine are compared with it: the mean Jaccard
overlap of their relations (both directions apart), the share with the same most frequent relation, and the overlap of
their facts (a relation and who is at the other end); beside 10 entities drawn at random. The means of the kinds of
entities (most frequent relation) are averaged too, since a few kinds have most entities. The effective rank is exp of
the entropy of the shares of the variance. Printed is a line of JSON each.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gam_kg.inference.embed import read_vectors
from gam_kg.inference.similarity import SHRINKAGE, SearchSpace, moments_of
from gam_kg.versions import latest

NEAREST = 10
Sets = list[set[Any]]


def overlap(sets: Sets, entities: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean Jaccard overlap of each entity's set with those of some others, (num_entities,)."""

    def jaccard(one: set[Any], other: set[Any]) -> float:
        return len(one & other) / max(1, len(one | other))

    pairs = zip(entities.tolist(), others.tolist(), strict=True)
    return np.array([np.mean([jaccard(sets[entity], sets[other]) for other in row]) for entity, row in pairs])


def nearest(vectors: torch.Tensor) -> np.ndarray:
    """Rows of the nearest vectors of length 1 of each, itself left out, (num_rows, NEAREST)."""
    found = []
    for rows in torch.arange(len(vectors)).split(1024):
        cosine = vectors[rows] @ vectors.T
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        found.append(torch.topk(cosine, NEAREST).indices)
    return torch.cat(found).numpy()


def effective_rank(vectors: torch.Tensor) -> float:
    """See the top of this file."""
    variance = torch.linalg.eigvalsh(torch.cov(vectors.double().T)).clamp(min=1e-12)
    share = variance / variance.sum()
    return float(torch.exp(-(share * share.log()).sum()))


def main() -> None:
    """Measure every kind of vectors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--shrinkage", type=float, nargs="*", default=[1.0, SHRINKAGE, 0.9, 0.0])
    arguments = parser.parse_args()
    file = latest(arguments.run / "embeddings") / "entities.parquet"
    last = pq.read_table(file)["last_seen_snapshot"].fill_null(-1).to_numpy()
    seen = np.flatnonzero(last >= 0)
    facts = pq.read_table(arguments.run / "graph" / "anchored", columns=["anchor", "relation", "other", "snapshot"])
    facts = facts.filter(pa.compute.less_equal(facts["snapshot"], int(last.max()))).to_pandas()
    count = facts.groupby(["anchor", "relation"]).size().reset_index(name="count").sort_values("count")
    kind = count.groupby("anchor")["relation"].last().reindex(range(len(last)), fill_value=-1).to_numpy()
    relations: Sets = [set() for _ in last]
    shared: Sets = [set() for _ in last]
    for anchor, relation, other in zip(facts["anchor"], facts["relation"], facts["other"], strict=True):
        relations[anchor].add(relation)
        shared[anchor].add((relation, other))

    def show(name: str, others: np.ndarray, **more: float) -> None:
        found = {"relations": overlap(relations, seen, others), "facts": overlap(shared, seen, others)}
        found["same_kind"] = (kind[others] == kind[seen][:, None]).mean(1)
        for of, values in dict(found).items():
            found[f"{of}_by_kind"] = [values[kind[seen] == one].mean() for one in np.unique(kind[seen])]
        means = {of: round(float(np.mean(values)), 4) for of, values in found.items()}
        sys.stdout.write(json.dumps({"vectors": name, **means, **more}) + "\n")

    show("random", np.random.default_rng(0).choice(seen, (len(seen), NEAREST)))
    raw = torch.from_numpy(read_vectors(file)[seen])
    spaces = {f"shrinkage {one}": SearchSpace.of(moments_of(raw), one) for one in arguments.shrinkage}
    for name, vectors in {"raw": raw, **{name: space(raw) for name, space in spaces.items()}}.items():
        others = nearest(vectors)
        near = float((vectors[:, None] * vectors[others]).sum(2).median())
        show(name, seen[others], effective_rank=round(effective_rank(vectors), 1), cosine=round(near, 3))


if __name__ == "__main__":
    main()
