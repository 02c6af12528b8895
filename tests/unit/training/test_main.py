"""`python -m gam_kg.training` ends with a status and a line, as `gam-kg` does."""

import errno
import runpy
import sys

import pytest


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(errno.ENOSPC, "No space left on device", "/a\x1b"), 1, "error: /a\\x1b: No space left on device\n"),
    ],
)
def test_an_interrupt_and_a_full_disk_are_no_traceback(monkeypatch, capsys, error, status, shown):
    def fail(*_):
        raise error

    monkeypatch.setattr("gam_kg.config.load_config", fail)
    monkeypatch.setattr(sys, "argv", ["gam_kg.training", "my.yaml"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gam_kg.training", run_name="__main__")
    assert ended.value.code == status
    assert capsys.readouterr().err == shown
