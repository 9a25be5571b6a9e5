"""A hub on this machine alone, to try what institutions have of it: ``make hub``.

::

    start.py               passwords and a catalog to play with; then JupyterHub itself
    jupyterhub_config.py   what JupyterHub reads: servers are processes of this machine
    proxy.py               the hub's proxy, installed where it is not
    seed.py                two institutions, three users, a project and a dataset
    tied.py                what keeps processes from outliving the hub
    institutions.json      who belongs where

It listens on loopback, and all its users' servers run as the one who started it: they are not kept
from each other's files. A hub for others is that of ``hub_config/``, on Kubernetes.
"""
