"""The workflow: one file a stage, and the only place that imports Ray.

In a checkout this is `pipelines`, for its tests and `python -m pipelines`; installed, which is where `gam-kg` finds it,
it is `gam_kg_pipelines`. Its modules import each other relatively: a process, and the Ray workers that it starts, have
it under one name only.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray does not even import without a home folder, which a user id that the system does not know may lack.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = "/"
