"""The same notebook again, at many points: a grid of parameters, several seeds, many at a time.

A *point* is one execution: values for names of the cell tagged ``parameters``.

- ``points.py``: which points, checked against the notebook before anything starts.
- ``folder.py``: where they lie, which of them are done, and that only one batch works there.
- ``schedule.py``: so many at once, with a time limit and retries; ``hand.py`` is the process that
  executes them.
- ``on_cluster.py``: the same as pods of one Indexed Job, made here (``place.py``) or by a hub's
  service (``hub_place.py``); ``parcel.py`` is what travels there and back, ``pod.py`` what a pod
  does.
- ``batch.py``, ``summary.py``, ``curves.py``: what came of them.
- ``start.py``: ``lab.rerun`` itself.
"""
