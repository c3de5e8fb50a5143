"""The sandbox's fork server with a decoder that poison harms; it imports no more than the real one."""

from __future__ import annotations

import sys

from tests.support.poison import PoisonedStep, do_harm, poison_in
from worker.imaging import decoding
from worker.sandbox import child


def decode(data: bytes, limits: decoding.ImageLimits) -> decoding.DecodedImage:
    """Decode as the product does, unless the file is poison for it."""
    poison = poison_in(data)
    if poison is not None and poison.place is PoisonedStep.DECODER:
        do_harm(poison.harm)
    return decoding.decode(data, limits)


if __name__ == "__main__":
    vars(child)["decode"] = decode
    child.main(sys.argv[1:])
