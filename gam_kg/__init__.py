"""Temporal knowledge-graph embeddings: the library, which never imports Ray."""

__version__ = "0.1.0"
