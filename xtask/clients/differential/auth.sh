# auth, user, role: from an open cluster to a guarded one and back.

# as USER:PASSWORD COMMAND…
as() {
    local user=$1
    shift
    etcdctl --user="$user" "$@"
}

etcdctl auth status
etcdctl auth status -w json
etcdctl auth enable
etcdctl user list
etcdctl user add root:rootpw
etcdctl user add root:rootpw
etcdctl user add alice:alicepw -w json
etcdctl user add bob --new-user-password=bobpw
etcdctl user add carol --no-password
etcdctl user add '' --no-password
etcdctl user add empty:
etcdctl user add interactive --interactive=false <<<secret
etcdctl user list
etcdctl user list -w json
etcdctl user get alice
etcdctl user get alice -w json
etcdctl user get absent
etcdctl user delete interactive
etcdctl user delete absent
etcdctl role list
etcdctl role add readers
etcdctl role add readers
etcdctl role add writers -w json
etcdctl role add ''
etcdctl role add root
etcdctl role list
etcdctl role list -w json
etcdctl role grant-permission readers read a/ --prefix
etcdctl role grant-permission readers read b c
etcdctl role grant-permission readers read d
etcdctl role grant-permission readers read e --from-key
etcdctl role grant-permission readers read d -w json
etcdctl role grant-permission readers nonsense d
etcdctl role grant-permission readers read z y
etcdctl role grant-permission readers
etcdctl role grant-permission absent read a
etcdctl role grant-permission writers write a/ --prefix
etcdctl role grant-permission writers readwrite w
etcdctl role get readers
etcdctl role get readers -w json
etcdctl role get writers
etcdctl role get absent
etcdctl role get root
etcdctl role revoke-permission readers e --from-key
etcdctl role revoke-permission readers b c
etcdctl role revoke-permission readers b c
etcdctl role revoke-permission absent b
etcdctl role get readers
etcdctl user grant-role alice readers
etcdctl user grant-role alice readers
etcdctl user grant-role alice absent
etcdctl user grant-role absent readers
etcdctl user grant-role bob writers
etcdctl user grant-role bob readers
etcdctl user grant-role root root
etcdctl user get bob
etcdctl user get bob --detail
etcdctl user revoke-role bob readers
etcdctl user revoke-role bob readers
etcdctl user passwd alice --interactive=false <<<newpw
etcdctl user passwd absent --interactive=false <<<newpw
etcdctl auth enable

# Guarded.
etcdctl get a/1
etcdctl put a/1 x
etcdctl user list
etcdctl auth status
as root:rootpw auth status
as root:rootpw auth status -w json
as root:wrong get a/1
as absent:x get a/1
as alice:alicepw get a/1
as carol: get a/1
as root:rootpw put a/1 one
as alice:newpw get a/1
as alice:newpw get a/ --prefix
as alice:newpw get a
as alice:newpw get a/ b/
as alice:newpw get '' --prefix
as alice:newpw get a/ --from-key
as alice:newpw get a/ --prefix --endpoints="$M2"
as alice:newpw put a/1 two
as alice:newpw del a/1
as alice:newpw user list
as alice:newpw user get alice
as alice:newpw user get bob
as alice:newpw role get readers
as alice:newpw role get writers
as alice:newpw role add mine
as alice:newpw auth disable
etcdctl_in_any_order member list --user=alice:newpw
as alice:newpw endpoint status
as alice:newpw compaction 2
as alice:newpw defrag
as alice:newpw alarm list
as alice:newpw lease grant 600
as bob:bobpw put a/1 two
as bob:bobpw put a/1 three --prev-kv
as bob:bobpw get a/1
as bob:bobpw put w 1 --prev-kv
as bob:bobpw del a/ --prefix
as bob:bobpw del a/ --prefix --prev-kv
as bob:bobpw del a/ --from-key
as bob:bobpw put elsewhere x --endpoints="$M3"
as alice:newpw txn <<END
value("a/1") = "x"

get a/1

get d

END
as alice:newpw txn <<END
value("w") = "1"

get a/1

get a/1

END
as alice:newpw txn <<END


put a/1 x

END
as bob:bobpw txn <<END

put a/1 x
put w y


END
as alice:newpw watch w --rev=1
"$ETCDCTL" --endpoints="$M1" --user=root:rootpw lease grant 600 >out
lease=$(word 2)
called lease "$lease"
as root:rootpw put secret x --lease="$lease"
as bob:bobpw put w x --lease="$lease"
as bob:bobpw lease revoke "$lease"
as alice:newpw lease timetolive "$lease" --keys
as alice:newpw lease timetolive "$lease"
as root:rootpw user delete root
as root:rootpw role delete root
as root:rootpw user revoke-role root root
as root:rootpw role delete readers
as alice:newpw get a/1
as root:rootpw user get alice
as root:rootpw user delete bob
as bob:bobpw get a/1
etcdctl auth disable
as root:rootpw auth disable
etcdctl auth disable
etcdctl get a/ --prefix
etcdctl get '' --prefix --keys-only -w json
