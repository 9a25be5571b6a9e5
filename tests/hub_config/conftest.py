"""An environment such as the hub's pod has."""

from __future__ import annotations

import json

import pytest

INSTITUTIONS = {
    "ufmg": {"name": "Federal University", "namespace": "of-ufmg", "users": ["ana", "bruno"]},
    "ifnmg": {"name": "Institute", "namespace": "of-ifnmg", "users": ["bruno"]},
}


@pytest.fixture
def environment(tmp_path):
    path = tmp_path / "institutions.json"
    path.write_text(json.dumps(INSTITUTIONS), encoding="utf-8")
    return {
        "POD_NAMESPACE": "of-hub",
        "FLAUTIM_LAB_INSTITUTIONS": str(path),
        "FLAUTIM_LAB_LOGIN_PASSWORD": "the users' own",
        "FLAUTIM_LAB_ADMIN_PASSWORD": "the admin's own, which is longer than 32",
        "FLAUTIM_LAB_SERVICE_TOKEN": "the service's",
        "CONFIGPROXY_AUTH_TOKEN": "the proxy's",
    }
