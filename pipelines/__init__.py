"""The workflow: one file a stage, and the only place that imports Ray."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray does not even import without a home folder, which a user id that the system does not know may lack.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = "/"
