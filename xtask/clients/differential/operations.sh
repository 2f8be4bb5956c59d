# alarm and defrag.

etcdctl alarm list
etcdctl alarm disarm
etcdctl alarm disarm -w json
etcdctl alarm nonsense
etcdctl defrag
etcdctl defrag --endpoints="$ALL"
etcdctl_in_any_order defrag --cluster
etcdctl defrag --endpoints=127.0.0.1:1
