"""What the hub is told, and what it says when that will not do."""

from __future__ import annotations

import json

import pytest

from hub_config.oidc import NEEDED as OIDC_NEEDED
from hub_config.settings import NEEDED, PASSWORDS, Settings, SettingsError


def test_what_is_told_and_what_is_not(environment):
    settings = Settings.of_environment(environment | {"FLAUTIM_LAB_NOTEBOOK_CPU": "0.5"})
    assert settings.namespace == "of-hub"
    assert list(settings.institutions) == ["ufmg", "ifnmg"]
    assert settings.cpu == 0.5
    assert settings.notebook_image == "flautim-lab-notebook:0.1.0"
    assert settings.storage_class is None


def test_secrets_are_not_shown(environment):
    url = {"FLAUTIM_LAB_HUB_DATABASE_URL": "postgresql://hub:its-own@database/hub"}
    shown = repr(Settings.of_environment(environment | url))
    assert "its-own" not in shown
    for name in ("LOGIN_PASSWORD", "ADMIN_PASSWORD", "SERVICE_TOKEN"):
        assert environment[f"FLAUTIM_LAB_{name}"] not in shown


@pytest.mark.parametrize("name", {**NEEDED, **PASSWORDS})
@pytest.mark.parametrize("value", [None, "", "  "])
def test_nothing_is_open_by_default(environment, name, value):
    environment.pop(name)
    if value is not None:
        environment[name] = value
    with pytest.raises(SettingsError, match=f"^the hub needs {name} in its environment: "):
        Settings.of_environment(environment)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("FLAUTIM_LAB_LOGIN_PASSWORD", "short", "has 5 characters; it needs at least 12"),
        ("FLAUTIM_LAB_ADMIN_PASSWORD", "x" * 31, "has 31 characters; it needs at least 32"),
        ("FLAUTIM_LAB_NOTEBOOK_CPU", "two", "must be a number of cores, such as 0.5, not 'two'"),
        (
            "FLAUTIM_LAB_NOTEBOOK_MEMORY",
            "2Gi",
            "memory must be 512M or more, such as 2G, not '2Gi'",
        ),
        ("FLAUTIM_LAB_IDLE_MINUTES", "5", "must be a whole number of minutes from 15 on, or 0 for"),
        ("FLAUTIM_LAB_NAMESPACES_DATA", "/x", "must be the name of a PersistentVolumeClaim, not"),
        ("FLAUTIM_LAB_IDLE_MINUTES", "1h", "must be a whole number of minutes from 15 on, or 0"),
        ("FLAUTIM_LAB_LOGIN", "github", "must be one of password, oidc, not 'github'"),
        ("FLAUTIM_LAB_INSTITUTIONS", "/nowhere", "/nowhere is no list of institutions in JSON"),
    ],
)
def test_what_is_wrong_is_one_sentence(environment, name, value, sentence):
    with pytest.raises(SettingsError, match=sentence) as raised:
        Settings.of_environment(environment | {name: value})
    assert str(raised.value).startswith(name)
    assert "short" not in str(raised.value)  # the password itself


def test_a_users_password_is_no_admins(environment):
    environment["FLAUTIM_LAB_LOGIN_PASSWORD"] = environment["FLAUTIM_LAB_ADMIN_PASSWORD"]
    with pytest.raises(SettingsError, match="are the same; every user would be an admin"):
        Settings.of_environment(environment)


# --- an identity provider -----------------------------------------------------------------------


@pytest.fixture
def provider(environment, tmp_path):
    listed = {"ufmg": {"name": "Federal University", "namespace": "of-ufmg", "owners": ["olga"]}}
    (tmp_path / "institutions.json").write_text(json.dumps(listed))
    for name in PASSWORDS:
        environment.pop(name)
    here = "https://id.example/"
    return environment | {
        "FLAUTIM_LAB_LOGIN": "oidc",
        "FLAUTIM_LAB_OIDC_AUTHORIZE_URL": f"{here}authorize",
        "FLAUTIM_LAB_OIDC_TOKEN_URL": f"{here}token",
        "FLAUTIM_LAB_OIDC_USERDATA_URL": f"{here}userinfo",
        "FLAUTIM_LAB_OIDC_CALLBACK_URL": "https://hub.example/hub/oauth_callback",
        "FLAUTIM_LAB_OIDC_CLIENT_ID": "flautim-hub",
        "FLAUTIM_LAB_OIDC_CLIENT_SECRET": "the hub's at the provider",
        "JUPYTERHUB_CRYPT_KEY": "0" * 64,
    }


def test_a_provider_as_told(provider):
    settings = Settings.of_environment(
        provider | {"FLAUTIM_LAB_OIDC_ADMIN_GROUP": "admins", "FLAUTIM_LAB_OIDC_SCOPES": "openid a"}
    )
    assert settings.passwords is None
    told = settings.oidc
    assert told.token_url == "https://id.example/token"
    assert (told.username_claim, told.groups_claim) == ("preferred_username", "groups")
    assert (told.admin_group, told.scopes) == ("admins", ("openid", "a"))
    assert "the hub's at the provider" not in repr(settings)
    assert Settings.of_environment(provider).oidc.admin_group == ""


@pytest.mark.parametrize("name", OIDC_NEEDED)
def test_a_provider_is_told_whole(provider, name):
    with pytest.raises(SettingsError, match=f"^the hub needs {name} in its environment: "):
        Settings.of_environment(provider | {name: " "})


@pytest.mark.parametrize(
    ("told", "url"),
    [
        ("", "sqlite:////flautim/hub/jupyterhub.sqlite"),
        ("postgresql://hub:x@database:5432/hub", "postgresql+psycopg://hub:x@database:5432/hub"),
        ("postgresql+psycopg://hub:x@d/hub?sslmode=require",) * 2,
        ("sqlite:////elsewhere/hub.sqlite",) * 2,
    ],
)
def test_where_the_hub_keeps_what_it_knows(environment, told, url):
    told = {"FLAUTIM_LAB_HUB_DATABASE_URL": told}
    assert Settings.of_environment(environment | told).database_url == url


@pytest.mark.parametrize("told", ["database", "mysql://hub:secret@database/hub"])
def test_another_database_is_refused_without_its_password(environment, told):
    with pytest.raises(SettingsError, match="must begin with sqlite:/// or postgresql") as raised:
        Settings.of_environment(environment | {"FLAUTIM_LAB_HUB_DATABASE_URL": told})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TOKEN_URL", "http://id.example/token", "must be an address with https, not 'http://id"),
        ("TOKEN_URL", "http://127.0.0.1.example/", "must be an address with https"),
        ("USERDATA_URL", "id.example/userinfo", "must be an address with https"),
        ("AUTHORIZE_URL", "javascript:alert(1)", "must be an address with https"),
        ("SCOPES", "profile", "must have openid among them, not 'profile'"),
    ],
)
def test_a_provider_that_will_not_do(provider, name, value, sentence):
    with pytest.raises(SettingsError, match=rf"^FLAUTIM_LAB_OIDC_{name} {sentence}"):
        Settings.of_environment(provider | {f"FLAUTIM_LAB_OIDC_{name}": value})


def test_with_a_provider_the_list_has_no_users(provider, environment, tmp_path):
    """Two would say who belongs where."""
    listed = {"ufmg": {"name": "Federal University", "namespace": "of-ufmg", "users": ["ana"]}}
    (tmp_path / "institutions.json").write_text(json.dumps(listed))
    with pytest.raises(SettingsError, match=r"claims say who belongs to ufmg; take its users off"):
        Settings.of_environment(provider)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("FLAUTIM_LAB_LOGS", "xml", "FLAUTIM_LAB_LOGS must be text or json, not 'xml'"),
        ("FLAUTIM_LAB_METRICS_TOKEN", "short", "has 5 characters; it needs at least 32"),
    ],
)
def test_what_is_wrong_about_monitoring_is_one_sentence(environment, name, value, sentence):
    with pytest.raises(SettingsError, match=sentence):
        Settings.of_environment(environment | {name: value})
