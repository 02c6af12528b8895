"""Facts of other formats are imported before they are prepared."""

import logging
from pathlib import Path

from gam_kg.config import Config
from gam_kg.errors import ConfigError
from gam_kg.importers.dispatch import import_facts, import_state
from gam_kg.text import is_uri, user_path

logger = logging.getLogger("gam_kg")


def import_if_missing(config: Config) -> None:
    """Import `data.import_from` to `data.facts` where that is not there yet, or is not of what the source has now.

    Raises:
        ConfigError: See `facts_to_import`.
        DataError: The source cannot be imported.
    """
    if facts := facts_to_import(config):
        import_to(facts, config)


def facts_to_import(config: Config, *, force: bool = False) -> Path | None:
    """The file to which `data.import_from` is to be imported; None where there is nothing to import.

    Args:
        config: The run's configuration.
        force: Import also what is up to date.

    Raises:
        ConfigError: `data.facts` is not set, a URI, or a file that is no import.
    """
    data = config.data
    if data.import_from is None:
        return None
    if data.facts is None or is_uri(data.facts):
        raise ConfigError(f"data.facts={data.facts}: data.import_from needs a local file to write the facts to")
    facts = user_path(data.facts, "data.facts")
    state = import_state(facts, data.import_from, data)
    if state == "foreign":
        raise ConfigError(
            f"data.facts={data.facts} exists and was not imported from anything; an import of {data.import_from} would "
            "replace it: name another file, or drop data.import_from"
        )
    if state == "gone":
        logger.warning("warning: %s is gone; %s, imported from it, is used", data.import_from, data.facts)
        return None
    return None if state == "current" and not force else facts


def import_to(facts: Path, config: Config) -> None:
    """Import `data.import_from` to a file.

    Raises:
        DataError: The source cannot be imported.
    """
    assert config.data.import_from is not None
    for line in import_facts(config.data.import_from, facts, config.data).lines():
        logger.info(line)
