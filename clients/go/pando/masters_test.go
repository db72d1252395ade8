package pando

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"pando.dev/go/internal/gen"
)

// Servers as nodes: each leads some partitions, and names another one for the rest.

func notMaster(master string) gen.KvError {
	return gen.KvError{Code: gen.NOT_MASTER, Applied: gen.APPLIED_NO, Retryable: true, RetryAfterMs: 20, Master: &master}
}

// leads answers puts of one key; for the others it names a master.
func leads(key string, master func() string) answer {
	return func(c net.Conn, r request) bool {
		put := gen.PutRequest{}
		if err := put.Read(background, r.body); err == nil && string(put.Key) == key {
			return applies(1)(c, r)
		}
		return refuses(notMaster(master()))(c, r)
	}
}

func TestReferralIsForOneCallOnly(t *testing.T) {
	b := newFakeServer(t, applies(1))
	a := newFakeServer(t, leads("a", b.address))
	client := newTestClient(t, Config{}, a, b)
	client.core.pool.preferred = 0
	for _, key := range []string{"b", "a", "b", "a"} {
		if _, err := client.Put(background, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.seen()) != 4 || len(b.seen()) != 2 {
		t.Fatal(len(a.seen()), len(b.seen()))
	}
}

func TestCallsForSeveralMastersDoNotSteerEachOther(t *testing.T) {
	var a, b *fakeServer
	a = newFakeServer(t, leads("a", func() string { return b.address() }))
	b = newFakeServer(t, leads("b", func() string { return a.address() }))
	client := newTestClient(t, Config{PoolSize: 8}, a, b)
	const puts = 50
	var group sync.WaitGroup
	for _, key := range []string{"a", "b", "a", "b", "a", "b", "a", "b"} {
		group.Add(1)
		go func(key string) {
			defer group.Done()
			for i := 0; i < puts; i++ {
				if _, err := client.Put(background, key, nil); err != nil {
					t.Error(key, err)
					return
				}
			}
		}(key)
	}
	group.Wait()
	if sent := len(a.seen()) + len(b.seen()); sent > 2*8*puts {
		t.Fatal(sent, "requests")
	}
	for _, s := range []*fakeServer{a, b} {
		s.mu.Lock()
		if len(s.connections) > 8 {
			t.Error(len(s.connections), "connections to one server") // those to several do not displace each other
		}
		s.mu.Unlock()
	}
}

// There is no wait before a master that was not asked yet, but one before it is asked again.
func TestNamedMasterIsAskedAtOnceButOnlyOnce(t *testing.T) {
	var a, b *fakeServer
	names := func(master func() string) answer {
		return func(c net.Conn, r request) bool {
			e := notMaster(master())
			e.RetryAfterMs = 60_000 // beyond the deadline
			return refuses(e)(c, r)
		}
	}
	a = newFakeServer(t, names(func() string { return b.address() }))
	b = newFakeServer(t, names(func() string { return a.address() }))
	_, err := newTestClient(t, Config{}, a, b).Get(background, "k")
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeDeadline || e.Tries != 2 || len(a.seen()) != 1 || len(b.seen()) != 1 {
		t.Fatal(err)
	}
}

// silentServer accepts connections and never answers. The channel has one item for each connection.
func silentServer(t *testing.T) (string, chan bool) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted, done := make(chan bool, 1000), make(chan bool)
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			accepted <- true
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return listener.Addr().String(), accepted
}

func TestSilentMasterDoesNotHoldUpCallsForOthers(t *testing.T) {
	silent, accepted := silentServer(t)
	a := newFakeServer(t, leads("a", func() string { return silent }))
	client := newTestClient(t, Config{Addresses: []string{silent}, Timeout: 5 * time.Second, ConnectTimeout: time.Minute}, a)
	client.core.pool.preferred = 1
	ctx, cancel := context.WithCancel(background)
	ended := make(chan bool)
	go func() {
		client.Put(ctx, "b", nil)
		close(ended)
	}()
	<-accepted
	for i := 0; i < 20; i++ {
		if _, err := client.Put(background, "a", nil); err != nil {
			t.Error(err)
			break
		}
	}
	client.Close()
	cancel()
	<-ended
}

// Only a connection that the server has closed says nothing about the server.
func TestServerThatFallsSilentIsLeft(t *testing.T) {
	first, second := newFakeServer(t, givesRecord("1"), hangs), newFakeServer(t, givesRecord("2"))
	client := newTestClient(t, Config{}, first, second)
	client.core.pool.preferred = 0
	if _, err := client.Get(background, "k"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	if _, err := client.Get(ctx, "k"); !errors.Is(err, ErrDeadline) {
		t.Fatal(err)
	}
	if record, err := client.Get(background, "k"); err != nil || string(record.Value) != "2" {
		t.Fatal(string(record.Value), err)
	}
}

// A call that its caller has ended says nothing about the server either.
func TestCancelledCallDoesNotBlameTheServer(t *testing.T) {
	server := newFakeServer(t, givesRecord("1"), hangs)
	client := newTestClient(t, Config{}, server)
	client.Get(background, "k")
	ctx, cancel := context.WithCancel(background)
	go func() {
		waitUntil(t, func() bool { return len(server.seen()) == 2 })
		cancel()
	}()
	if _, err := client.Get(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if a := client.core.pool.addresses[0]; !a.avoidUntil.IsZero() {
		t.Fatal("the address counts as one that has failed")
	}
}

func TestWatchLeavesAServerThatCannotServeIt(t *testing.T) {
	good := newFakeServer(t, gives(&gen.KvWatchResult{Success: &gen.WatchReply{Position: []byte("p")}}))
	for name, refusal := range map[string]gen.KvError{
		"not master":  notMaster(good.address()),
		"unavailable": {Code: gen.UNAVAILABLE, Applied: gen.APPLIED_NO, Retryable: true},
	} {
		t.Run(name, func(t *testing.T) {
			bad := newFakeServer(t, refuses(refusal))
			client := newTestClient(t, Config{}, bad, good)
			client.core.pool.preferred = 0
			w, err := client.Watch(background, "")
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if string(w.Position()) != "p" || len(bad.seen()) != 1 {
				t.Fatal(len(bad.seen()), "requests to the server that cannot serve it")
			}
		})
	}
}

// Servers may write an address in another way than the user.
func TestNamedAddressesAreComparedAsHostAndPort(t *testing.T) {
	config := Config{Addresses: []string{"a:1", " [::1]:2 ", "Node-3:3"}}
	client, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if config.Addresses[1] != " [::1]:2 " {
		t.Fatal("the caller's addresses were changed")
	}
	p := client.core.pool
	for named, want := range map[string]int{"[::1]:2": 1, "::1:2": 1, " [::1]:2": 1, "node-3:3": 2, "Node-3:3": 2,
		"a:1": -1, "[::1]:3": -1, "stranger:2": -1, "": -1, "no address": -1, ":": -1} {
		next, isNamed := p.afterRefusal(p.addresses[0], named)
		if isNamed != (want >= 0) || isNamed && next != p.addresses[want] {
			t.Errorf("%q: %v, %v", named, next.name, isNamed)
		}
	}
}
