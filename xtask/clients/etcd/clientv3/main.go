// The stock Go client against a running cluster.
//
// Usage: clientv3 ENDPOINT…, with ETCDCTL_CACERT and ETCDCTL_USER (name:password) in the
// environment where the cluster wants them. Prints `ok <name>` or `FAIL <name>: <why>` per check and
// fails if one did. Passes against stock etcd too, which keeps it honest.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

// How long one check may take.
const timeout = 30 * time.Second

type check struct {
	name string
	run  func(context.Context, *clientv3.Client) error
}

func main() {
	checks := []check{
		{"put, get and delete", putGetDelete},
		{"a transaction compares and takes one branch", transaction},
		{"a watch tells history and what follows", watch},
		{"a lease is kept alive, then revoked with its keys", leaseKeptAlive},
		{"a lease that nobody keeps expires", leaseExpires},
		{"a mutex is held by one at a time", mutex},
		{"a mutex that is held refuses to be tried", tryLock},
		{"an election changes hands, and is observed", election},
		{"a session that ends loses its lock", sessionEnds},
		{"software transactional memory loses no update", memory},
		{"members and status", members},
		{"a snapshot is streamed", snapshot},
		{"errors are the client's own", clientErrors},
	}
	if os.Getenv("ETCDCTL_USER") != "" {
		checks = append(checks,
			check{"a token outlives a change of roles", tokenRefresh},
			check{"a user reads and writes what its roles allow", permissions})
	}
	failed := false
	for _, check := range checks {
		if err := within(check.run); err != nil {
			failed = true
			fmt.Printf("FAIL %s: %s\n", check.name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Printf("ok %s\n", check.name)
		}
	}
	if failed {
		os.Exit(1)
	}
}

func within(run func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	name, password, _ := strings.Cut(os.Getenv("ETCDCTL_USER"), ":")
	client, err := connect(name, password)
	if err != nil {
		return err
	}
	defer client.Close()
	return run(ctx, client)
}

func connect(name, password string) (*clientv3.Client, error) {
	endpoints := os.Args[1:]
	if name != "" {
		// A member that lags does not know a token yet, and the client gives up a stream for it:
		// seen with etcd's own servers.
		endpoints = endpoints[:1]
	}
	config := clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: 5 * time.Second,
		Username:    name,
		Password:    password,
		Logger:      zap.NewNop(),
	}
	if path := os.Getenv("ETCDCTL_CACERT"); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		config.TLS = &tls.Config{RootCAs: roots}
	}
	return clientv3.New(config)
}

func putGetDelete(ctx context.Context, client *clientv3.Client) error {
	put, err := client.Put(ctx, "go/a", "1")
	if err != nil {
		return err
	}
	got, err := client.Get(ctx, "go/a")
	if err != nil || got.Count != 1 || got.Kvs[0].ModRevision != put.Header.Revision {
		return fmt.Errorf("%v after %v: %v", got, put, err)
	}
	again, err := client.Put(ctx, "go/a", "2", clientv3.WithPrevKV())
	if err != nil || string(again.PrevKv.Value) != "1" {
		return fmt.Errorf("previous value: %v %v", again, err)
	}
	deleted, err := client.Delete(ctx, "go/a", clientv3.WithPrevKV())
	if err != nil || deleted.Deleted != 1 || string(deleted.PrevKvs[0].Value) != "2" {
		return fmt.Errorf("deleted: %v %v", deleted, err)
	}
	return nil
}

func transaction(ctx context.Context, client *clientv3.Client) error {
	if _, err := client.Delete(ctx, "go/txn"); err != nil {
		return err
	}
	create := func() (*clientv3.TxnResponse, error) {
		absent := clientv3.Compare(clientv3.CreateRevision("go/txn"), "=", 0)
		return client.Txn(ctx).If(absent).
			Then(clientv3.OpPut("go/txn", "created")).
			Else(clientv3.OpGet("go/txn")).Commit()
	}
	first, err := create()
	if err != nil || !first.Succeeded {
		return fmt.Errorf("first: %v %v", first, err)
	}
	second, err := create()
	if err != nil || second.Succeeded {
		return fmt.Errorf("second: %v %v", second, err)
	}
	found := second.Responses[0].GetResponseRange().Kvs[0]
	if string(found.Value) != "created" || found.ModRevision != first.Header.Revision {
		return fmt.Errorf("found %v", found)
	}
	return nil
}

func watch(ctx context.Context, client *clientv3.Client) error {
	first, err := client.Put(ctx, "go/w/a", "1")
	if err != nil {
		return err
	}
	changes := client.Watch(ctx, "go/w/", clientv3.WithPrefix(), clientv3.WithPrevKV(),
		clientv3.WithRev(first.Header.Revision))
	if _, err := client.Put(ctx, "go/w/b", "2"); err != nil {
		return err
	}
	if _, err := client.Delete(ctx, "go/w/a"); err != nil {
		return err
	}
	seen := ""
	for response := range changes {
		if err := response.Err(); err != nil {
			return err
		}
		for _, event := range response.Events {
			seen += fmt.Sprintf("%s %s;", event.Type, event.Kv.Key)
			if event.Type == clientv3.EventTypeDelete {
				if want := "PUT go/w/a;PUT go/w/b;DELETE go/w/a;"; seen != want {
					return fmt.Errorf("seen %q", seen)
				}
				if string(event.PrevKv.Value) != "1" {
					return fmt.Errorf("previous value %v", event.PrevKv)
				}
				return nil
			}
		}
	}
	return fmt.Errorf("the watch ended after %q", seen)
}

func leaseKeptAlive(ctx context.Context, client *clientv3.Client) error {
	lease, err := client.Grant(ctx, 3)
	if err != nil {
		return err
	}
	if _, err := client.Put(ctx, "go/l", "x", clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	kept, err := client.KeepAlive(ctx, lease.ID)
	if err != nil {
		return err
	}
	// Longer than the lease would live by itself.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		select {
		case answer, open := <-kept:
			if !open || answer.TTL != 3 {
				return fmt.Errorf("kept alive: %v", answer)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	left, err := client.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || left.TTL < 1 || len(left.Keys) != 1 {
		return fmt.Errorf("time to live: %v %v", left, err)
	}
	if _, err := client.Revoke(ctx, lease.ID); err != nil {
		return err
	}
	got, err := client.Get(ctx, "go/l")
	if err != nil || got.Count != 0 {
		return fmt.Errorf("after the revocation: %v %v", got, err)
	}
	if _, err := client.KeepAliveOnce(ctx, lease.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("keep-alive of a revoked lease: %v", err)
	}
	return nil
}

func leaseExpires(ctx context.Context, client *clientv3.Client) error {
	lease, err := client.Grant(ctx, 2)
	if err != nil {
		return err
	}
	put, err := client.Put(ctx, "go/expires", "x", clientv3.WithLease(lease.ID))
	if err != nil {
		return err
	}
	changes := client.Watch(ctx, "go/expires", clientv3.WithRev(put.Header.Revision+1))
	for response := range changes {
		for _, event := range response.Events {
			if event.Type == clientv3.EventTypeDelete {
				return nil
			}
		}
	}
	return ctx.Err()
}

func mutex(ctx context.Context, client *clientv3.Client) error {
	var group sync.WaitGroup
	var held, overlaps atomic.Int32
	failures := make(chan error, 4)
	for range 4 {
		group.Add(1)
		go func() {
			defer group.Done()
			session, err := concurrency.NewSession(client, concurrency.WithContext(ctx))
			if err != nil {
				failures <- err
				return
			}
			defer session.Close()
			mutex := concurrency.NewMutex(session, "go/mutex")
			for range 5 {
				if err := mutex.Lock(ctx); err != nil {
					failures <- err
					return
				}
				if held.Add(1) > 1 {
					overlaps.Add(1)
				}
				time.Sleep(time.Millisecond)
				held.Add(-1)
				if err := mutex.Unlock(ctx); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	group.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return err
	}
	if n := overlaps.Load(); n > 0 {
		return fmt.Errorf("held by two at once, %d times", n)
	}
	return nil
}

func tryLock(ctx context.Context, client *clientv3.Client) error {
	var mutexes [2]*concurrency.Mutex
	for i := range mutexes {
		session, err := concurrency.NewSession(client, concurrency.WithContext(ctx))
		if err != nil {
			return err
		}
		defer session.Close()
		mutexes[i] = concurrency.NewMutex(session, "go/try")
	}
	if err := mutexes[0].TryLock(ctx); err != nil {
		return err
	}
	if err := mutexes[1].TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		return fmt.Errorf("a held lock: %v", err)
	}
	if err := mutexes[0].Unlock(ctx); err != nil {
		return err
	}
	return mutexes[1].TryLock(ctx)
}

func election(ctx context.Context, client *clientv3.Client) error {
	var candidates [2]*concurrency.Election
	for i := range candidates {
		session, err := concurrency.NewSession(client, concurrency.WithContext(ctx))
		if err != nil {
			return err
		}
		defer session.Close()
		candidates[i] = concurrency.NewElection(session, "go/election")
	}
	seen := candidates[1].Observe(ctx)
	observe := func(want string) error {
		for response := range seen {
			if got := string(response.Kvs[0].Value); got == want {
				return nil
			}
		}
		return fmt.Errorf("%q was never observed", want)
	}
	if err := candidates[0].Campaign(ctx, "first"); err != nil {
		return err
	}
	if err := observe("first"); err != nil {
		return err
	}
	if err := candidates[0].Proclaim(ctx, "first again"); err != nil {
		return err
	}
	if err := observe("first again"); err != nil {
		return err
	}
	won := make(chan error, 1)
	go func() { won <- candidates[1].Campaign(ctx, "second") }()
	if err := candidates[0].Resign(ctx); err != nil {
		return err
	}
	if err := <-won; err != nil {
		return err
	}
	if err := observe("second"); err != nil {
		return err
	}
	leader, err := candidates[0].Leader(ctx)
	if err != nil || string(leader.Kvs[0].Value) != "second" {
		return fmt.Errorf("leader: %v %v", leader, err)
	}
	return candidates[1].Resign(ctx)
}

func sessionEnds(ctx context.Context, client *clientv3.Client) error {
	first, err := concurrency.NewSession(client, concurrency.WithTTL(2))
	if err != nil {
		return err
	}
	if err := concurrency.NewMutex(first, "go/session").Lock(ctx); err != nil {
		return err
	}
	// No longer kept alive: its lease expires.
	first.Orphan()
	second, err := concurrency.NewSession(client, concurrency.WithContext(ctx))
	if err != nil {
		return err
	}
	defer second.Close()
	return concurrency.NewMutex(second, "go/session").Lock(ctx)
}

func memory(ctx context.Context, client *clientv3.Client) error {
	if _, err := client.Put(ctx, "go/stm", "0"); err != nil {
		return err
	}
	const clients, increments = 4, 5
	failures := make(chan error, clients)
	for range clients {
		go func() {
			for range increments {
				_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
					var n int
					fmt.Sscan(stm.Get("go/stm"), &n)
					stm.Put("go/stm", fmt.Sprint(n+1))
					return nil
				}, concurrency.WithAbortContext(ctx))
				if err != nil {
					failures <- err
					return
				}
			}
			failures <- nil
		}()
	}
	for range clients {
		if err := <-failures; err != nil {
			return err
		}
	}
	got, err := client.Get(ctx, "go/stm")
	if err != nil || string(got.Kvs[0].Value) != fmt.Sprint(clients*increments) {
		return fmt.Errorf("counted %v %v", got, err)
	}
	return nil
}

func members(ctx context.Context, client *clientv3.Client) error {
	list, err := client.MemberList(ctx)
	if err != nil || len(list.Members) != len(os.Args[1:]) {
		return fmt.Errorf("members: %v %v", list, err)
	}
	for _, endpoint := range os.Args[1:] {
		status, err := client.Status(ctx, endpoint)
		if err != nil || status.Leader == 0 {
			return fmt.Errorf("%s: %v %v", endpoint, status, err)
		}
	}
	return nil
}

func snapshot(ctx context.Context, client *clientv3.Client) error {
	stream, err := client.SnapshotWithVersion(ctx)
	if err != nil {
		return err
	}
	defer stream.Snapshot.Close()
	bytes, err := io.Copy(io.Discard, stream.Snapshot)
	if err != nil {
		return err
	}
	// A SHA-256 follows whole blocks, by which etcd's tools know a snapshot.
	if bytes == 0 || bytes%512 != 32 {
		return fmt.Errorf("%d bytes", bytes)
	}
	return nil
}

func clientErrors(ctx context.Context, client *clientv3.Client) error {
	now, err := client.Get(ctx, "go/errors")
	if err != nil {
		return err
	}
	future := clientv3.WithRev(now.Header.Revision + 1000)
	if _, err := client.Get(ctx, "go/errors", future); !errors.Is(err, rpctypes.ErrFutureRev) {
		return fmt.Errorf("a revision of the future: %v", err)
	}
	if _, err := client.Put(ctx, "", "x"); !errors.Is(err, rpctypes.ErrEmptyKey) {
		return fmt.Errorf("an empty key: %v", err)
	}
	lease := clientv3.WithLease(clientv3.LeaseID(4711))
	if _, err := client.Put(ctx, "go/errors", "x", lease); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("no such lease: %v", err)
	}
	twice := []clientv3.Op{clientv3.OpPut("go/errors", "1"), clientv3.OpPut("go/errors", "2")}
	if _, err := client.Txn(ctx).Then(twice...).Commit(); !errors.Is(err, rpctypes.ErrDuplicateKey) {
		return fmt.Errorf("a key put twice: %v", err)
	}
	return nil
}

// user makes one that may do this with keys below go/mine/, and is gone at the end.
func user(ctx context.Context, root *clientv3.Client, kind clientv3.PermissionType) (func(), error) {
	remove := func() {
		root.UserDelete(ctx, "gopher")
		root.RoleDelete(ctx, "gopher")
	}
	remove()
	if _, err := root.RoleAdd(ctx, "gopher"); err != nil {
		return remove, err
	}
	end := clientv3.GetPrefixRangeEnd("go/mine/")
	if _, err := root.RoleGrantPermission(ctx, "gopher", "go/mine/", end, kind); err != nil {
		return remove, err
	}
	if _, err := root.UserAdd(ctx, "gopher", "secret"); err != nil {
		return remove, err
	}
	_, err := root.UserGrantRole(ctx, "gopher", "gopher")
	return remove, err
}

func tokenRefresh(ctx context.Context, root *clientv3.Client) error {
	remove, err := user(ctx, root, clientv3.PermissionType(clientv3.PermReadWrite))
	defer remove()
	if err != nil {
		return err
	}
	client, err := connect("gopher", "secret")
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Put(ctx, "go/mine/a", "1"); err != nil {
		return err
	}
	// Tokens of older revisions of the users are refused; the client asks for a new one.
	if _, err := root.RoleAdd(ctx, "go-other"); err != nil {
		return err
	}
	if _, err := root.RoleDelete(ctx, "go-other"); err != nil {
		return err
	}
	if _, err := client.Put(ctx, "go/mine/a", "2"); err != nil {
		return fmt.Errorf("after a change of roles: %w", err)
	}
	return nil
}

func permissions(ctx context.Context, root *clientv3.Client) error {
	remove, err := user(ctx, root, clientv3.PermissionType(clientv3.PermRead))
	defer remove()
	if err != nil {
		return err
	}
	client, err := connect("gopher", "secret")
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Get(ctx, "go/mine/a"); err != nil {
		return err
	}
	if _, err := client.Put(ctx, "go/mine/a", "x"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return fmt.Errorf("a write with a permission to read: %v", err)
	}
	if _, err := client.Get(ctx, "go/", clientv3.WithPrefix()); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return fmt.Errorf("more than the permission's range: %v", err)
	}
	if _, err := connect("gopher", "wrong"); !errors.Is(err, rpctypes.ErrAuthFailed) {
		return fmt.Errorf("a wrong password: %v", err)
	}
	return nil
}
