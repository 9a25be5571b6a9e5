"""The hub's service, in which a thread stores events of a run as the run's follower does.

``python followers_service.py RUN EVENTS PAUSE``: once the file ``go`` is in its home, so many
events with a pause between them; the moment at which each was stored goes to the file ``stored``.
Which code that is says ``PYTHONPATH``.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from flautim_lab.home import home
from flautim_lab.records.event import Event
from flautim_lab.records.store import Records
from flautim_lab.runners.process_files import ProcessFolder
from flautim_lab.service.__main__ import main


def store(run_id: str, number: int, pause: float) -> None:
    """Store events, and then the end."""
    records = Records.default()
    while not (home() / "go").exists():
        records.heartbeat(run_id)
        time.sleep(0.05)
    moments = {}
    for seq in range(1, number + 1):
        records.append(run_id, [Event(seq, time.time(), "metric", seq, name="loss", value=0.5)])
        moments[seq] = time.time()
        time.sleep(pause)
    (home() / "stored").write_text(json.dumps(moments))
    while not (home() / "over").exists():  # how much it used is read before
        time.sleep(0.05)
    records.set_status(run_id, "finished")


if __name__ == "__main__":
    run, events, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    sys.argv = sys.argv[:1]
    # The run has no pods: whoever holds this lock is the one who follows them.
    with ProcessFolder(Records.default().folder(run)).watching() as mine:
        assert mine
        threading.Thread(target=store, args=(run, events, pause), daemon=True).start()
        sys.exit(main())
