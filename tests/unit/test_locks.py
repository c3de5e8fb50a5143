"""The locks are whole: pip installs them without a resolver, so nothing may be missing, and nothing without a hash."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.locks import (
    LOCKS,
    ROOT,
    LockError,
    environments,
    metadata_of,
    needed,
    project,
    read_lock,
    requirements,
)

HASH = "--hash=sha256:" + "0" * 64
#: In the locks for an early 3.11 alone: whoever tests with a later one does not have it. It requires nothing.
NOT_INSTALLED = {"async-timeout"}


def installing_commands() -> list[str]:
    """Every command by which pip installs a list of requirements, where people and machines find it."""
    files = [ROOT / "Makefile", *(ROOT / ".ci").iterdir(), *(ROOT / "deploy").rglob("*Dockerfile")]
    files += [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.sh")]
    text = "\n".join(re.sub(r"\\\n", " ", file.read_text()) for file in files)
    return re.findall(r"\bpip3?[\"']? (?:install|download|wheel|sync)\b.*(?:-r|--requirement)\b.*", text)


def lacking(lock: str, extra: str) -> set[str]:
    """What the project needs with `extra` somewhere, and the lock does not hold for there."""
    pins, direct = read_lock(lock), requirements(extra)
    direct += map(Requirement, project()["build-system"]["requires"])
    missing: set[str] = set()
    for environment in environments():
        locked = {pin.name: pin.version for pin in pins if pin.applies(environment)}
        for requirement in needed(direct, environment):
            found = locked.get(canonicalize_name(requirement.name))
            if found is None or not requirement.specifier.contains(found, prereleases=True):
                missing.add(str(requirement))
    return missing


@pytest.mark.parametrize("extra", LOCKS)
def test_lock_holds_all_that_any_distribution_requires_on_every_python_and_machine(extra: str) -> None:
    assert lacking(LOCKS[extra].read_text(), extra) == set(), "run `make lock`"


@pytest.mark.parametrize("extra", LOCKS)
def test_lock_holds_nothing_that_nobody_requires(extra: str) -> None:
    pins, direct = read_lock(LOCKS[extra].read_text()), requirements(extra)
    direct += map(Requirement, project()["build-system"]["requires"])
    for environment in environments():
        asked = {canonicalize_name(requirement.name) for requirement in needed(direct, environment)}
        assert {pin.name for pin in pins if pin.applies(environment)} == asked


def test_what_a_lock_lacks_is_found() -> None:
    lock = LOCKS["dev"].read_text()
    without = re.sub(r"^(email-validator|httptools)==[^\n]*\n( .*\n)+", "", lock, flags=re.MULTILINE)
    missing = {re.split("[<>=; ]", requirement)[0] for requirement in lacking(without, "dev")}
    assert missing == {"email-validator", "httptools"}  # of pydantic[email] and of uvicorn[standard]
    older = re.sub(r"^kombu==\S+", "kombu==5.2.0", lock, flags=re.MULTILINE)
    assert {re.split("[<>=[]", requirement)[0] for requirement in lacking(older, "dev")} == {"kombu"}


@pytest.mark.parametrize("extra", LOCKS)
def test_requirements_were_read_from_the_versions_that_are_locked(extra: str) -> None:
    for pin in read_lock(LOCKS[extra].read_text()):
        if pin.applies(next(iter(environments()))) and pin.name not in NOT_INSTALLED:
            assert metadata_of(pin.name) is not None, f"{pin.name} is not installed"
    installed = {pin.name: version(pin.name) for pin in read_lock(LOCKS[extra].read_text()) if metadata_of(pin.name)}
    locked = {(pin.name, pin.version) for pin in read_lock(LOCKS[extra].read_text())}
    assert installed.items() <= locked


def test_every_command_that_installs_a_lock_neither_resolves_nor_builds() -> None:
    commands = [command for command in installing_commands() if "--dry-run" not in command]
    assert len(commands) >= len(LOCKS)
    for command in commands:
        for option in ("--no-deps", "--only-binary :all:", "--require-hashes"):
            assert option in command, command


@pytest.mark.parametrize("extra", LOCKS)
def test_every_pin_has_hashes(extra: str) -> None:
    assert all(pin.hashes for pin in read_lock(LOCKS[extra].read_text()))


@pytest.mark.parametrize(
    "line",
    [
        "one==1.0",
        "One==1.0",
        "one==1.0 \\\n    # a comment",
        "one==1.0 \\\n    --hash=sha256:",
        "one==1.0 --hash=md5:d41d8cd98f00b204e9800998ecf8427e",
        f"two==2.0 \\\n    {HASH}\none==1.0",
        f"two==2.0 \\\n    {HASH}\none==1.0 ; python_full_version < '3.12'\nthree==3.0 \\\n    {HASH}",
        f"one>=1.0 {HASH}",
        f"one==1.* {HASH}",
        f"one==1.0,<2 {HASH}",
        f"one {HASH}",
        f"one @ https://example.org/one.whl {HASH}",
        "https://example.org/one.whl",
        "-e .",
        "--index-url https://example.org/simple",
        "--extra-index-url=https://example.org/simple",
        "-r other.txt",
    ],
)
def test_what_is_no_pin_with_a_hash_is_refused(line: str) -> None:
    with pytest.raises(LockError):
        read_lock(line + "\n")


def test_pins_are_read_in_every_form() -> None:
    text = (
        f"# a comment\nOne_1==1.0 \\\n    {HASH} \\\n    {HASH[:-1]}1\ntwo[extra]==2.0.post1 ; os_name == 'nt' {HASH}"
    )
    first, second = read_lock(text + "\n")
    assert (first.name, first.version, first.marker, len(first.hashes)) == ("one-1", "1.0", None, 2)
    assert (second.name, second.version, str(second.marker)) == ("two", "2.0.post1", 'os_name == "nt"')


@pytest.mark.parametrize("extra", LOCKS)
def test_lock_names_no_index(extra: str) -> None:
    assert not re.search(r"://|^-", LOCKS[extra].read_text(), re.MULTILINE)


@pytest.mark.parametrize("image", ["api", "worker"])
def test_images_run_the_versions_that_the_tests_ran(image: str) -> None:
    tested = {(pin.name, pin.version, pin.hashes) for pin in read_lock(LOCKS["dev"].read_text())}
    assert {(pin.name, pin.version, pin.hashes) for pin in read_lock(LOCKS[image].read_text())} <= tested


def test_web_image_has_no_torch() -> None:
    names = {pin.name for pin in read_lock(LOCKS["api"].read_text())}
    assert not {name for name in names if name.startswith(("torch", "nvidia", "triton", "cuda"))}


@pytest.mark.parametrize("extra", LOCKS)
def test_every_requirement_is_accounted_for(extra: str) -> None:
    told = re.findall(r"^\| `([a-z0-9-]+)` \| [a-z]+ \| ", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    assert not {requirement.name for requirement in requirements(extra)} - set(told)
