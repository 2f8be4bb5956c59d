# lock and elect: one at a time, in turn.

etcdctl lock alone -- echo locked
etcdctl lock alone --ttl=5 -- sh -c 'echo "$ETCD_LOCK_KEY" "$ETCD_LOCK_REV"'
etcdctl lock alone -- sh -c 'exit 3'
etcdctl lock
etcdctl get alone --prefix --keys-only
begin first lock turn
until_said first turn/
begin second lock turn
sleep 0.5
[ -s second.out ] && echo 'the second holder came in'
end first 'etcdctl lock: the first holder'
until_said second turn/
etcdctl get turn --prefix --keys-only
end second 'etcdctl lock: the second holder'
etcdctl get turn --prefix

begin first elect post one
until_said first one
begin second elect post two
etcdctl get post --prefix --print-value-only --limit=1
begin observer elect --listen post
until_said observer one
end first 'etcdctl elect: the first candidate'
until_said second two
until_said observer two
end observer 'etcdctl elect --listen'
etcdctl get post --prefix
end second 'etcdctl elect: the second candidate'
etcdctl get post --prefix
etcdctl elect
etcdctl elect post
etcdctl elect --listen post proposal
