"""One finished run for all tests of the workflow, which must not change it."""

import pytest
from flows import SMALL, write_facts

from gam_kg.config import load_config
from pipelines.run import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory, local_ray):
    """The configuration of the run, and its facts."""
    folder = tmp_path_factory.mktemp("flow")
    facts = write_facts(folder / "facts.parquet")
    config = load_config(None, [f"data.facts={folder / 'facts.parquet'}", f"run_dir={folder / 'run'}", *SMALL])
    run(config)
    return config, facts
