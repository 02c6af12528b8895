"""configs/cluster/ and the image: what they are, and that they go with each other and with this version of gam-kg."""

import copy
import fnmatch
import re
import shlex
import shutil
import subprocess
import tomllib

import pytest
import yaml
from manifests import CLUSTER, ROOT, job_spec, load_schemas, mistakes, parse_command, pods, read_manifests

from gam_kg import __version__ as VERSION
from gam_kg.config import load_config
from pipelines.submit import require_shared_paths

SCHEMAS = load_schemas()
FILES = sorted(path.name for path in CLUSTER.glob("*.yaml") if path.name != "cluster.yaml")
MANIFESTS = {name: read_manifests((CLUSTER / name).read_text()) for name in FILES}
RAY_JOBS = {name: one[0] for name, one in MANIFESTS.items() if one[0]["kind"] in ("RayJob", "RayCronJob")}
JOBS = RAY_JOBS | {"cronjob.yaml": MANIFESTS["cronjob.yaml"][0]}
CLAIM, CONFIG = MANIFESTS["shared.yaml"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", FILES)
def test_manifests_follow_the_published_schemas(name):
    for manifest in MANIFESTS[name]:
        assert mistakes(manifest, SCHEMAS) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("spec", "entryPoint"), "gam-kg run", "'entryPoint' was unexpected"),
        (("spec", "entrypointNumCpus"), "4", "'4' is not of type 'number'"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "none", "'none' is not one of"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers"), None, "is not of type 'array'"),
    ],
)
def test_the_schemas_find_mistakes(path, value, expected):
    manifest = copy.deepcopy(MANIFESTS["rayjob.yaml"][0])
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (found,) = mistakes(manifest, SCHEMAS)
    assert expected in found


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayjob-cpu.yaml"])
def test_a_rayjob_runs_the_config_of_the_config_map_and_its_workers_have_room(name, tmp_path):
    spec = job_spec(RAY_JOBS[name])
    verb, parameters = parse_command(spec["entrypoint"])
    assert (verb, parameters["config"]) == ("run", "/config/run.yaml")
    (tmp_path / "run.yaml").write_text(CONFIG["data"]["run.yaml"])
    config = load_config(tmp_path / "run.yaml", parameters["overrides"])
    require_shared_paths(config)
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    workers, room = config.train.most_workers, group["replicas"] * int(limits["cpu"])
    assert spec["entrypointNumCpus"] + workers * config.train.threads <= room
    gpus = (workers + 1) * config.train.use_gpu
    assert spec.get("entrypointNumGpus", 0) == config.train.use_gpu
    assert group["replicas"] * int(limits.get("nvidia.com/gpu", 0)) == gpus
    assert yaml.safe_load(spec["runtimeEnvYAML"]).keys() == {"env_vars"}


@pytest.mark.parametrize("name", ["cronjob.yaml", "raycronjob.yaml"])
def test_what_is_scheduled_updates_the_run_of_the_config_map(name):
    manifest = JOBS[name]
    command = (
        pods(manifest)[0]["containers"][0]["args"][0] if name == "cronjob.yaml" else job_spec(manifest)["entrypoint"]
    )
    verb, parameters = parse_command(command)
    assert (verb, parameters["run"]) == ("update", yaml.safe_load(CONFIG["data"]["run.yaml"])["run_dir"])


@pytest.mark.parametrize("name", RAY_JOBS)
def test_the_cluster_asks_for_a_token_and_its_head_for_nothing_that_it_does_not_use(name):
    cluster = job_spec(RAY_JOBS[name])["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    (container,) = head["template"]["spec"]["containers"]
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("name", JOBS)
def test_pods_are_of_one_image_have_their_volumes_and_take_credentials_from_a_secret_alone(name):
    image = f"gam-kg:{VERSION}-gpu" if name == "rayjob.yaml" else f"gam-kg:{VERSION}"
    assert f"docker build -t {image} " in DOCKERFILE
    uid = int(re.search(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)[1])
    for pod in pods(JOBS[name]):
        (container,) = pod["containers"]
        assert container["image"] == image
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, uid)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        assert "env" not in container
        if "shared" in volumes:
            assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
            assert container["envFrom"] == [{"secretRef": {"name": "gam-kg-s3", "optional": True}}]
        if "config" in volumes:
            assert volumes["config"]["configMap"]["name"] == CONFIG["metadata"]["name"]
    assert "ReadWriteMany" in CLAIM["spec"]["accessModes"]
    assert "create secret generic gam-kg-s3 " in (CLUSTER / "shared.yaml").read_text()


def instructions():
    """(instruction, arguments) of the Dockerfile, in order."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def ignored(path):
    """Whether .dockerignore leaves a path of the checkout out of the image."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parts = path.split("/")
    for pattern in patterns:
        anywhere, name = pattern.startswith("**/"), pattern.removeprefix("**/").rstrip("/")
        if any(fnmatch.fnmatch(part, name) for part in (parts if anywhere else parts[:1])):
            return True
    return False


def test_the_image_is_of_the_constrained_versions_and_a_user_without_rights():
    found = instructions()
    assert {name for name, _ in found} <= {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert found[0] == ("FROM", f"python:{python}-slim")
    installs = [text for name, text in found if name == "RUN" and "pip install" in text]
    assert len(installs) == 2
    assert all("-c constraints.txt" in text for text in installs)
    assert ("ARG", "TORCH_INDEX=https://download.pytorch.org/whl/cpu") in found
    assert installs[0].endswith('--extra-index-url "$TORCH_INDEX" torch')
    extras = re.search(r"\.\[(.*)\]", installs[1])[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= project["optional-dependencies"].keys()
    assert "cluster" in extras
    users = [text for name, text in found if name == "USER"]
    assert users[-1].isdigit()
    assert int(users[-1]) > 0
    last_run = max(index for index, (name, _) in enumerate(found) if name == "RUN")
    assert found.index(("USER", users[-1])) > last_run


def test_every_source_that_is_copied_exists_and_is_not_ignored():
    for name, text in instructions():
        if name == "COPY":
            for source in shlex.split(text)[:-1]:
                assert (ROOT / source).exists()
                assert not ignored(source)
    needed = ["pyproject.toml", "README.md", "constraints.txt", "gam_kg/config.py", "pipelines/cli.py"]
    assert [path for path in [*needed, "configs/base.yaml", "configs/cluster/rayjob.yaml"] if ignored(path)] == []
    modules = [str(path.relative_to(ROOT)) for name in ("gam_kg", "pipelines") for path in (ROOT / name).rglob("*.py")]
    assert [path for path in modules if ignored(path)] == []


def test_what_is_secret_large_or_not_needed_stays_out_of_the_image():
    for line in (ROOT / ".gitignore").read_text().splitlines():
        assert ignored(line.rstrip("/").replace("*", "gam_kg")), f".gitignore has {line}"
    for path in (
        ".git/config",
        "tests/conftest.py",
        "s3.env",
        "configs/.env",
        "auth_token",
        "gam_kg/__pycache__/a.pyc",
    ):
        assert ignored(path), path


@pytest.mark.slow
def test_the_image_can_be_built():
    builder = next((name for name in ("docker", "podman", "buildah") if shutil.which(name)), None)
    if builder is None or subprocess.run([builder, "info"], capture_output=True).returncode:
        pytest.skip("no docker, podman or buildah that works here")
    subprocess.run([builder, "build", "-t", f"gam-kg:{VERSION}", str(ROOT)], check=True)
    shown = subprocess.run([builder, "run", "--rm", f"gam-kg:{VERSION}"], capture_output=True, text=True, check=True)
    assert "Temporal knowledge-graph embeddings on Ray" in shown.stdout


def test_the_launched_cluster_asks_for_a_token_and_keeps_its_dashboard_on_loopback():
    cluster = yaml.safe_load((CLUSTER / "cluster.yaml").read_text())
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in start for start in starts if "ray start" in start)
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(cluster["head_start_ray_commands"][-1].split())


def test_the_job_of_the_launched_cluster_has_room_on_its_workers():
    text = (CLUSTER / "cluster.yaml").read_text()
    (command,) = re.findall(r"(gam-kg submit (?:.*\\\n)+.*)\n", text)
    _, parameters = parse_command(command.replace("\\\n#", " "))
    config = load_config(ROOT / parameters["config"], parameters["overrides"])
    require_shared_paths(config)
    worker = yaml.safe_load(text)["available_node_types"]["gpu_worker"]
    assert parameters["gpus"] + config.train.most_workers == worker["min_workers"] * worker["resources"]["GPU"]
    assert parameters["cpus"] <= worker["resources"]["CPU"]
