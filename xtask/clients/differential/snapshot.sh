# snapshot save, and restore by each server's own tool: the contents are compared.

for n in 1 2 3; do
    quietly put "s/$n" "$n" >/dev/null
    quietly put "s/$n" "again $n" >/dev/null
done
quietly del s/2 >/dev/null
etcdctl snapshot save saved | sed 's/ at .*saved/ at saved/'
etcdctl snapshot save
etcdctl snapshot save saved --endpoints="$ALL"
etcdctl snapshot nonsense
quietly put s/later x >/dev/null
# Each server's own tool reads its own file: the revision, and what the figures are called.
if [ "$SERVER" = etcd ]; then status=("$ETCDUTL" snapshot status saved -w json); else status=("$SERVER_BINARY" snapshot status saved --json); fi
echo '$ snapshot status'
"${status[@]}" 2>&1 | sed -E 's/"(hash|totalKey|totalSize)":[0-9]+/"\1":<\1>/g; s/(<totalSize>),.*/\1}/'
if [ "$SERVER" = etcd ]; then restore=("$ETCDUTL" snapshot restore); else restore=("$SERVER_BINARY" restore); fi
"${restore[@]}" saved --data-dir restored-data --name restored \
    --initial-cluster "restored=http://$P4" --initial-advertise-peer-urls "http://$P4" \
    >restore.log 2>&1 || cat restore.log
serve restored --initial-cluster "restored=http://$P4"
etcdctl get '' --prefix --endpoints="$M4"
etcdctl get '' --prefix --endpoints="$M4" -w fields | sed '/MemberID/d'
etcdctl get s/1 --rev=2 --endpoints="$M4"
etcdctl get s/2 --rev=5 --endpoints="$M4"
etcdctl put s/4 x --endpoints="$M4" -w fields | sed '/MemberID/d'
etcdctl member list --endpoints="$M4" | sed -E 's/^[0-9a-f]+,/<id>,/'
kill "$served"
wait "$served" 2>/dev/null
