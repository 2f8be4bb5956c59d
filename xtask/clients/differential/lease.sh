# lease: grant, keep alive, look at, revoke, and what becomes of the keys.

etcdctl lease grant 600
lease=$(word 2)
called lease "$lease"
etcdctl lease grant 600 -w json
etcdctl lease grant 600 -w fields
etcdctl lease grant 1
etcdctl lease grant 0
etcdctl lease grant -- -5
etcdctl lease grant 9000000001
etcdctl lease grant x
etcdctl lease grant
etcdctl lease list | sed '/^[0-9a-f]*$/d'
etcdctl lease timetolive "$lease" --keys
etcdctl put l/a 1 --lease="$lease"
# One key: etcd tells several in any order.
etcdctl lease timetolive "$lease" --keys
etcdctl lease timetolive "$lease" --keys -w json
etcdctl lease timetolive "$lease" --keys -w fields
etcdctl put l/b 2 --lease="$lease" -w json
etcdctl put l/b 3 --ignore-lease
etcdctl get l/b -w fields
etcdctl put l/c 4
etcdctl put l/c --ignore-value --lease="$lease"
etcdctl get l/ --prefix -w json
etcdctl lease timetolive "$lease"
etcdctl lease timetolive "$lease" -w json
etcdctl lease timetolive "$lease" --endpoints="$M2"
etcdctl lease timetolive "$lease" --endpoints="$M3"
etcdctl lease timetolive 1234
etcdctl lease timetolive 1234 -w json
etcdctl lease timetolive zzz
etcdctl lease timetolive
etcdctl lease keep-alive "$lease" --once
etcdctl lease keep-alive "$lease" --once -w json
etcdctl lease keep-alive "$lease" --once --endpoints="$M2"
etcdctl lease keep-alive "$lease" --once --endpoints="$M3"
etcdctl lease keep-alive 1234 --once
etcdctl lease keep-alive zzz
etcdctl lease keep-alive
etcdctl txn <<END
lease("l/a") = "$lease"

put l/txn 1 --lease=$lease


END
etcdctl txn <<END

put l/txn 2 --lease=1234


END
etcdctl put l/a kept
etcdctl put l/b 'kept too'
etcdctl lease timetolive "$lease" --keys
begin keep lease keep-alive "$lease"
until_said keep keepalived
etcdctl lease revoke "$lease"
etcdctl get l/ --prefix
etcdctl lease revoke "$lease"
etcdctl lease revoke "$lease" -w json
etcdctl lease revoke 1234 --endpoints="$M2"
etcdctl lease revoke zzz
etcdctl lease revoke
etcdctl lease timetolive "$lease" --keys
etcdctl lease keep-alive "$lease" --once
etcdctl put l/d 1 --lease="$lease"

# Left alone, a lease expires and takes its keys along.
"$ETCDCTL" --endpoints="$M1" lease grant 2 >out
short=$(word 2)
called short "$short"
quietly put l/short 1 --lease="$short" >/dev/null
for try in $(seq 200); do
    [ -n "$(quietly get l/short)" ] || break
    sleep 0.1
done
etcdctl get l/short -w json
etcdctl lease timetolive "$short"
etcdctl lease nonsense
