"""Runs what a Dockerfile runs to build, on this machine: its own instructions, with its folders below one of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

#: The absolute folders that our Dockerfiles write to while they build.
_FOLDERS = ("/opt/", "/src")


def run_stage(
    text: str, stage: str, context: Path, root: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the RUN, COPY, ENV and WORKDIR of a stage, until one fails; return the last that was run.

    `context` is what COPY copies from, `root` stands for the container's root.
    """
    root.mkdir(exist_ok=True)
    folder, variables = root, dict(environment)
    done: subprocess.CompletedProcess[str] | None = None
    for instruction, argument in _instructions(text, stage):
        moved = _below(argument, root)
        if instruction == "WORKDIR":
            folder = Path(moved)
            folder.mkdir(parents=True, exist_ok=True)
        elif instruction == "ENV":
            for name, value in re.findall(r"(\w+)=(\S+)", moved):
                variables[name] = value.replace(f"${name}", variables.get(name, ""))
        elif instruction == "COPY":
            *sources, target = moved.split()
            for source in sources:
                _copy(context / source, folder / target)
        elif instruction == "RUN":
            done = subprocess.run(
                ["/bin/sh", "-c", moved], cwd=folder, env=variables, check=False, capture_output=True, text=True
            )
            if done.returncode:
                return done
        else:
            raise AssertionError(f"{instruction} is not known here: teach this module")
    assert done is not None, f"nothing is run in {stage}"
    return done


def _instructions(text: str, stage: str) -> Iterator[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    inside = False
    for instruction, argument in re.findall(r"^([A-Z]+)\s+(.+)$", joined, re.MULTILINE):
        if instruction == "FROM":
            inside = argument.endswith(f" AS {stage}")
        elif inside:
            yield instruction, argument.strip()


def _below(argument: str, root: Path) -> str:
    for folder in _FOLDERS:
        argument = re.sub(rf"(?<![\w./]){re.escape(folder)}", f"{root}{folder}", argument)
    return argument


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
