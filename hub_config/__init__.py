"""The hub's configuration: JupyterHub with KubeSpawner, for institutions and their users.

::

    jupyterhub_config.py   what JupyterHub reads: a page of assignments with their reasons
    settings.py            what the environment tells, read once
    institutions.py        the list of institutions, and which notebook pods a user may have
    login.py               who may log in, and to which institutions they belong
    roles.py               what users, notebooks and the service may do at the hub
    monitoring.py          its log, and its metrics
    proxy/                 the versions of the proxy (a program of Node's)

It runs in an image of its own, without ``flautim_lab``.
"""
