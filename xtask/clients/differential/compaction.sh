# compaction, defrag, and what is told about the past.

for value in 1 2 3 4; do quietly put c "$value" >/dev/null; done
etcdctl compaction
etcdctl compaction x
etcdctl compaction 3
etcdctl compaction 3
etcdctl compaction 2
etcdctl compaction 0
etcdctl compaction -- -1
etcdctl compaction 1000
etcdctl get c --rev=2
etcdctl get c --rev=3
etcdctl get c --rev=4 -w json
etcdctl del c
etcdctl compaction 6 --physical
etcdctl get c --rev=6
etcdctl get c
etcdctl compact 6
etcdctl put c again -w json
etcdctl compact 7 -w json
