# check: what the load tests say. Figures and verdicts are the machine's; errors are compared.

# verdicts ARGUMENTS…: without the bars, which say how far it is.
verdicts() {
    etcdctl "$@" | tr '\r' '\n' | sed -nE '
        s/^(PASS|FAIL): Throughput .* [0-9]+ writes.s$/Throughput: <verdict>/p
        s/^(PASS: )?Slowest request took .*s$/Slowest request: <verdict>/p
        s/^(PASS: |FAIL: )?Stddev .*s$/Standard deviation: <verdict>/p
        s/^(PASS|FAIL): (Approximate system memory used).*/\2: <verdict>/p
        s/^(PASS|FAIL)$/<verdict>/p
        s/^(Compact(ing|ed) with revision) [0-9]+$/\1 <revision>/p
        /^(\$|Start|Defrag|Finish|Error|FAIL: too|FAIL: ERROR|FAIL: C)/p'
}

verdicts check datascale --load=s --auto-compact --auto-defrag
# A minute, of the same calls by a client of either release.
[ "$RELEASE" = 3.4 ] || verdicts check perf --load=s
etcdctl get /etcdctl-check --prefix --keys-only
etcdctl put used/1 x | sed '/^OK/d'
etcdctl check perf --prefix=used/
etcdctl check datascale --prefix=used/
etcdctl check perf --load=nonsense
etcdctl check datascale --load=nonsense
etcdctl check nonsense
