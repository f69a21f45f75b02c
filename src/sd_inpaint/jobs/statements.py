"""The statements that both stores of accepted jobs run, in the SQL that SQLite and PostgreSQL share."""

from typing import Final

from sd_inpaint.jobs.rows import COLUMNS

FREE: Final = "live AND (owner IS NULL OR lease_until <= :now - :grace)"

LONG_SECONDS: Final = 1e9

# A "deleted" row is invisible; it distinguishes a second DELETE from a DELETE of an unknown job.
SEEN: Final = "state <> 'deleted' AND (expires_at IS NULL OR expires_at > :now)"

BY_KEY: Final = f"SELECT {COLUMNS} FROM jobs WHERE key = :key AND {SEEN}"  # noqa: S608  # no value is put in here

BY_ID: Final = f"SELECT {{columns}} FROM jobs WHERE id = :id AND {SEEN}"  # noqa: S608  # as above

COUNT: Final = f"SELECT count(*) AS waiting FROM jobs WHERE {FREE}"  # noqa: S608  # as above

COUNT_OWN: Final = f"{COUNT} AND coalesce(caller, '') = :caller"

INSERT: Final = """
INSERT INTO jobs (id, key, fingerprint, parameters, owner, lease_until, created_at, deadline_at, steps,
    caller, bytes)
VALUES (:id, :key, :fingerprint, :parameters, :owner, :now + :lease, :now, :deadline_at, :steps, :caller, :bytes)
ON CONFLICT (key) DO NOTHING RETURNING id
"""

RENEW: Final = "UPDATE jobs SET lease_until = :now + :lease WHERE id = :id AND owner = :owner AND live RETURNING id"

NOTE: Final = """
UPDATE jobs SET lease_until = :now + :lease, state = :state, step = :step, steps = :steps, seconds_left = :seconds_left,
    queue_position = :queue_position, version = version + 1, preview = coalesce(:preview, preview),
    preview_version = preview_version + :previews,
    started_at = CASE WHEN :state = 'queued' THEN started_at ELSE coalesce(started_at, :now) END
WHERE id = :id AND owner = :owner AND live RETURNING id
"""

# Steps are -1 where they stay as they were reported, 0 where nothing was painted.
END: Final = """
UPDATE jobs SET state = :state, version = version + 1, owner = NULL, preview = NULL, queue_position = 0,
    seconds_left = NULL, finished_at = :now, expires_at = :now + :ttl, result = :result, error = :error, bytes = :bytes,
    step = CASE :steps WHEN -1 THEN step WHEN 0 THEN 0 ELSE steps END,
    steps = CASE :steps WHEN 0 THEN 0 ELSE steps END
WHERE id = :id AND owner = :owner AND live RETURNING id
"""

HAND_BACK: Final = """
UPDATE jobs SET state = 'queued', version = version + 1, owner = NULL, runs = runs - 1, step = 0, started_at = NULL,
    seconds_left = NULL, preview = NULL
WHERE id = :id AND owner = :owner AND live
"""

CLAIM: Final = """
UPDATE jobs SET owner = :owner, lease_until = :now + :lease, runs = runs + 1, state = 'queued', step = 0,
    preview = NULL, started_at = NULL, seconds_left = NULL, version = version + 1
WHERE number = (SELECT number FROM jobs WHERE {free} ORDER BY number LIMIT 1 {skip_locked}) RETURNING {columns}
"""

# A key is free again with its job: the caller who took the job back may want another.
REMOVE: Final = """
UPDATE jobs SET parameters = :parameters, error = NULL, bytes = 0,
    state = CASE WHEN state IN ('done', 'failed') THEN 'deleted' ELSE 'cancelled' END,
    version = version + 1, owner = NULL, key = NULL, preview = NULL, result = NULL, queue_position = 0,
    seconds_left = NULL, finished_at = coalesce(finished_at, :now), expires_at = coalesce(expires_at, :now + :ttl)
WHERE id = :id AND state NOT IN ('cancelled', 'deleted') RETURNING id
"""

OWN: Final = "SELECT parameters FROM jobs WHERE id = :id AND (caller IS NULL OR caller = :caller)"

KEPT: Final = f"""
SELECT coalesce(sum(bytes), 0) AS bytes, min(expires_at) - :now AS frees_in_seconds FROM jobs
WHERE coalesce(caller, '') = :caller AND bytes > 0 AND {SEEN}
"""  # noqa: S608  # as above

FREE_KEY: Final = "UPDATE jobs SET key = NULL WHERE key = :key AND (state = 'deleted' OR expires_at <= :now)"
