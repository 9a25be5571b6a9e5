"""The hub's configuration: JupyterHub with KubeSpawner, for institutions and their users.

::

    jupyterhub_config.py   what JupyterHub reads: a page of assignments with their reasons
    settings.py            what the environment tells, read once
    institutions.py        the list of institutions, as who runs the cluster writes it
    places.py              where somebody belongs: by the list, and by the service's catalog
    sizes.py               how large a notebook pod may be
    profiles.py            which notebook pods a user may have, as KubeSpawner's form
    login.py               who may log in, and to which institutions they belong
    oidc.py                the same by an identity provider
    culling.py             ending notebooks that nobody uses
    roles.py               what users, notebooks and the service may do at the hub
    monitoring.py          its log, and its metrics
    proxy/                 the versions of the proxy (a program of Node's)

It runs in an image of its own, without ``flautim_lab``.
"""
