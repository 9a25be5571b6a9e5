"""The hub's service: it alone may make run pods, for users whom it knows by the Hub.

::

    __main__.py   python -m flautim_lab.service: settings from the environment, and an HTTP server
    app.py        the routes; every refusal is problem+json with one sentence
    hub.py        who asks (JupyterHub's HubAuth), and of which institutions they are
    access.py     who may do what: one table
    upkeep.py     /health, /ready and /metrics, for who runs the hub; metrics.py, logs.py
    dispatch.py   from a request to pods, by the code of the ``cluster`` runner

A notebook asks it through ``flautim_lab/runners/service.py``. Its records are those of every run of
the hub; it follows each of them as a researcher's own watch would, and when it is started again,
goes on with all that have not ended.
"""
