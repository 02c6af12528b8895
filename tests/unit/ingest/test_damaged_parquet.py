"""Damaged files of facts give the right facts or an error, in limited time and memory; see `tests/damaged_parquet.py`.

GAM_KG_FUZZ_SEED and GAM_KG_FUZZ_CASES choose other damage and more of it.
"""

import json
import os
import subprocess
import sys
from collections import Counter

import damaged_parquet
import pytest
from damaged_parquet import WRITERS

SEED = os.environ.get("GAM_KG_FUZZ_SEED", "0")
CASES = -(-int(os.environ.get("GAM_KG_FUZZ_CASES", "150")) // len(WRITERS))
SECONDS_A_CASE = 5  # bounds a hang; 0.02 are usual


@pytest.mark.parametrize("writer", WRITERS)
def test_a_damaged_file_is_read_right_or_refused(writer):
    command = [sys.executable, damaged_parquet.__file__, writer, SEED, "0", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + SECONDS_A_CASE * CASES, check=False)
    outcomes = dict(map(json.loads, done.stdout.splitlines()))
    assert len(outcomes) == CASES, f"seed {SEED}, case {len(outcomes)} ended the process:\n{done.stderr[-2000:]}"
    allowed = {"right", "refused"}
    if "write_page_checksum" not in WRITERS[writer]:
        allowed |= {"quarantined", "changed"}  # the format cannot tell: a value became another one that may be there
    wrong = {case: outcome for case, outcome in outcomes.items() if outcome not in allowed}
    assert not wrong, f"seed {SEED}: {wrong}"
    assert Counter(outcomes.values())["refused"] > CASES / 2
