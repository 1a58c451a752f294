"""What looks like a credential is recognised; digests, ids of keys and plain locations are not."""

from __future__ import annotations

import pytest

from orchestrator.credentials import find_credentials
from tests.conftest import ROOT

# Put together here, so that this file holds nothing that looks like a credential.
ID = "AKIA" + "IOSFODNN7EXAMPLE"
KEY = "wJalrXUtnFEMI/K7MDENG" + "/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"data: {ID}", "an AWS access key id"),
        (f"# of {ID.replace('AKIA', 'ASIA')}, a comment", "an AWS access key id"),
        (f"aws_secret: {KEY}", "a secret key"),
        (f"key: '{KEY}'", "a secret key"),
        (f"  value: {KEY} # the token", "a secret key"),
        ("my_api_key: " + "0a1b2c3d" * 5, "a secret"),
        ("PASSWORD=" + "Ab1" * 12, "a secret"),
        ("-----BEGIN " + "OPENSSH PRIVATE KEY-----", "a private key"),
        ("-----BEGIN " + "PRIVATE KEY-----", "a private key"),
        ("store: https://me:" + "sesame@host/x", "a URL with a password"),
        ("data: https://b.example/k?a=1&X-Amz-" + "Signature=0123456789", "a presigned URL"),
        ("data: https://b/k?AWSAccess" + "KeyId=0123456789", "a presigned URL"),
        ("x: ghp_" + "a1B2" * 9, "a GitHub token"),
        ("x: github_pat_" + "a1B2" * 9, "a GitHub token"),
        ("x: xoxb-" + "123456789012-abcdef", "a Slack token"),
        ("x: https://hooks.slack.com/" + "services/T0/B0/abcdefgh", "the URL of a Slack webhook"),
        ("x: hf_" + "aBcD" * 9, "a Hugging Face token"),
    ],
)  # fmt: skip
def test_a_credential_is_recognised(text: str, what: str) -> None:
    assert [found.what for found in find_credentials(text)] == [what]


def test_a_secret_on_the_line_after_its_name_is_found() -> None:
    text = f"env:\n- name: AWS_SECRET_ACCESS_KEY\n  value: {KEY}\n"
    (found,) = find_credentials(text)
    assert (found.line, found.column) == (2, 9)


@pytest.mark.parametrize(
    "text",
    [
        "data_fingerprint: " + "0a1b2c3d" * 8,
        "key: " + "0a1b2c3d" * 8,
        "secret_key: " + "0a1b2c3d" * 8,
        "commit: " + "0a1b2c3d" * 5,
        "kms_key: arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kms_key: 1234abcd-12ab-34cd-56ef-1234567890ab",
        "url_env: SLACK_WEBHOOK_OF_THE_TEAM_FOR_TRAINING_2026",
        "store: s3://bucket-2026/Team/Vision/ImageNet2012/cat",
        "token_dir: /mnt/Data/ImageNet2012/train/subset1/abc",
        "tokens: pipelines/Detection/Method1/weights/last40",
        "metric: keypointsAveragePrecision50to95OverAllX1",
        "data: http://host:9000/x?key=1",
        "mail: someone@host",
    ],
)
def test_other_text_is_not_taken_for_a_credential(text: str) -> None:
    assert find_credentials(text) == []


def test_no_job_file_of_this_project_has_a_credential() -> None:
    jobs = sorted((ROOT / "jobs").rglob("*.yaml"))
    assert len(jobs) > 5
    found = {job.name: find_credentials(job.read_text()) for job in jobs}
    assert {name: credentials for name, credentials in found.items() if credentials} == {}
