"""Where faults are planted, and which tests are to notice them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Module:
    """Some files of the product, and the tests that hold them."""

    files: Sequence[str]
    tests: Sequence[str]
    starting_seconds: int = 5
    """What the tests' servers may take to start: so much longer, a fault must not hang before it counts as noticed."""


_FORMS = "tests/services/test_egress_forms.py"

#: By the names that `make mutants MODULE=…` takes.
MODULES: Mapping[str, Module] = {
    "signing": Module(["shared/webhooks/signatures.py"], ["tests/unit/test_signatures.py"]),
    "schedule": Module(["shared/webhooks/retry_schedule.py"], ["tests/unit/test_retry_schedule.py"]),
    "verdicts": Module(
        [f"worker/model/verdicts/{name}.py" for name in ("assessment", "policy", "policy_files", "verdict")],
        ["tests/unit/test_assessment.py", "tests/unit/test_policy.py", "tests/unit/test_verdict.py"],
    ),
    "thresholds": Module(["worker/calibration/thresholds.py"], ["tests/unit/test_thresholds.py"]),
    "decode": Module(
        ["shared/images/header.py", "worker/imaging/decoding.py"],
        [
            "tests/unit/test_image_header.py",
            "tests/unit/test_imaging.py",
            "tests/unit/test_image_files.py",
            "tests/model/test_preprocess.py",
        ],
    ),
    "egress": Module(
        ["shared/egress/url_policy.py", "worker/egress/http_client.py"],
        [
            "tests/unit/test_egress.py",
            "tests/unit/test_egress_command.py",
            "tests/services/test_egress_calls.py",
            # The others of this file start a PostgreSQL, for each fault.
            f"{_FORMS}::test_a_name_is_looked_up_once_and_connected_to_at_the_address_that_was_checked",
            f"{_FORMS}::test_the_address_that_the_system_says_we_are_connected_to_is_the_checked_one",
            f"{_FORMS}::test_no_redirect_is_followed_wherever_it_leads",
            f"{_FORMS}::test_no_url_writes_a_second_host_into_the_head",
            f"{_FORMS}::test_egress_check_connects_only_when_asked_to",
        ],
    ),
    "lifecycle": Module(
        ["shared/jobs/lifecycle.py", "shared/jobs/claiming.py", "shared/jobs/sweeping.py", "shared/webhooks/outbox.py"],
        [
            "tests/services/test_lifecycle.py",
            "tests/services/test_workers_registry.py",
            "tests/services/test_sweeper.py",
        ],
        starting_seconds=30,
    ),
}
