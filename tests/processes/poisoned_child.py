"""The sandbox's fork server with a decoder that poison harms; it imports no more than the real one."""

from __future__ import annotations

import sys

from tests.poison import Place, do_harm, poison_in
from worker import imaging, sandbox_child


def decode(data: bytes, limits: imaging.ImageLimits) -> imaging.DecodedImage:
    """Decode as the product does, unless the file is poison for it."""
    poison = poison_in(data)
    if poison is not None and poison.place is Place.DECODER:
        do_harm(poison.harm)
    return imaging.decode(data, limits)


if __name__ == "__main__":
    vars(sandbox_child)["decode"] = decode
    sandbox_child.main(sys.argv[1:])
