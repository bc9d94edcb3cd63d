-- ClickHouse tables for the flow records of mailflow-agent from any number of gateways, and for the internal networks.
-- To load the file of a gateway (docs/integrate/clickhouse.md has the rest):
--
--   clickhouse-client --database mailflow --date_time_input_format best_effort \
--     --query "INSERT INTO flows FORMAT JSONEachRow" < /var/log/mailflow/flows.json
--
-- The columns are fields of docs/integrate/events.md; other fields of a line are skipped.

CREATE DATABASE IF NOT EXISTS mailflow;

CREATE TABLE IF NOT EXISTS mailflow.flows
(
    -- Gateway that counted the flow, from the line; the collector may set another name.
    gateway LowCardinality(String) DEFAULT host,
    host LowCardinality(String) DEFAULT '',
    in_iface LowCardinality(String) DEFAULT '',
    timestamp DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    event_type LowCardinality(String),
    flow_id UInt64,
    src_ip String,
    src_port UInt16,
    dest_ip String,
    dest_port UInt16,
    proto LowCardinality(String),
    app_proto LowCardinality(String),
    community_id String,
    vlan Array(UInt16),
    flow Tuple(
        pkts_toserver UInt64,
        bytes_toserver UInt64,
        pkts_toclient UInt64,
        bytes_toclient UInt64,
        start DateTime64(6, 'UTC'),
        end DateTime64(6, 'UTC'),
        age UInt64,
        state LowCardinality(String),
        reason LowCardinality(String)),
    mailflow Tuple(
        payload_up UInt64,
        payload_down UInt64,
        data_packets_up UInt64,
        data_packets_down UInt64,
        data_bytes_up UInt64,
        data_bytes_down UInt64,
        messages_estimated UInt64,
        messages_rejected Nullable(UInt64),
        app_evidence LowCardinality(String),
        complete Bool,
        syn Bool,
        synack Bool,
        mptcp_join Bool,
        mac Nullable(String))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (src_ip, timestamp);

-- To expire old rows: ALTER TABLE mailflow.flows MODIFY TTL toDateTime(timestamp) + INTERVAL 90 DAY

-- An open flow has a line every five minutes; the last line has its final counters.
CREATE VIEW IF NOT EXISTS mailflow.last AS
SELECT * FROM mailflow.flows
ORDER BY timestamp DESC, flow.reason = 'active'
LIMIT 1 BY gateway, flow_id;

-- Networks; the longest match decides. They must equal internal_networks of the agents.
--   internal  internal network
--   special   special-use addresses: neither internal nor the Internet
--   external  excluded from a larger network ("!CIDR")
-- An address in no network is external.
CREATE TABLE IF NOT EXISTS mailflow.networks
(
    network String,
    place Enum8('internal' = 1, 'special' = 2, 'external' = 3),
    comment String
)
ENGINE = MergeTree
ORDER BY network;

INSERT INTO mailflow.networks VALUES
    ('10.0.0.0/8', 'internal', 'RFC 1918'),
    ('172.16.0.0/12', 'internal', 'RFC 1918'),
    ('192.168.0.0/16', 'internal', 'RFC 1918'),
    ('100.64.0.0/10', 'internal', 'RFC 6598'),
    ('fc00::/7', 'internal', 'RFC 4193'),
    ('0.0.0.0/8', 'special', 'this network'),
    ('127.0.0.0/8', 'special', 'loopback'),
    ('169.254.0.0/16', 'special', 'link-local'),
    ('192.0.0.0/24', 'special', 'protocol assignments'),
    ('192.0.2.0/24', 'special', 'documentation'),
    ('198.18.0.0/15', 'special', 'benchmarking'),
    ('198.51.100.0/24', 'special', 'documentation'),
    ('203.0.113.0/24', 'special', 'documentation'),
    ('224.0.0.0/4', 'special', 'multicast'),
    ('255.255.255.255/32', 'special', 'broadcast'),
    ('240.0.0.0/4', 'special', 'reserved'),
    ('::/128', 'special', 'unspecified'),
    ('::1/128', 'special', 'loopback'),
    ('100::/64', 'special', 'discard-only'),
    ('100:0:0:1::/64', 'special', 'dummy prefix'),
    ('2001:2::/48', 'special', 'benchmarking'),
    ('2001:10::/28', 'special', 'ORCHID'),
    ('2001:20::/28', 'special', 'ORCHIDv2'),
    ('2001:db8::/32', 'special', 'documentation'),
    ('3fff::/20', 'special', 'documentation'),
    ('5f00::/16', 'special', 'segment routing'),
    ('fe80::/10', 'special', 'link-local'),
    ('fec0::/10', 'special', 'site-local'),
    ('ff00::/8', 'special', 'multicast');

CREATE DICTIONARY IF NOT EXISTS mailflow.places
(
    network String,
    place Int8
)
PRIMARY KEY network
SOURCE(CLICKHOUSE(QUERY 'SELECT network, CAST(place, \'Int8\') AS place FROM mailflow.networks'))
LAYOUT(IP_TRIE)
LIFETIME(300);
