"""What JupyterHub reads at its start: assignments, and the reasons for them.

https://jupyterhub.readthedocs.io and https://jupyterhub-kubespawner.readthedocs.io explain each.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from jupyterhub.spawner import SpawnException

from hub_config import culling, login, monitoring, roles
from hub_config.places import Places
from hub_config.profiles import NoInstitutionError, check_chosen, offers_a_choice, profiles
from hub_config.settings import Settings
from hub_config.sizes import LEAST_MEMORY, SizeError

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - JupyterHub's own
settings = Settings.of_environment(os.environ)

HOME = "/home/flautim"
USER = 1000  # of the image

# --- where the hub, its proxy and its memory are -------------------------------------------------
# The proxy has a Deployment of its own: notebooks stay reachable while the hub is away.
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://proxy-api.{settings.namespace}.svc:8001"
# A proxy that was started again knows no route until the hub looks: every 5 minutes by default.
c.JupyterHub.last_activity_interval = 20  # seconds
c.JupyterHub.hub_bind_url = "http://:8081"
# With the namespace in it, since notebook pods of other namespaces use it too.
c.JupyterHub.hub_connect_url = f"http://hub.{settings.namespace}.svc:8081"
c.JupyterHub.db_url = settings.database_url
c.JupyterHub.cookie_secret_file = "/flautim/hub/cookie_secret"  # noqa: S105 - made by JupyterHub
# A newer JupyterHub brings its tables up to date; of a file it keeps a copy as it was.
c.JupyterHub.upgrade_db = True
# A hub that ends leaves servers and routes alone, and finds them again when it is back.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False

# --- who may log in ------------------------------------------------------------------------------
SERVICE = settings.service_url or f"http://service.{settings.namespace}.svc:8080"
places = Places(
    settings.institutions,
    f"{SERVICE}{roles.PLACES}",
    settings.service_token,
    settings.namespaces,
    settings.namespaces_data,
)
if settings.oidc:
    login.by_provider(c, places, settings.oidc)
elif settings.passwords:
    login.by_password(c, places, *settings.passwords)

# --- the service, which makes the pods of runs ---------------------------------------------------
c.JupyterHub.services = [
    {
        "name": roles.SERVICE,
        "url": SERVICE,
        "api_token": settings.service_token,
        "display": False,
    }
]
c.JupyterHub.load_roles = [*roles.ROLES]

# --- ending notebooks that nobody uses -----------------------------------------------------------
if settings.idle_minutes:
    # By loopback: it is a process of the hub's pod, which no policy lets talk to itself.
    api = "http://127.0.0.1:8081/hub/api"
    c.JupyterHub.services += [culling.service(settings.idle_minutes * 60, api)]
    c.JupyterHub.load_roles += [culling.ROLE]

# --- its log, and its metrics --------------------------------------------------------------------
monitoring.configure(c, settings.logs, settings.metrics_token)


# --- notebook pods -------------------------------------------------------------------------------
def asking(spawner: Any) -> dict[str, Any]:
    """Return who asks for a notebook, and what there is."""
    groups = {group.name for group in spawner.user.groups}
    return {
        "user": spawner.user.name,
        "groups": groups,
        "institutions": places.of(groups),
        "default": settings.size,
    }


def offered(spawner: Any, owned: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return what a user may choose from, or refuse with a sentence."""
    try:
        return profiles(**asking(spawner), owned=owned)
    except NoInstitutionError as error:
        raise SpawnException(str(error), reason="no-institution", status_code=403) from error


async def choices(spawner: Any) -> list[dict[str, Any]]:
    """Return what a user may choose from, with the data that is theirs."""
    return offered(spawner, await places.owned(spawner.user.name))


async def form(spawner: Any) -> str:
    """Return KubeSpawner's form, or none where there is nothing to choose."""
    if not offers_a_choice(offered(spawner)):
        return ""
    try:
        check_chosen(spawner.user_options, **asking(spawner))
    except SizeError:  # what was chosen before is not offered any more
        spawner.user_options = {}
    default = spawner.trait_defaults("options_form")
    return str(await default(spawner))


def before_the_start(spawner: Any) -> None:
    """Refuse what is not offered; let KubeSpawner make sure of the home where it is to be now.

    It remembers that a volume was made, and not in which namespace: in another institution's the
    pod would wait for one that is not there.
    """
    spawner._pvc_exists = False
    if not offers_a_choice(offered(spawner)):
        spawner.user_options = {}  # JupyterHub keeps what was chosen when there was a choice
    try:
        check_chosen(spawner.user_options, **asking(spawner))
    except SizeError as error:
        raise SpawnException(str(error), reason="not-offered", status_code=400) from error


c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
# The namespace comes with the profile: KubeSpawner then watches each institution's by itself, and
# needs a Role there and no ClusterRole.
c.KubeSpawner.profile_list = choices
c.KubeSpawner.options_form = form
c.KubeSpawner.pre_spawn_hook = before_the_start
c.KubeSpawner.start_timeout = 300  # seconds: a node may have to fetch the image first
c.KubeSpawner.http_timeout = 60

c.KubeSpawner.image = settings.notebook_image
c.KubeSpawner.image_pull_policy = settings.image_pull_policy
c.KubeSpawner.cmd = ["jupyterhub-singleuser"]
c.KubeSpawner.args = culling.SERVER_ARGUMENTS
c.KubeSpawner.default_url = "/lab"
c.KubeSpawner.environment = {
    "HOME": HOME,
    "FLAUTIM_LAB_SERVICE_URL": f"{SERVICE}{roles.PREFIX}",
}
c.KubeSpawner.extra_labels = {"app.kubernetes.io/part-of": "flautim-lab"}

# What the `restricted` Pod Security Standard asks for, and a read-only root file system.
c.KubeSpawner.uid = c.KubeSpawner.gid = c.KubeSpawner.fs_gid = USER
c.KubeSpawner.allow_privilege_escalation = False
c.KubeSpawner.pod_security_context = {
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
c.KubeSpawner.container_security_context = {
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
# No credential of the cluster, and no addresses of the institution's other services.
c.KubeSpawner.automount_service_account_token = False
c.KubeSpawner.extra_pod_config = {"enableServiceLinks": False}

# What it may use comes with the profile too; this is what it is sure of.
c.KubeSpawner.mem_guarantee = LEAST_MEMORY

# --- homes ---------------------------------------------------------------------------------------
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = settings.home_size
c.KubeSpawner.storage_class = settings.storage_class
c.KubeSpawner.pvc_name_template = "home-{user_server}"
# Data outlive accounts: who deletes a user at the hub does not delete their files with one click.
c.KubeSpawner.delete_pvc = False
c.KubeSpawner.handle_legacy_names = False
c.KubeSpawner.working_dir = HOME
c.KubeSpawner.volumes = {
    "home": {"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}},
    "tmp": {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
}
c.KubeSpawner.volume_mounts = {
    "home": {"name": "home", "mountPath": HOME},
    "tmp": {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
}
# A new home begins with the notebooks; what a user made of them is never written over.
FILL = "[ -e notebooks ] || cp -r /opt/flautim-lab/notebooks . || true"
c.KubeSpawner.lifecycle_hooks = {"postStart": {"exec": {"command": ["sh", "-c", FILL]}}}
