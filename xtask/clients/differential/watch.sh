# watch: history and what follows, in every form.

quietly put w/a 1 >/dev/null
quietly put w/a 2 >/dev/null
quietly del w/a >/dev/null
quietly put w/b 3 >/dev/null
quietly put x last >/dev/null

# told TITLE LAST ARGUMENTS…: a watch of history, until it has said LAST.
told() {
    local last=$1
    shift
    local title="etcdctl watch $*"
    begin watch watch "$@"
    until_said watch "$last"
    end watch "$title"
}

told 3 --rev=2 w/ --prefix
told 3 --rev=2 w/ --prefix --prev-kv
told 3 --rev=3 w/ --prefix
told DELETE --rev=2 w/a
told last --rev=2 w/b y
told '"mod_revision":5' --rev=2 w/ --prefix -w json
told '"mod_revision":5' --rev=2 w/ --prefix --prev-kv -w json
told '"w/b"' --rev=2 w/ --prefix -w fields
told w/b --rev=2 --endpoints="$M2" w/ --prefix
told w/b --rev=2 --endpoints="$M3" w/ --prefix
told EVENT_DONE --rev=5 w/b -- sh -c 'env | grep ^ETCD_WATCH | sort; echo EVENT_DONE'

# What is yet to come: the watch is in place once the revision it waits for is in the future.
begin watch watch w/new --rev=8
quietly put w/other x >/dev/null
quietly put w/new too-early >/dev/null
quietly put w/new expected >/dev/null
quietly del w/new >/dev/null
until_said watch DELETE
end watch 'etcdctl watch from a future revision'

if [ "$RELEASE" != 3.4 ]; then
    begin watch watch w/progress --rev=7 --progress-notify
    quietly put w/progress x >/dev/null
    until_said watch w/progress
    end watch 'etcdctl watch --progress-notify'
fi

# It ends with its input.
mkfifo commands
(printf 'watch w/b --rev=2\nwatch x --rev=2\n'; sleep 10) >commands &
FROM=commands begin watch watch --interactive
until_said watch last
until_said watch w/b
LC_ALL=C sort -o watch.out watch.out
end watch 'etcdctl watch --interactive'

etcdctl watch
etcdctl watch --interactive <<<nonsense
etcdctl watch w/ --prefix --from-key

quietly put w/b 4 >/dev/null
etcdctl compaction 7
etcdctl watch w/ --prefix --rev=2
told 4 --rev=8 w/ --prefix
