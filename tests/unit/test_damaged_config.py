"""Damaged YAML gives a configuration or an error that names the file.

GAM_KG_FUZZ_SEED and GAM_KG_FUZZ_CASES choose other damage and more of it.
"""

import os
from pathlib import Path

import pytest
from mutations import mutated

from gam_kg.config import load_config
from gam_kg.errors import ConfigError

SEED = os.environ.get("GAM_KG_FUZZ_SEED", "0")
CASES = int(os.environ.get("GAM_KG_FUZZ_CASES", "150"))
TEXT = (Path(__file__).parents[2] / "configs" / "base.yaml").read_bytes()


def refusal(file):
    try:
        load_config(file)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("part", range(10))
def test_a_damaged_configuration_is_read_or_refused(tmp_path, part):
    file = tmp_path / "damaged.yaml"
    for case in range(part, CASES, 10):
        file.write_bytes(mutated(TEXT, f"{SEED}-{case}"))
        found = refusal(file)
        assert found is None or str(file) in found
