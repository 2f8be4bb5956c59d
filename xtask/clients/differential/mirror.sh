# make-mirror: to another prefix of the same cluster.

quietly put from/1 one >/dev/null
quietly put from/2 two >/dev/null
begin mirror make-mirror --prefix=from/ --dest-prefix=to/ "$M1"
for try in $(seq 200); do
    [ "$(quietly get to/2 --print-value-only)" = two ] && break
    sleep 0.05
done
quietly put from/3 three >/dev/null
quietly del from/1 >/dev/null
quietly put from/4 four >/dev/null
for try in $(seq 200); do
    [ "$(quietly get to/4 --print-value-only)" = four ] && break
    sleep 0.05
done
etcdctl get to/ --prefix
end mirror 'etcdctl make-mirror'
etcdctl make-mirror
