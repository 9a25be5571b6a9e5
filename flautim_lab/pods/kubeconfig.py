"""Clients of the cluster that a kubeconfig names, whose keys do not outlive this process."""

from __future__ import annotations

import atexit
import contextlib
import functools

from kubernetes import client as k8s
from kubernetes import config

from flautim_lab.scratch import scratch_folder

__all__ = ["new_client"]


def new_client(context: str | None) -> k8s.ApiClient:
    """Return a client for a context of the kubeconfig, its current one by default.

    Raises
    ------
    ConfigException
        If there is no kubeconfig, or it has no such context.
    """
    made = type.__call__(k8s.Configuration)  # a plain call copies the default of this process
    config.load_kube_config(
        context=context, client_configuration=made, temp_file_path=_certificates()
    )
    return k8s.ApiClient(made)


@functools.cache
def _certificates() -> str:
    """Return the folder for what a kubeconfig holds as text and TLS takes from files, keys too.

    The client removes the files at this process's exit. After a ``kill -9`` whoever makes the next
    folder for a moment does.
    """
    held = contextlib.ExitStack()
    folder = held.enter_context(scratch_folder())
    atexit.register(held.close)
    return str(folder)
