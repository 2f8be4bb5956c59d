# endpoint, member list, version: how a cluster is looked at.

etcdctl version | sed -E 's/[0-9]+\.[0-9]+\.[0-9]+/<version>/'
etcdctl_in_any_order endpoint health
etcdctl_in_any_order endpoint health --endpoints="$ALL"
etcdctl_in_any_order endpoint health --cluster
etcdctl_in_any_order endpoint health --cluster -w json
etcdctl endpoint health --endpoints=127.0.0.1:1
etcdctl endpoint status
etcdctl endpoint status --endpoints="$ALL"
etcdctl_in_any_order endpoint status --cluster
etcdctl endpoint status -w json
etcdctl endpoint status -w fields
etcdctl endpoint status -w table
etcdctl endpoint status --endpoints=127.0.0.1:1
quietly put k v >/dev/null
quietly put k w >/dev/null
etcdctl endpoint hashkv
etcdctl endpoint hashkv --endpoints="$ALL"
etcdctl_in_any_order endpoint hashkv --cluster
etcdctl_in_any_order endpoint hashkv --cluster --rev=2
etcdctl endpoint hashkv -w json
etcdctl endpoint hashkv -w fields
etcdctl endpoint hashkv --rev=1000
quietly compaction 3 >/dev/null
etcdctl endpoint hashkv --rev=2
etcdctl endpoint nonsense
etcdctl_in_any_order member list
etcdctl_in_any_order member list -w json
etcdctl_in_any_order member list -w fields
etcdctl_in_any_order member list -w table
etcdctl_in_any_order member list --endpoints="$M3"
etcdctl member nonsense
etcdctl alarm list
etcdctl alarm list -w json
