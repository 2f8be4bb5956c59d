# What differs between any two clusters, etcd's own included. Names of members and what a script
# has called by a name come first; here is the rest. Revisions of keys are compared.
s/"(cluster_id|member_id|raft_term|revision_hash)":[0-9]+/"\1":<\1>/g
s/^"(ClusterID|MemberID|RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse)" : [0-9]+/"\1" : <\1>/
# Durations.
s/\b(took = |took |in )[0-9.]+(s|ms|µs|ns)/\1<time>/g
s/"took":("[^"]*"|[0-9.]+)/"took":<time>/g
# Log lines of the client.
s/"ts":("[^"]*"|[0-9.]+)/"ts":<time>/
s/"caller":"[^"]*"/"caller":<place>/
s/"target":"[^"]*"/"target":<target>/
s/"peer":"Peer[^"]*",//
# How each release numbers itself, what is stored how, and who happens to lead.
/"version":"/s/"(version|storageVersion|dbSize|dbSizeInUse|raftIndex|raftTerm|raftAppliedIndex|hash)":("[^"]*"|[0-9]+)/"\1":<\1>/g
s/"hash":[0-9]+/"hash":<hash>/
s/^"(Version|StorageVersion)" : "[^"]*"/"\1" : <\1>/
s/^"(Hash|Leader)" : .*/"\1" : <\1>/
s/"leader":<id-n.>/"leader":<leader>/
s/^((http:\/\/)?<client-n.>), (<id-n.>), [0-9.]+, .*, (true|false), (true|false), [0-9]+, [0-9]+, [0-9]+,/\1, \3, <version>, …, <leads>, \5, …,/
s/^((http:\/\/)?<client-n.>), [0-9]+(, [0-9]+)?$/\1, <hash>\3/
# A client that panics is its own affair.
/^! (go\.|github|runtime\.|main\.)/d
/^! \t/d
/^! goroutine/d
# The same in a table, whose columns are as wide as what they hold.
/^[|+].*<client-n.>/s/ +/ /g
/^\| (http:\/\/)?<client-n.> \|/s/\| [0-9.]+ \| ([0-9.]+ \| )?[0-9.]+ .?B .*/| <version> | …/
# What holds a lock or is elected is named by a lease.
s/\/[0-9a-f]{15,16}\b/\/<lease>/
# Leases.
s/"(ID|id)":[0-9]{15,}/"\1":<id>/
s/^"ID" : [0-9]{15,}/"ID" : <id>/
s/^lease [0-9a-f]{16} /lease <id> /
s/remaining\([0-9]+s\)/remaining(<time>)/
s/"ttl":[0-9]+,"granted/"ttl":<time>,"granted/
/^"TTL" : [0-9]+$/{N;s/.*\n"GrantedTTL"/"TTL" : <time>\n"GrantedTTL"/}
# An id of fewer digits is padded.
s/^Member +</Member </
# The cluster's id.
s/ cluster +[0-9a-f]{13,16}\b/ cluster <cluster>/
# Snapshots.
s/"size":"[^"]*","took"/"size":<size>,"took"/
s/"etcd-version":"[^"]*"/"etcd-version":<version>/
s/^Server version .*/Server version <version>/
