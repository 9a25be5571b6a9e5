"""The hub's service: it alone may make run pods, for users whom it knows by the Hub.

::

    __main__.py   python -m flautim_lab.service: settings from the environment, and an HTTP server
    app.py        the routes; every refusal is problem+json with one sentence
    hub.py        who asks (JupyterHub's HubAuth), and of which institutions they are
    access.py     who may do what: one table
    streams.py    how a run is followed; readers.py: one look at the records for all who do
    places.py     where somebody belongs: what the hub alone asks
    upkeep.py     /health, /ready and /metrics, for who runs the hub; metrics.py, logs.py
    dispatch.py   from a request to pods, by the code of the ``cluster`` runner
    batches.py    batches of points, the same way; batch_routes.py: their routes
    turns.py      who waits for whom: a user for themselves, and nobody for another

A notebook asks it through ``flautim_lab/runners/service.py``. Its records are those of every run of
the hub; it follows each of them as a researcher's own watch would, and when it is started again,
goes on with all that have not ended.
"""
