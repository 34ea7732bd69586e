"""Ports that callback URLs may name: those where web servers listen, and none of other services."""

from collections.abc import Collection

#: Those where receivers listen, as first and last: what the settings say where they say nothing else.
USUAL = ((80, 80), (443, 443), (1024, 65535))

#: Services that listen above 1023, take commands from whoever reaches them, and are never a webhook's receiver.
SERVICES = {
    1433: "SQL Server",
    1521: "Oracle",
    1723: "PPTP",
    2049: "NFS",
    2181: "ZooKeeper",
    2375: "Docker",
    2376: "Docker",
    2377: "Docker",
    2379: "etcd",
    2380: "etcd",
    3306: "MySQL",
    3389: "RDP",
    4369: "Erlang",
    5060: "SIP",
    5061: "SIP",
    5432: "PostgreSQL",
    5671: "AMQP",
    5672: "AMQP",
    5900: "VNC",
    5984: "CouchDB",
    5985: "WinRM",
    5986: "WinRM",
    6000: "X11",
    6379: "Redis",
    6443: "Kubernetes",
    6667: "IRC",
    6697: "IRC",
    9042: "Cassandra",
    9092: "Kafka",
    9100: "printers",
    9200: "Elasticsearch",
    9300: "Elasticsearch",
    10250: "Kubernetes",
    10255: "Kubernetes",
    11211: "memcached",
    26379: "Redis",
    27017: "MongoDB",
}


def outside(port: int, ranges: Collection[tuple[int, int]]) -> bool:
    """Whether it is in none of these ranges, each its first and last."""
    return not any(first <= port <= last for first, last in ranges)
