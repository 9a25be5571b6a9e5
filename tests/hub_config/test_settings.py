"""What the hub is told, and what it says when that will not do."""

from __future__ import annotations

import pytest

from hub_config.settings import NEEDED, Settings, SettingsError


def test_what_is_told_and_what_is_not(environment):
    settings = Settings.of_environment(environment | {"FLAUTIM_LAB_NOTEBOOK_CPU": "0.5"})
    assert settings.namespace == "of-hub"
    assert list(settings.institutions) == ["ufmg", "ifnmg"]
    assert settings.cpu == 0.5
    assert settings.notebook_image == "flautim-lab-notebook:0.1.0"
    assert settings.storage_class is None


def test_secrets_are_not_shown(environment):
    shown = repr(Settings.of_environment(environment))
    for name in ("LOGIN_PASSWORD", "ADMIN_PASSWORD", "SERVICE_TOKEN"):
        assert environment[f"FLAUTIM_LAB_{name}"] not in shown


@pytest.mark.parametrize("name", NEEDED)
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
