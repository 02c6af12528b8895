"""Facts of other formats are imported before they are prepared."""

import logging

from gam_kg.config import Config
from gam_kg.errors import ConfigError
from gam_kg.importers.dispatch import import_facts, import_state
from gam_kg.text import is_uri, user_path

logger = logging.getLogger("gam_kg")


def import_if_missing(config: Config, *, force: bool = False) -> None:
    """Import `data.import_from` to `data.facts` where that is not there yet, or is not of what the source has now.

    Raises:
        ConfigError: `data.facts` is not set, a URI, or a file that is no import.
        DataError: The source cannot be imported.
    """
    data = config.data
    if data.import_from is None:
        return
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
        return
    if state == "current" and not force:
        return
    summary = import_facts(data.import_from, facts, data)
    for line in summary.lines():
        logger.info(line)
