# member add, update, promote, remove; move-leader.

lead() {
    for try in $(seq 100); do
        [ "$(leader)" = "$1" ] && return
        quietly move-leader "$(id_of "$1")" --endpoints="$ALL" >/dev/null 2>&1
        sleep 0.1
    done
    echo "$1 does not lead"
}
lead "$M1"

etcdctl move-leader
etcdctl move-leader zzz
etcdctl move-leader "$(id_of "$M1")" --endpoints="$M2"
etcdctl move-leader 1234
etcdctl move-leader "$(id_of "$M1")"
etcdctl move-leader "$(id_of "$M2")"
[ "$(leader)" = "$M2" ] || echo "$(leader) leads"
lead "$M1"

etcdctl member add
etcdctl member add n4
etcdctl member add n4 --peer-urls=nonsense
# etcd takes a change only once the members have been in touch for five seconds.
for try in $(seq 100); do
    quietly member add n4 --peer-urls="http://$P1" 2>&1 | grep -q unhealthy || break
    sleep 0.1
done
etcdctl member add n4 --peer-urls="http://$P1"
etcdctl member update zzz --peer-urls="http://$P4"
etcdctl member update 1234 --peer-urls="http://$P4"
etcdctl member update "$(id_of "$M2")" --peer-urls="http://$P1"
etcdctl member update "$(id_of "$M2")"
etcdctl member promote zzz
etcdctl member promote 1234
etcdctl member promote "$(id_of "$M2")"
etcdctl member remove zzz
etcdctl member remove 1234
etcdctl member remove

"$ETCDCTL" --endpoints="$M1" member add n4 --learner --peer-urls="http://$P4" >out
called id-n4 "$(word 2)"
n4=$(word 2)
# The cluster's id, and the members in the order of their ids.
sed '/^ETCD_INITIAL_CLUSTER=/d' out
etcdctl_in_any_order member list
etcdctl_in_any_order member list -w json
etcdctl member promote "$n4"
etcdctl member add n5 --learner --peer-urls="http://127.0.0.1:1"
etcdctl move-leader "$n4"
serve n4 --initial-cluster "$N1=http://$P1,$N2=http://$P2,$N3=http://$P3,n4=http://$P4" \
    --initial-cluster-state existing
# etcd serves clients once its name is known to all, Quorate a moment earlier.
for try in $(seq 100); do
    quietly member list | grep -q 'started, n4' && break
    sleep 0.1
done
etcdctl_in_any_order member list
etcdctl get x --endpoints="$M4" --consistency=s
# 3.4 calls this Unavailable, and its client tries a hundred times.
if [ "$RELEASE" != 3.4 ]; then
    etcdctl get x --endpoints="$M4"
    etcdctl put x y --endpoints="$M4"
fi
for try in $(seq 100); do
    quietly member promote "$n4" >promoted 2>&1 && break
    sleep 0.1
done
cat promoted
etcdctl member promote "$n4"
# Not while it learns: etcd promotes it by that, which is a known fault.
etcdctl member update "$n4" --peer-urls="http://$P4"
etcdctl put x y --endpoints="$M4"
etcdctl get x --endpoints="$M4"
etcdctl_in_any_order member list
etcdctl member remove "$n4"
etcdctl member remove "$n4"
etcdctl_in_any_order member list
etcdctl put x z
kill "$served" 2>/dev/null
wait "$served" 2>/dev/null
