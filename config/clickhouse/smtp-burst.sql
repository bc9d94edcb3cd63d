-- The rule smtp-burst over flow records: one row for each alert that the agent would have raised.
-- docs/integrate/clickhouse.md explains the query. Parameters (--param_threshold 10 ...):
--   window, resolve_after  seconds
--   threshold              number of flows at which the alert fires
--   resolve_below          number of flows below which the alert is resolved

WITH
    toInt64({window:UInt32}) * 1000000 AS window_us,
    toInt64({resolve_after:UInt32}) * 1000000 AS resolve_us,

-- A flow counts once: at its first line that matches the rule.
counted AS
(
    SELECT
        gateway,
        flow_id,
        argMin(src_ip, (timestamp, flow.age)) AS client,
        min(toUnixTimestamp64Micro(timestamp)) AS at
    FROM mailflow.flows
    WHERE proto = 'TCP'
        AND dest_port IN (25, 465, 587, 994)
        AND app_proto IN ('smtp', 'smtp+starttls', 'smtps', 'unseen')
        AND flow.pkts_toserver > 0 AND flow.bytes_toserver >= 80 * flow.pkts_toserver
        AND flow.pkts_toclient > 0 AND flow.bytes_toclient >= 80 * flow.pkts_toclient
        AND dictGetOrDefault('mailflow.places', 'place', toIPv6(src_ip), toInt8(0)) = 1
        AND dictGetOrDefault('mailflow.places', 'place', toIPv6(dest_ip), toInt8(0)) IN (0, 3)
    GROUP BY gateway, flow_id
),

-- IPv6 clients with the same /64 prefix are one source.
sources AS
(
    SELECT
        if(isIPv4String(client), client, concat(toString(IPv6CIDRToRange(toIPv6(client), 64).1), '/64')) AS source,
        at
    FROM counted
),

-- The window at time t is (t - window, t]. At the time of a flow it contains K flows if the flow K - 1 positions earlier
-- is within the window, until that flow leaves it.
windows AS
(
    SELECT
        source,
        at,
        lagInFrame(at, {threshold:UInt32} - 1, toInt64(-1)) OVER rows AS first_of_threshold,
        lagInFrame(at, {resolve_below:UInt32} - 1, toInt64(-1)) OVER rows AS first_of_kept,
        first_of_threshold > at - window_us AND first_of_threshold >= 0 AS fires,
        first_of_kept + window_us AS keeps_until
    FROM sources
    WINDOW rows AS (PARTITION BY source ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
),

-- After the value was below the limit for resolve_after, the alert is resolved and a new one may begin.
kept AS
(
    SELECT
        source,
        at,
        fires,
        keeps_until,
        lagInFrame(keeps_until, 1, toInt64(0)) OVER rows AS kept_before,
        at - kept_before >= resolve_us AS begins
    FROM windows
    WHERE first_of_kept >= 0 AND keeps_until > at
    WINDOW rows AS (PARTITION BY source ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
),

numbered AS
(
    SELECT
        source,
        at,
        fires,
        keeps_until,
        sum(begins) OVER (PARTITION BY source ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS number
    FROM kept
)

SELECT
    source,
    fromUnixTimestamp64Micro(minIf(at, fires), 'UTC') AS starts_at,
    fromUnixTimestamp64Micro(max(keeps_until), 'UTC') AS ends_at
FROM numbered
GROUP BY source, number
HAVING countIf(fires) > 0
ORDER BY starts_at, source
