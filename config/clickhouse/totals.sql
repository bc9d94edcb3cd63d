-- Packets and bytes of each source in both directions, by application.
SELECT
    src_ip,
    app_proto,
    count() AS flows,
    sum(flow.pkts_toserver) AS packets_up,
    sum(flow.bytes_toserver) AS bytes_up,
    sum(flow.pkts_toclient) AS packets_down,
    sum(flow.bytes_toclient) AS bytes_down,
    sum(mailflow.messages_estimated) AS messages
FROM mailflow.last
GROUP BY src_ip, app_proto
ORDER BY bytes_up + bytes_down DESC
