"""A run at several moments: what each has in memory stays, so that questions may jump from one time to another."""

from collections import OrderedDict

import numpy as np

from gam_kg.inference.trained_run import TrainedRun

MOST_MOMENTS = 4


class Moments:
    """The moments that were used last, each a `TrainedRun` with a history and a memory of its own.

    Args:
        run: The run, in a world of one; it is not changed.
        most: Moments in memory at once, at least 1.
    """

    def __init__(self, run: TrainedRun, most: int = MOST_MOMENTS) -> None:
        self._run, self._most = run, most
        self._times = np.array(run.graph.times)
        self._at = OrderedDict[
            int, TrainedRun
        ]()  # by the number of snapshots that were observed; the last used is last

    def before(self, snapshot: int) -> TrainedRun:
        """The run, with all facts before a snapshot observed; it must not be taken to another time."""
        return self.between(snapshot, snapshot)

    def between(self, first: int, last: int) -> TrainedRun:
        """The run, with all facts before a snapshot observed, which may be taken on until before a later one."""
        seen = int(np.searchsorted(self._times, first))
        if seen not in self._at:
            self._at[seen] = self._made(seen, first)
        self._at.move_to_end(seen)
        while len(self._at) > self._most:
            self._at.popitem(last=False)
        found = self._at[seen]
        return found if seen == np.searchsorted(self._times, last) else found.copy()

    def _made(self, seen: int, snapshot: int) -> TrainedRun:
        earlier = max((one for one in self._at if one < seen), default=None)
        nearest = next(iter(self._at.values()), self._run) if earlier is None else self._at[earlier]
        run = nearest.copy()
        stored = next((state.after for state in run.states if state.after < snapshot), None)
        if stored is not None and (earlier is None or stored >= self._times[earlier]):
            run.restored_scorer(snapshot)  # it is nearer than what was copied
        run.scorer_before(snapshot)
        return run
