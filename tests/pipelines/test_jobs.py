"""Jobs whose cluster breaks, is silent or does not end them, as a client that is none of Ray's shows it."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from gam_kg.errors import ConfigError, ConnectionLostError
from pipelines.jobs import follow, stop


class Client:
    """A cluster whose connection breaks after each of the given pieces of a log."""

    def __init__(self, log, pieces, **details):
        self.log, self.pieces, self.details = log, list(pieces), details

    async def tail_job_logs(self, submission_id):
        yield self.log[: self.pieces.pop(0)]
        if self.pieces:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, submission_id):
        status = SimpleNamespace(is_terminal=lambda: True)
        return SimpleNamespace(**{"status": status, "message": None, "driver_exit_code": None} | self.details)


class Ended(str):
    """A status as Ray has it: a string that knows more."""

    def is_terminal(self):
        return True


def test_a_lost_connection_is_made_again_and_nothing_is_shown_twice(monkeypatch, capsys):
    monkeypatch.setattr("pipelines.jobs._SECONDS_BETWEEN_TRIES", 0)
    assert follow(Client("one\ntwo\nthree\n", [4, 2, 9, 14], status=Ended("SUCCEEDED")), "job", "advice") == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_connection_lost_for_good_has_a_status_of_its_own(monkeypatch):
    monkeypatch.setattr("pipelines.jobs._SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr("pipelines.jobs._SECONDS_TO_LOSE", 0.1)
    message = r"lost the connection to job job, which may go on \(WebSocket.*\)\nadvice"
    with pytest.raises(ConnectionLostError, match=message) as error:
        follow(Client("one", [3] + [0] * 10_000), "job", "advice")
    assert error.value.status not in (0, 1, 2, 3, 130)


class SilentClient(Client):
    """A cluster that shows a log and then says nothing more, as behind a network that has gone."""

    def __init__(self, log, answers):
        super().__init__(log, [len(log)])
        self.answers = list(answers)

    async def tail_job_logs(self, submission_id):
        yield self.log
        await asyncio.Event().wait()

    def get_job_info(self, submission_id):
        if not self.answers:
            time.sleep(60)
        ended = self.answers.pop(0)
        return SimpleNamespace(status=Ended("SUCCEEDED") if ended else SimpleNamespace(is_terminal=lambda: False))


def test_a_cluster_that_says_nothing_more_is_lost_and_a_quiet_job_is_not(monkeypatch, capsys):
    monkeypatch.setattr("pipelines.jobs._SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr("pipelines.jobs._SECONDS_TO_LOSE", -1)
    monkeypatch.setattr("pipelines.jobs._SECONDS_OF_SILENCE", 0.05)
    monkeypatch.setattr("pipelines.jobs._SECONDS_TO_ANSWER", 0.2)
    with pytest.raises(ConnectionLostError, match="no answer within"):
        follow(SilentClient("one", [False, False]), "job", "advice")
    with pytest.raises(ConnectionLostError, match="the log does not end"):
        follow(SilentClient("one", [False, True]), "job", "advice")
    assert capsys.readouterr().out == "oneone"


def test_the_exit_status_follows_the_job(capsys):
    assert follow(Client("", [0], status=Ended("STOPPED")), "job", "advice") == 3
    assert "was stopped" in capsys.readouterr().err
    broken = Client("", [0], status=Ended("FAILED"), message="Failed to set up the runtime environment [a]")
    assert follow(broken, "job", "advice") == 1
    assert "failed: Failed to set up the runtime environment [a]" in capsys.readouterr().err


def test_a_job_that_does_not_end_is_given_up(monkeypatch):
    class Stubborn:
        def get_job_info(self, submission_id):
            return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: False, __str__=lambda: "RUNNING"))

        def stop_job(self, submission_id):
            return True

    monkeypatch.setattr("pipelines.jobs._SECONDS_TO_STOP", 0.05)
    monkeypatch.setattr("pipelines.jobs.connect", lambda address: Stubborn())
    with pytest.raises(ConfigError, match="job name is still"):
        stop("http://127.0.0.1:1", "name")
