"""The key of a checkpoint, by which it is known whether one that is there was made with the same settings."""

from runs import UNUSUAL, changed

from gam_kg.artifacts import Manifest
from gam_kg.config import Config
from gam_kg.run_config import checkpoint_settings

GRAPH = Manifest("graph", "key", {}, {})
HOW_NOT_WHAT = {
    "train.num_workers",
    "train.use_gpu",
    "train.batch_workers",
    "train.cuda_graphs",
    "train.read_ahead",
    "train.threads",
    "train.max_failures",
    "train.loggers",
    "train.checkpoint_steps",
    "train.max_logits",
}
"""The settings that change how training is done, but not which numbers come out."""


def key_of(config: Config, graph: Manifest = GRAPH) -> str:
    return Manifest.of("checkpoint", {"graph": graph.id}, checkpoint_settings(config)).key


def test_every_setting_that_changes_the_numbers_changes_the_key_of_the_checkpoint():
    default = Config()
    same = {name for name, value in UNUSUAL.items() if key_of(changed(default, {name: value})) == key_of(default)}
    assert same == HOW_NOT_WHAT


def test_another_graph_changes_the_key_of_the_checkpoint():
    assert key_of(Config()) != key_of(Config(), Manifest("graph", "another key", {}, {}))


def test_the_name_and_the_folder_of_a_run_do_not_change_the_key_of_the_checkpoint():
    assert key_of(Config()) == key_of(Config(name="another", run_dir="elsewhere"))
