"""The clients: several tenants who submit images at moments drawn from the seed, however the service fares.

Open loop: a slow answer does not slow the load. A share of the jobs is canceled or asked for soon after, and a share of
the images is no image, so that jobs end in every way. One tenant replays each of its jobs that failed.
"""

from __future__ import annotations

import hashlib
import io
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
from PIL import Image

from tests.chaos.evidence import TERMINAL, Accepted, Observed
from tests.chaos.history import History

TENANTS = ("first", "second", "third")
_IMAGES = 24
_CANCELED, _ASKED_FOR = 0.03, 0.10
#: This one replays what failed, and this one's jobs are for workers with a policy alone.
_REPLAYS, JUDGED_BY_POLICY = TENANTS[0], TENANTS[2]
#: How often and for how many seconds it looks whether a job has failed.
_LOOK_SECONDS, _LOOKS_SECONDS = 1.0, 20.0
#: Images that come at once, on average: as from a page with several.
_BURST = 4
_THREADS = 96
#: Longer than any definite answer should take.
_TIMEOUT = httpx.Timeout(20, connect=3)


@dataclass(frozen=True)
class Post:
    """One submission."""

    at: float
    """Seconds since the epoch."""
    seconds: float
    answer: str
    """The status, or what broke."""


class Load:
    """Submits until it has been told to end and enough jobs were accepted."""

    def __init__(self, url: str, keys: Mapping[str, str], history: History, *, seed: int, rate: float) -> None:
        self.posts: list[Post] = []
        self.rate = rate
        """Submissions a second; a measure may change it at any time."""
        self.accepted = 0
        self._history = history
        self._chance = random.Random(seed)
        self._images = [_image(random.Random(seed + number), number) for number in range(_IMAGES)]
        self._clients = [
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT, trust_env=False)
            for key in keys.values()
        ]
        self._tenants = list(keys)
        self._enough = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin to submit."""
        self._thread.start()

    def end_after(self, jobs: int) -> None:
        """End as soon as so many jobs are accepted."""
        self._enough = jobs
        self._ending.set()

    @property
    def running(self) -> bool:
        """Whether it still submits."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Wait for what is under way."""
        self._enough = 0
        self._ending.set()
        self._thread.join()
        for client in self._clients:
            client.close()

    def _run(self) -> None:
        due = time.monotonic()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="client") as pool:
            while not (self._ending.is_set() and self.accepted >= self._enough):
                burst = self._chance.randint(1, 2 * _BURST - 1)
                due += burst * self._chance.expovariate(self.rate)
                time.sleep(max(0.0, due - time.monotonic()))
                tenant = self._chance.randrange(len(self._clients))
                for image in self._chance.choices(self._images, k=burst):
                    pool.submit(self._submit, tenant, image, self._chance.random())

    def _submit(self, tenant: int, image: bytes, fate: float) -> None:
        client = self._clients[tenant]
        began, at = time.monotonic(), time.time()
        try:
            response = client.post("/v1/jobs", files={"image": ("image.png", image)})
            answer = str(response.status_code)
        except httpx.TransportError as error:
            answer = type(error).__name__
        else:
            if response.status_code == httpx.codes.ACCEPTED:
                job = response.json()["id"]
                digest = hashlib.sha256(image).hexdigest()
                self._history.accepted(Accepted(job, self._tenants[tenant], digest, time.time()))
                self.accepted += 1
                self.posts.append(Post(at, time.monotonic() - began, answer))
                self._follow(client, job, fate)
                if self._tenants[tenant] == _REPLAYS and _is_broken(image):
                    self._replay(client, job, digest)
                return
        self.posts.append(Post(at, time.monotonic() - began, answer))

    def _follow(self, client: httpx.Client, job: str, fate: float) -> None:
        try:
            if fate < _CANCELED:
                response = client.post(f"/v1/jobs/{job}/cancel")
            elif fate < _CANCELED + _ASKED_FOR:
                time.sleep(fate * 10)  # between 0.3 and 1.3 s: about when verdicts come
                response = client.get(f"/v1/jobs/{job}")
            else:
                return
        except httpx.TransportError:
            return
        if response.is_success and response.json()["status"] in TERMINAL:
            self._history.observed(Observed(job, response.json()["status"], "the API"))

    def _replay(self, client: httpx.Client, job: str, digest: str) -> None:
        """Have a job that fails run again as a new one, as soon as it has failed."""
        give_up_at = time.monotonic() + _LOOKS_SECONDS
        while time.monotonic() < give_up_at:
            try:
                response = client.post(f"/v1/jobs/{job}/replay")
            except httpx.TransportError:
                return
            if response.status_code == httpx.codes.ACCEPTED:
                self._history.accepted(Accepted(response.json()["id"], _REPLAYS, digest, time.time()))
                self.accepted += 1
                return
            time.sleep(_LOOK_SECONDS)


def _is_broken(image: bytes) -> bool:
    return not image.endswith(b"IEND\xaeB`\x82")


def _image(chance: random.Random, number: int) -> bytes:
    """A picture of its own of some 60 kilobytes; every twelfth has a good head and a broken body."""
    size = (chance.randrange(60, 240), chance.randrange(60, 240))
    file = io.BytesIO()
    Image.frombytes("RGB", size, chance.randbytes(size[0] * size[1] * 3)).save(file, "PNG", compress_level=1)
    data = file.getvalue()
    return data[: len(data) // 2] if number % 12 == 11 else data


def latency(posts: Sequence[Post], percent: float) -> float:
    """Return a percentile of the seconds that these took; 0 where there are none."""
    ordered = sorted(post.seconds for post in posts)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0
