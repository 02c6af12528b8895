"""The section `index` of a configuration: which index over the vectors is built, and how good it must be."""

from typing import Literal

from pydantic import Field

from gam_kg.config_file import Section
from gam_kg.config_types import Count, Positive, Share


class IndexConfig(Section):
    vector: Literal["search_vector", "embedding"] = Field(
        "search_vector", description="column of embeddings/ that is indexed; inner products compare its vectors"
    )
    kind: Literal["auto", "flat", "ivf_pq", "hnsw"] = Field(
        "auto",
        description="flat: exact; ivf_pq: compressed vectors in lists; hnsw: a graph of neighbours, largest and "
        "slowest to build; auto: flat up to 50,000 vectors, else ivf_pq",
    )
    min_recall: Share = Field(0.95, description="least share of the 10 nearest entities that an index must find")
    sample: int = Field(
        1000,
        ge=2,
        le=100_000,
        description="entities: on half of them recall is measured, on the others searches are set",
    )
    lists: Positive | None = Field(
        None, description="ivf_pq: lists of vectors; null: twice the root of their number. 50 vectors a list at least"
    )
    probes: Positive | None = Field(
        None, description="ivf_pq: lists that a search reads; null: the fewest that find min_recall, of 1, 2, 4, ..."
    )
    subvectors: Positive | None = Field(
        None, description="ivf_pq: parts of a vector, 4 bits each; must divide model.dim; null: of 2 numbers or more"
    )
    rerank: Count | None = Field(
        None,
        description="ivf_pq: vectors for each answer that are compared in float16; null: the fewest that find "
        "min_recall, of 4, 16, ..., 1024; 0: stores none in float16",
    )
    neighbours: int = Field(32, ge=2, le=256, description="hnsw: neighbours of a vector")
    ef_construction: int = Field(80, ge=1, le=10_000, description="hnsw: candidates for neighbours while it is built")
    ef_search: Positive | None = Field(
        None, description="hnsw: candidates in a search; null: the fewest that find min_recall, of 16, 32, ..., 1024"
    )
