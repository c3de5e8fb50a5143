"""Whether another distribution has import names of the service."""

from __future__ import annotations

from deploy.commands.doctor import shared_names


def test_another_distribution_with_one_of_our_import_names_is_a_fault():
    (found,) = shared_names({"api": ["distildire"], "shared": ["distildire", "other"], "numpy": ["numpy"]})
    assert (found.subject, found.state) == ("import name shared", "fault")
    assert "other" in found.found
    assert "environment of its own" in found.remedy


def test_an_environment_of_its_own_has_no_such_fault():
    assert not list(shared_names({"api": ["distildire"], "worker": ["distildire", "distildire"], "numpy": ["numpy"]}))
