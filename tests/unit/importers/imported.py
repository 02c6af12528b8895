"""What tests of importers share: contents of files, and checks of what is written or refused."""

import pyarrow.parquet as pq
import pytest

from gam_kg.errors import DataError
from gam_kg.importers.dispatch import import_facts

ENTITIES = "China\t0\nIran\t1\nCitizen (Nigeria)\t2\n"
RELATIONS = "Make statement\t0\nConsult\t1\n"
HEADER = "subject,relation,object,timestamp\n"


def imported(source, out, data=None, prefix="data."):
    return import_facts(str(source), out, data, prefix=prefix)


def rows(path):
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def refused(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    assert not arguments[1].exists()
    assert not list(arguments[1].parent.glob(".*"))
    return str(caught.value)
