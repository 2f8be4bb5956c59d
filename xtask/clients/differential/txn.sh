# txn: conditions of every kind, both branches, nested output forms, refusals.

quietly put t one >/dev/null
quietly put t two >/dev/null
for condition in 'value("t") = "two"' 'value("t") = "one"' 'value("t") != "one"' \
    'value("t") > "a"' 'value("t") < "a"' 'version("t") = "2"' 'ver("t") = "2"' \
    'version("t") > "2"' 'create("t") = "2"' 'c("t") < "2"' 'mod("t") = "3"' 'm("t") > "3"' \
    'mod("t") != "3"' 'create("absent") = "0"' 'value("absent") = ""' 'lease("t") = "0"' \
    'nonsense("t") = "0"' 'value("t")' 'value(t) = two' 'mod("t") = "x"'; do
    etcdctl txn <<END
$condition

get t

get absent

END
done
etcdctl txn <<END


put t/put 1
put t/put --prev-kv 2
END
etcdctl txn <<END


put t/put 1
get t
get t --prefix --keys-only
get t/ --prefix --limit=1
del absent
put t --prev-kv three
del absent/ --prefix

END
etcdctl txn -w json <<END
mod("t") > "0"
version("t/put") = "1"

put t/json 1
get t
del t/put --prev-kv
get t/put

get unreached

END
etcdctl txn -w fields <<END
mod("t") = "0"

put unreached 1

put t/fields 1
get t/fields
del t/json

END
etcdctl txn <<END

put twice 1
put twice 2


END
etcdctl txn <<END

put p/twice 1
del p/ --prefix


END
etcdctl txn <<END

del p/ --prefix
del p/twice


END
etcdctl txn <<END

nonsense t


END
etcdctl txn <<END

put


END
etcdctl txn <<END




END
etcdctl txn <<END
END
etcdctl txn <<END

get t --rev=1000


END
etcdctl txn <<END

put rolled back
get t --rev=1000


END
etcdctl txn <<END

put '' value


END
{
    echo
    for at in $(seq 129); do echo "put many/$at x"; done
    echo
    echo
} >many
etcdctl txn <many
sed -i '/many.129/d' many
etcdctl txn <many
etcdctl txn --interactive <<END
value("t") = "three"

put t four

get t

END
etcdctl get t --prefix
etcdctl get '' --prefix --keys-only -w json
