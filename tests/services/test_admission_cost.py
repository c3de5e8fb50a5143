"""What it costs to count open jobs: `pytest -m slow -s tests/services/test_admission_cost.py` prints its figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine, insert, make_url, text

from shared.database.engine import REQUEST, Database
from shared.database.tables import Tenant
from shared.jobs.admission import Admission, OpenLimits, TenantFullError

ENDED, OPEN, OF_ONE_TENANT = 1_000_000, 99_000, 9_900

_JOBS = """
INSERT INTO jobs (id, tenant_id, state, created_at, deadline_at, finished_at, pictures, metadata, source_key,
                  source_sha256, source_bytes, media_type)
SELECT gen_random_uuid(), (SELECT id FROM tenants ORDER BY name OFFSET number % 10 LIMIT 1), :state,
       now() - number * interval '86 milliseconds', now() + number * interval '1 second',
       CASE WHEN :state = 'queued' THEN NULL ELSE now() - number * interval '86 milliseconds' END,
       '{}', '{}', 'k', 'x', 1, 'image/png'
FROM generate_series(1, :rows) AS number
"""


@pytest.fixture
def busy(empty_database: str) -> tuple[str, UUID]:
    """A day of a million jobs behind it, and nearly as many open jobs as may be; its URL and a tenant."""
    engine = create_engine(make_url(empty_database).set(drivername="postgresql+psycopg2"))  # it may take its time
    with engine.begin() as connection:
        names: list[dict[str, Any]] = [{"id": uuid4(), "name": f"tenant {number}"} for number in range(10)]
        connection.execute(insert(Tenant), names)
        for state, rows in (("succeeded", ENDED), ("queued", OPEN)):
            connection.execute(text(_JOBS), {"state": state, "rows": rows})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))
    engine.dispose()
    return empty_database, names[0]["id"]


def _milliseconds(call: Callable[[], object]) -> float:
    took = []
    for _ in range(20):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_counting_is_cheap_beside_a_million_jobs(busy: tuple[str, UUID]) -> None:
    url, tenant = busy
    database = Database(url, waits=REQUEST)
    admission = Admission(database, OpenLimits(100_000, 10_000))

    def check(admission: Admission) -> None:
        with database.begin() as session:
            admission.check_tenant(session, tenant)

    own = _milliseconds(lambda: check(admission))

    def count() -> None:
        Admission(database, OpenLimits(100_000, 10_000)).check_service()  # a new one remembers no count

    everybody = _milliseconds(count)
    full = Admission(database, OpenLimits(OPEN, OF_ONE_TENANT))

    def refused() -> None:
        with pytest.raises(TenantFullError):
            check(full)

    refusal = _milliseconds(refused)
    print(  # noqa: T201  # the figures are what the test is called for
        f"\nbeside {ENDED:,} ended jobs: a tenant's {OF_ONE_TENANT:,} open jobs counted in {own:.1f} ms, "
        f"all {OPEN:,} in {everybody:.1f} ms (reused for {min(20 * everybody, 1000):.0f} ms), "
        f"a refusal in {refusal:.1f} ms"
    )
    assert own < 50
    assert everybody < 500
    database.close()
