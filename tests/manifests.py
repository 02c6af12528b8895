"""The manifests of configs/cluster/ and of the documentation, and the published schemas that they must follow."""

import json
import shlex
from pathlib import Path

import jsonschema
import yaml
from typer.main import get_command

from pipelines.cli import app

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "configs" / "cluster"
SCHEMAS = ROOT / "tests" / "pipelines"
VERBS = get_command(app).commands


def load_schemas():
    kubernetes = json.loads((SCHEMAS / "kubernetes.schema.json").read_text())["$defs"]
    return kubernetes | yaml.safe_load((SCHEMAS / "ray.schema.yaml").read_text())["$defs"]


def mistakes(manifest, definitions):
    """What the schema of the manifest's kind does not allow, as PATH: MESSAGE."""
    schema = {"$ref": f"#/$defs/{manifest['kind']}", "$defs": definitions}
    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in found]


def read_manifests(text):
    return [one for one in yaml.safe_load_all(text) if one]


def job_spec(manifest):
    """The spec of a RayJob, also of one in a RayCronJob."""
    return manifest["spec"].get("jobTemplate", manifest["spec"])


def pods(manifest):
    """The pod specs of a RayJob, RayCronJob or CronJob."""
    if manifest["kind"] == "CronJob":
        return [manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
    cluster = job_spec(manifest)["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def parse_command(text):
    """(verb, parameters) of a `gam-kg` command line, whose verb, flags and arguments the command line must have."""
    program, verb, *arguments = shlex.split(text.replace("$(date -u -d yesterday +%F)", "2026-01-31"))
    assert program == "gam-kg"
    assert verb in VERBS, f"gam-kg {verb}: no such verb"
    return verb, VERBS[verb].make_context(verb, arguments).params
