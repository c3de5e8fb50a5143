"""A Pillow with known holes, put before the installed one on the path: what the sandbox is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.hostile.corpora import CorpusError

VERSION = "11.0.0"
#: Of its wheels for Linux on x86-64 and aarch64, CPython 3.11 to 3.13.
_SHA256 = (
    "00177a63030d612148e659b55ba99527803288cea7c75fb05766ab7981a8c1b7",
    "0ae08bd8ffc41aebf578c2af2f9d8749d91f448b3bfd41d7d9ff573d74f2a6b2",
    "45c566eb10b8967d71bf1ab8e4a525e5a93519e29ea071459ce517f6b903d7fa",
    "5ddbfd761ee00c12ee1be86c9c0683ecf5bb14c9772ddbd782085779a63dd55b",
    "61b887f9ddba63ddf62fd02a3ba7add935d053b6dd7d58998c630e6dbade8527",
    "6f4dba50cfa56f910241eb7f883c20f1e7b1d8f7d91c750cd0b318bad443f4d5",
    "8069c5179902dcdce0be9bfc8235347fdbac249d23bd90514b7a47a72d9fecf4",
    "c6a660307ca9d4867caa8d9ca2c2658ab685de83792d1876274991adec7b93fa",
    "c8b2351c85d855293a299038e1f89db92a2f35e8d2f783489c6f0b2b5f3fe8a3",
    "d69bfd8ec3219ae71bcde1f942b728903cad25fafe3100ba2258b973bd2bc1b2",
    "f02541ef64077f22bf4924f225c0fd1248c168f86e4b7abdedd87d6ebaceab0f",
    "fcb4621042ac4b7865c179bb972ed0da0218a076dc1820ffc48b1d74c1e37fe9",
)
_PIP = ("install", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes")


def old_pillow(cache: Path) -> Path:
    """Return a folder with nothing but Pillow 11.0.0, to be first in PYTHONPATH; pip fetches it where it is not there.

    It has no reader of AVIF yet; an empty module stands in its place, so such files are refused. Raises CorpusError.
    """
    folder = cache / f"pillow-{VERSION}-{sys.implementation.cache_tag}"
    stand_in = folder / "PIL" / "AvifImagePlugin.py"
    if not stand_in.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pins = cache / f"pillow-{VERSION}.txt"
        pins.write_text(f"pillow=={VERSION} " + " ".join(f"--hash=sha256:{digest}" for digest in _SHA256) + "\n")
        command = [sys.executable, "-m", "pip", *_PIP, "--upgrade", "--target", str(folder), "--requirement", str(pins)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CorpusError(f"Pillow {VERSION} cannot be installed for this Python:\n{done.stderr.strip()}")
        stand_in.write_text('"""This release reads no AVIF."""\n')
    return folder
