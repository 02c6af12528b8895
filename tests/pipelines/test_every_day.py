"""The texts of docs/every_day.md are what cron, Kubernetes, Airflow and gam-kg itself take."""

import ast
import re
import shlex
from pathlib import PurePosixPath

import pytest
from manifests import CLUSTER, ROOT, load_schemas, mistakes, parse_command, read_manifests
from typer.main import get_command

from pipelines.cli import app
from pipelines.metrics import MEANINGS

TEXT = (ROOT / "docs" / "every_day.md").read_text()
FIELD = r"(\*|\d+(-\d+)?(,\d+(-\d+)?)*)(/\d+)?"
SCHEDULE = re.compile(" ".join([FIELD] * 5))


def block(language):
    """The one fenced block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return found


def cron_command():
    """The command of the crontab's line; cron takes % for a line end, unless it is escaped."""
    schedule, command = re.fullmatch(r"((?:\S+ ){5})(.*)\n", block("cron")).groups()
    assert SCHEDULE.fullmatch(schedule.strip())
    assert "%" not in command.replace("\\%", "")
    program, _, arguments = command.replace("\\%", "%").partition(" >> ")[0].partition(" ")
    return f"{PurePosixPath(program).name} {arguments}"


def airflow_calls():
    """Keyword arguments of the calls in the Airflow file that are literals, by the name of what is called."""
    calls = [node for node in ast.walk(ast.parse(block("python"))) if isinstance(node, ast.Call)]
    return {
        node.func.id: {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
        for node in calls
        if isinstance(node.func, ast.Name)
    }


def test_the_airflow_file_is_python_with_a_schedule():
    calls = airflow_calls()
    compile(block("python"), "dag.py", "exec")
    assert SCHEDULE.fullmatch(calls["DAG"]["schedule"])
    assert calls["DAG"]["max_active_runs"] == 1


def test_the_cron_job_is_that_of_the_cluster_files():
    assert read_manifests(block("yaml")) == read_manifests((CLUSTER / "cronjob.yaml").read_text())
    (manifest,) = read_manifests(block("yaml"))
    assert mistakes(manifest, load_schemas()) == []
    assert SCHEDULE.fullmatch(manifest["spec"]["schedule"])


@pytest.mark.parametrize("where", ["cron", "airflow"])
def test_what_is_scheduled_is_an_update_that_the_command_line_takes(where):
    command = cron_command() if where == "cron" else airflow_calls()["BashOperator"]["bash_command"]
    verb, parameters = parse_command(command.replace("{{ macros.ds_add(ds, -1) }}", "2026-01-31"))
    assert (verb, parameters["run"]) == ("update", "/srv/kg/runs/demo")


def test_the_cron_line_is_five_fields_and_a_gam_kg_command():
    assert shlex.split(cron_command())[:2] == ["gam-kg", "update"]


def test_the_commands_for_a_cluster_are_what_the_command_line_takes():
    lines = block("sh").splitlines()
    assert len(lines) == 4
    for line in lines:
        program, *arguments = shlex.split(line)
        command = get_command(app)
        assert program == "gam-kg"
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        assert command.make_context("gam-kg", arguments).params["address"] == "http://127.0.0.1:8265"


def test_every_gauge_is_in_the_table():
    assert {f"ray_gam_kg_{name}" for name in MEANINGS} == set(re.findall(r"^\| `(ray_gam_kg_\w+)`", TEXT, re.MULTILINE))
