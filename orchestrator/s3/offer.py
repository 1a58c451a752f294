"""The settings that the driver offers to workers on other machines, so that they use the same S3.

They never contain a secret, because Ray shows runtime environments to everyone with access to the
cluster: no keys, no token, no URL with a user. They contain no proxy either: a proxy belongs to a
machine's own network, and all traffic of a worker would go through it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from orchestrator.s3.encryption import KMS_KEY, SSE, set_encryption
from orchestrator.s3.failures import ALLOW_HTTP, without_secrets_of_urls

OFFER = "ORCHESTRATOR_S3_OFFER"
"""The environment variable with the offer, as JSON. Its keys are names of AWS's variables, of
variables about S3 that only the orchestrator has, and `addressing_style`."""
LOCATIONS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""The variables that locate S3."""
FILES = ("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
STYLE = "addressing_style"

_SWITCHES = (
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    ALLOW_HTTP,
)
_ENCRYPTION = (SSE, KMS_KEY)
_KEYS_OF_ITS_OWN = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID")


def locations_of_s3(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables in `environ` that locate S3, without users and passwords."""
    return {name: without_secrets_of_urls(environ[name]) for name in LOCATIONS if name in environ}


def make_absolute(environ: MutableMapping[str, str]) -> None:
    """Make the paths of AWS's files absolute, because a worker has another current folder."""
    for name in FILES:
        if environ.get(name) and not environ[name].startswith("~"):
            environ[name] = str(Path(environ[name]).absolute())


def make_offer(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of this machine, from its variables and ~/.aws/config."""
    stated = {
        name: environ[name]
        for name in (*LOCATIONS[2:], *FILES, *_SWITCHES, *_ENCRYPTION)
        if name in environ
    }
    return {**_configured(environ), **stated}


def adopt_offer(environ: MutableMapping[str, str]) -> str | None:
    """Adopt the driver's settings that this machine does not set itself. Returns the addressing
    style.

    A file is adopted if it exists here. A profile is adopted if it exists here and this machine
    names no credentials.
    """
    offer: dict[str, str] = json.loads(environ.get(OFFER, "{}"))
    for name in FILES:
        if name in offer and Path(offer[name]).expanduser().is_file():
            environ.setdefault(name, offer[name])
    if not any(name in environ for name in LOCATIONS[:2]):
        environ.update({name: offer[name] for name in LOCATIONS[:2] if name in offer})
    for name in (*LOCATIONS[2:], *_SWITCHES):
        if name in offer:
            environ.setdefault(name, offer[name])
    if SSE in offer:  # the job's, which must not be weakened by a machine's own setting
        set_encryption(environ, sse=offer[SSE], kms_key=offer.get(KMS_KEY))
    profile = offer.get("AWS_PROFILE")
    if profile and not any(name in environ for name in _KEYS_OF_ITS_OWN) and _has_profile(profile):
        environ["AWS_PROFILE"] = profile
    return offer.get(STYLE)


def _has_profile(name: str) -> bool:
    import botocore.session  # noqa: PLC0415  half a second
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    try:
        return name in botocore.session.get_session().available_profiles
    except BotoCoreError:
        return False


def _configured(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that botocore reads from variables and ~/.aws/config. Empty if they are
    invalid: the client reports that."""
    import botocore.session  # noqa: PLC0415
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    session = botocore.session.get_session()
    try:
        scoped = session.get_scoped_config()
        endpoint = ConfiguredEndpointProvider(session.full_config, scoped, "s3", environ).provide()
    except BotoCoreError:
        return {}
    s3 = scoped.get("s3")
    bundle = scoped.get("ca_bundle")
    found = {
        "AWS_ENDPOINT_URL_S3": endpoint and without_secrets_of_urls(endpoint),
        "AWS_DEFAULT_REGION": scoped.get("region"),
        "AWS_CA_BUNDLE": bundle and str(Path(bundle).absolute()),
        "AWS_PROFILE": session.get_config_variable("profile"),
        STYLE: s3.get(STYLE) if isinstance(s3, dict) else None,
        **{name: scoped.get(name.removeprefix("AWS_").lower()) for name in _SWITCHES},
    }
    return {name: value for name, value in found.items() if value}
