# put, get, del in every form.

etcdctl put greeting hello
etcdctl put greeting hello -w json
etcdctl put greeting hello -w fields
etcdctl put greeting 'hello again' --prev-kv
etcdctl put greeting third --prev-kv -w json
etcdctl put greeting third --prev-kv -w fields
etcdctl put new value --prev-kv
etcdctl put -- -dash -value
etcdctl put empty ''
etcdctl put '' value
etcdctl put
etcdctl put key
etcdctl put key value more
etcdctl put key <<<'from standard input'
etcdctl put greeting kept --ignore-value
etcdctl put greeting --ignore-value
etcdctl put absent --ignore-value
etcdctl put absent value --ignore-lease
etcdctl put greeting 'other value' --ignore-lease
etcdctl put key value --lease=1234567890
etcdctl put key value --lease=zzz
etcdctl put key value --lease=0

etcdctl get greeting
etcdctl get greeting -w json
etcdctl get greeting -w fields
etcdctl get greeting -w table
etcdctl get greeting -w nonsense
etcdctl get greeting --hex
etcdctl get greeting --print-value-only
etcdctl get greeting --keys-only
etcdctl get greeting --count-only
etcdctl get greeting --count-only -w fields
etcdctl get greeting --count-only -w json
etcdctl get greeting --keys-only --count-only
etcdctl get greeting --consistency=s
etcdctl get greeting --consistency=l
etcdctl get greeting --consistency=x
etcdctl get -- -dash
etcdctl get empty
etcdctl get absent
etcdctl get absent -w json
etcdctl get ''
etcdctl get

for key in b c a; do
    for value in 2 1; do quietly put "r/$key" "$value$key" >/dev/null; done
done
quietly put r/d 0 >/dev/null
etcdctl get r/ --prefix
etcdctl get r/ --prefix -w json
etcdctl get r/ --prefix -w fields
etcdctl get r/ --prefix --keys-only
etcdctl get r/ --prefix --keys-only -w json
etcdctl get r/ --prefix --count-only -w json
etcdctl get r/ --prefix --limit=2
etcdctl get r/ --prefix --limit=2 -w json
etcdctl get r/ --prefix --limit=-1
etcdctl get r/ --prefix --limit=100 --print-value-only
for target in CREATE KEY MODIFY VALUE VERSION; do
    for order in ASCEND DESCEND; do
        etcdctl get r/ --prefix --sort-by=$target --order=$order
    done
    etcdctl get r/ --prefix --sort-by=$target
done
etcdctl get r/ --prefix --order=DESCEND --limit=1
etcdctl get r/ --prefix --sort-by=NONSENSE
etcdctl get r/ --prefix --order=NONSENSE
etcdctl get r/a r/c
etcdctl get r/c r/a
etcdctl get r/a r/a
etcdctl get r/b --from-key
etcdctl get r/b --from-key --limit=1
etcdctl get '' --from-key --keys-only
etcdctl get '' --prefix --keys-only
etcdctl get r/b --from-key --prefix
etcdctl get r/a r/c --prefix
etcdctl get r/ --prefix --rev=13
etcdctl get r/ --prefix --rev=1
etcdctl get r/ --prefix --rev=0
etcdctl get r/ --prefix --rev=-5
etcdctl get r/ --prefix --rev=1000
etcdctl get r/ --prefix --rev=12 -w json
for member in "$M1" "$M2" "$M3"; do
    etcdctl get greeting --endpoints="$member" -w json
    etcdctl put "by/$member" value --endpoints="$member" -w json
    etcdctl get by --prefix --endpoints="$member"
done
etcdctl get greeting --endpoints="$ALL"
if [ "$RELEASE" != 3.4 ]; then
    etcdctl get r/ --prefix --min-mod-rev=12 --max-mod-rev=14
    etcdctl get r/ --prefix --min-create-rev=12 --max-create-rev=14
    etcdctl get r/ --prefix --min-mod-rev=12 --limit=1 -w json
fi

etcdctl del greeting
etcdctl del greeting
etcdctl del greeting -w json
etcdctl del new --prev-kv
etcdctl del r/d --prev-kv -w json
etcdctl del r/a --prev-kv -w fields
etcdctl del absent --prev-kv
etcdctl del r/b r/c
etcdctl del r/c r/b
etcdctl del r/c --from-key --prev-kv
etcdctl put p/1 one
etcdctl put p/2 two
etcdctl del p/ --prefix --prev-kv
etcdctl del ''
etcdctl del
etcdctl del a b c
etcdctl del a b --prefix
etcdctl del '' --prefix
etcdctl del '' --from-key
etcdctl get '' --from-key
etcdctl get '' --from-key -w json
head -c 1600000 /dev/zero | tr '\0' x >large
recorded 'etcdctl put large (1.6 MB)' "$ETCDCTL" --endpoints="$M1" put large <large |
    grep -v '^< xxx'
etcdctl nonsense
etcdctl get key --nonsense
