package pando

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"pando.dev/go/internal/gen"
)

var background = context.Background()

// Every answer that is none makes the client throw the connection away, and repeat the request on another one.
func TestUselessAnswers(t *testing.T) {
	record := &gen.KvGetResult{Success: &gen.GetReply{Record: &gen.Record{Found: true, Value: []byte("wrong")}}}
	for name, bad := range map[string]answer{
		"sequence":  func(c net.Conn, r request) bool { r.seq++; return send(c, r, record) },
		"method":    func(c net.Conn, r request) bool { r.method = "put"; return send(c, r, record) },
		"kind":      func(c net.Conn, r request) bool { c.Write(frameOf(r.method, thrift.CALL, r.seq, record)); return true },
		"empty":     gives(&gen.KvGetResult{}),
		"no bytes":  writes([]byte{0, 0, 0, 0}, true),
		"garbage":   writes([]byte{0, 0, 0, 4, 1, 2, 3, 4}, true),
		"length":    writes([]byte{0x7f, 0xff, 0xff, 0xff, 1}, true),
		"cut":       cuts,
		"cut frame": writes([]byte{0, 0, 0, 100, 0x80}, false),
		"too long": func(c net.Conn, r request) bool {
			frame := append(frameOf(r.method, thrift.REPLY, r.seq, record), 7)
			frame[3]++
			c.Write(frame)
			return true
		},
		"half a struct": func(c net.Conn, r request) bool {
			frame := frameOf(r.method, thrift.REPLY, r.seq, record)
			frame = frame[:len(frame)-5]
			frame[3] -= 5
			c.Write(frame)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := newFakeServer(t, bad, givesRecord("right"))
			client := newTestClient(t, Config{}, server)
			record, err := client.Get(background, "k")
			if err != nil || string(record.Value) != "right" {
				t.Fatalf("got %q, %v", record.Value, err)
			}
			seen := server.seen()
			if len(seen) != 2 || seen[0].connection == seen[1].connection {
				t.Fatalf("the connection was used again: %v", seen)
			}
		})
	}
}

// A write that had no answer is sent again under its name, on another connection.
func TestWriteIsRepeatedUnderItsName(t *testing.T) {
	server := newFakeServer(t, cuts, cuts, applies(7), applies(8))
	client := newTestClient(t, Config{}, server)
	result, err := client.Put(background, "k", []byte("v"))
	if err != nil || !result.Applied || result.Version != 7 {
		t.Fatal(result, err)
	}
	client.Put(background, "k", []byte("w"))
	seen := server.seen()
	for _, r := range seen[1:3] {
		if !bytes.Equal(r.context.ClientID, seen[0].context.ClientID) || r.context.Sequence != 1 ||
			r.context.FirstSentMs != seen[0].context.FirstSentMs {
			t.Fatalf("another name: %v, %v", seen[0].context, r.context)
		}
	}
	if len(seen[0].context.ClientID) != 16 || seen[0].context.FirstSentMs < fakeNowMs {
		t.Fatalf("a bad name: %v", seen[0].context)
	}
	// Its outcome is known, so the lane is used again.
	if !bytes.Equal(seen[3].context.ClientID, seen[0].context.ClientID) || seen[3].context.Sequence != 2 {
		t.Fatalf("the lane is not used again: %v", seen[3].context)
	}
}

func TestLaneWithUnknownOutcomeIsThrownAway(t *testing.T) {
	unknown := gen.KvError{Code: gen.UNAVAILABLE, Applied: gen.APPLIED_UNKNOWN}
	server := newFakeServer(t, refuses(unknown), refuses(gen.KvError{Code: gen.DISK_FULL, Applied: gen.APPLIED_NO}), applies(1))
	client := newTestClient(t, Config{}, server)
	_, err := client.Put(background, "k", nil)
	var e *Error
	if !errors.As(err, &e) || e.Applied != AppliedUnknown || !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDeadline) {
		t.Fatal(err)
	}
	if _, err = client.Put(background, "k", nil); !errors.Is(err, ErrDiskFull) || !errors.As(err, &e) || e.Applied != AppliedNo {
		t.Fatal(err)
	}
	if _, err = client.Put(background, "k", nil); err != nil {
		t.Fatal(err)
	}
	seen := server.seen()
	if bytes.Equal(seen[0].context.ClientID, seen[1].context.ClientID) {
		t.Fatal("the lane of a write with an unknown outcome was used again")
	}
	if !bytes.Equal(seen[1].context.ClientID, seen[2].context.ClientID) || seen[2].context.Sequence != 2 {
		t.Fatal("the lane of a write that was refused was not used again")
	}
}

func TestDeadlines(t *testing.T) {
	busy := refuses(gen.KvError{Code: gen.OVERLOADED, Applied: gen.APPLIED_NO, Retryable: true, Message: "busy"})
	for _, test := range []struct {
		name    string
		script  []answer
		applied Applied
		cause   error
	}{
		{"refused", []answer{busy}, AppliedNo, ErrUnavailable},
		{"cut, then refused", []answer{cuts, busy}, AppliedUnknown, ErrUnavailable},
		{"no answer", []answer{hangs}, AppliedUnknown, ErrUnavailable},
		{"cut", []answer{cuts}, AppliedUnknown, ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := newFakeServer(t, test.script...)
			client := newTestClient(t, Config{}, server)
			ctx, cancel := context.WithTimeout(background, 150*time.Millisecond)
			defer cancel()
			began := time.Now()
			_, err := client.Put(ctx, "k", nil)
			var e *Error
			if !errors.As(err, &e) || e.Code != CodeDeadline || e.Applied != test.applied || e.Tries < 1 {
				t.Fatal(err)
			}
			if !errors.Is(err, ErrDeadline) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, test.cause) {
				t.Fatal("another kind of error: ", err)
			}
			if took := time.Since(began); took < 140*time.Millisecond || took > 3*time.Second {
				t.Fatal("it took", took)
			}
			ctx, cancel = context.WithTimeout(background, 50*time.Millisecond)
			defer cancel()
			if _, err = client.Get(ctx, "k"); !errors.As(err, &e) || e.Applied != AppliedNo {
				t.Fatal("a read: ", err)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	server := newFakeServer(t)
	server.stop()
	client := newTestClient(t, Config{Timeout: 100 * time.Millisecond}, server)
	_, err := client.Put(background, "k", nil)
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeDeadline || e.Applied != AppliedNo || e.Tries < 2 {
		t.Fatal(err)
	}
	var transport *TransportError
	if !errors.As(err, &transport) || transport.Address != server.address() || transport.Protocol {
		t.Fatal(err)
	}
}

func TestCancelReturnsAtOnce(t *testing.T) {
	server := newFakeServer(t, hangs)
	client := newTestClient(t, Config{Timeout: time.Hour}, server)
	ctx, cancel := context.WithCancel(background)
	go func() {
		for len(server.seen()) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := client.Put(ctx, "k", nil)
	var e *Error
	if !errors.Is(err, context.Canceled) || !errors.As(err, &e) || e.Applied != AppliedUnknown {
		t.Fatal(err)
	}
	if _, err = client.Put(ctx, "k", nil); !errors.Is(err, context.Canceled) || !errors.As(err, &e) || e.Applied != AppliedNo {
		t.Fatal(err)
	}
}

func TestErrorsAreTyped(t *testing.T) {
	for code, kind := range map[int32]error{gen.BAD_REQUEST: ErrBadRequest, gen.TOO_LARGE: ErrBadRequest,
		gen.BAD_CURSOR: ErrBadRequest, gen.TOKEN_MISMATCH: ErrBadRequest, gen.SNAPSHOT_GONE: ErrSnapshotGone,
		gen.FEED_GONE: ErrFeedGone, gen.SESSION_LOST: ErrSessionLost, gen.DISK_FULL: ErrDiskFull,
		gen.CORRUPT: ErrCorrupt, gen.INTERNAL: ErrInternal, gen.DENIED: nil, 99: nil} {
		server := newFakeServer(t, refuses(gen.KvError{Code: code, Message: "why", Applied: gen.APPLIED_NO}))
		_, err := newTestClient(t, Config{}, server).Get(background, "k")
		var e *Error
		if !errors.As(err, &e) || e.Code != Code(code) || e.Message != "why" || e.Kind() != kind {
			t.Fatalf("%d: %v", code, err)
		}
		if kind != nil && (!errors.Is(err, kind) || e.Advice() == "") {
			t.Fatalf("%v is not %v", err, kind)
		}
		if len(server.seen()) != 1 {
			t.Fatalf("%v was repeated", err)
		}
	}
	if Code(99).String() != "CODE_99" || CodeFeedGone.String() != "FEED_GONE" {
		t.Fatal("names of codes")
	}
}

func TestServerDoesNotUnderstand(t *testing.T) {
	for kind, code := range map[int32]Code{thrift.UNKNOWN_METHOD: CodeBadRequest, thrift.INTERNAL_ERROR: CodeInternal} {
		refusal := thrift.NewTApplicationException(kind, "what?")
		server := newFakeServer(t, func(c net.Conn, r request) bool {
			c.Write(frameOf(r.method, thrift.EXCEPTION, r.seq, refusal))
			return true
		})
		var e *Error
		_, err := newTestClient(t, Config{}, server).Get(background, "k")
		if !errors.As(err, &e) || e.Code != code || len(server.seen()) != 1 {
			t.Fatal(err)
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	busy := gen.KvError{Code: gen.OVERLOADED, Applied: gen.APPLIED_NO, Retryable: true, RetryAfterMs: 80}
	server := newFakeServer(t, refuses(busy), givesRecord("x"))
	client := newTestClient(t, Config{}, server)
	began := time.Now()
	if _, err := client.Get(background, "k"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Fatal("it took", took)
	}
}

func TestConnectionThatTheServerClosedIsNoticed(t *testing.T) {
	server := newFakeServer(t, givesRecord("x"))
	client := newTestClient(t, Config{}, server)
	for i := 0; i < 3; i++ {
		if _, err := client.Get(background, "k"); err != nil {
			t.Fatal(err)
		}
		server.closeConnections()
		for _, a := range client.core.pool.addresses {
			for _, c := range a.idle {
				waitUntil(t, func() bool { return !c.isAlive() })
			}
		}
	}
	seen := server.seen()
	if len(seen) != 3 || seen[2].connection != 3 {
		t.Fatal(seen)
	}
}

// Without looking before, such a connection costs a try, but no wait.
func TestConnectionThatBreaksWhenItIsUsed(t *testing.T) {
	server := newFakeServer(t, givesRecord("x"), cuts, givesRecord("y"))
	client := newTestClient(t, Config{}, server)
	client.Get(background, "k")
	record, err := client.Get(background, "k")
	if err != nil || string(record.Value) != "y" {
		t.Fatal(err)
	}
	if a := client.core.pool.addresses[0]; !a.avoidUntil.IsZero() {
		t.Fatal("the address counts as one that has failed")
	}
}

func TestAnotherServerTakesOver(t *testing.T) {
	first, second := newFakeServer(t, givesRecord("1")), newFakeServer(t, givesRecord("2"))
	client := newTestClient(t, Config{}, first, second)
	client.core.pool.preferred = 0
	for _, want := range []string{"1", "1", "2", "2"} {
		record, err := client.Get(background, "k")
		if err != nil || string(record.Value) != want {
			t.Fatalf("got %q, %v, want %q", record.Value, err, want)
		}
		if want == "1" && len(first.seen()) == 2 {
			first.stop()
		}
	}
}

func TestRefusalMovesOnToTheMaster(t *testing.T) {
	right := newFakeServer(t, givesRecord("x"))
	name := right.address()
	wrong := newFakeServer(t, refuses(gen.KvError{Code: gen.NOT_MASTER, Applied: gen.APPLIED_NO, Retryable: true, Master: &name}))
	other := newFakeServer(t)
	client := newTestClient(t, Config{}, wrong, other, right)
	client.core.pool.preferred = 0
	if _, err := client.Get(background, "k"); err != nil {
		t.Fatal(err)
	}
	if len(wrong.seen()) != 1 || len(right.seen()) != 1 {
		t.Fatal(wrong.seen(), right.seen())
	}
}

func TestHello(t *testing.T) {
	server := newFakeServer(t, applies(1))
	client := newTestClient(t, Config{}, server)
	server.hello = func() (*gen.HelloReply, *gen.KvError) {
		return nil, &gen.KvError{Code: gen.UNAUTHENTICATED, Message: "who are you?"}
	}
	_, err := client.Put(background, "k", nil)
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeUnauthenticated || e.Applied != AppliedNo {
		t.Fatal(err)
	}
	server.mu.Lock()
	server.hello = nil
	server.mu.Unlock()
	if _, err := client.Put(background, "k", nil); err != nil {
		t.Fatal(err)
	}
	hellos := server.hellos
	// Clocks drift: after an hour, the server's time is asked for again, before a write.
	client.core.pool.addresses[0].idle[0].helloTime = time.Now().Add(-clockAge - time.Second)
	client.Put(background, "k", nil)
	client.Put(background, "k", nil)
	if server.hellos != hellos+1 {
		t.Fatal(server.hellos, "hellos after", hellos)
	}
	if sent := server.seen()[1].context.FirstSentMs; sent < fakeNowMs || sent > fakeNowMs+60_000 {
		t.Fatal("first sent at", sent)
	}
}

// A server that knows no names gets none, and a write to it is not repeated once it may have been carried out.
func TestServerWithoutNames(t *testing.T) {
	server := newFakeServer(t, cuts, applies(1))
	server.hello = func() (*gen.HelloReply, *gen.KvError) { return &gen.HelloReply{NowMs: 1}, nil }
	client := newTestClient(t, Config{}, server)
	_, err := client.Put(background, "k", nil)
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeTransport || e.Applied != AppliedUnknown || !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if r := server.seen()[0].context; len(r.ClientID) > 0 || r.Sequence != 0 || r.Hlc != 0 {
		t.Fatal(r)
	}
}

func TestHighestHLCIsSent(t *testing.T) {
	at := func(hlc int64) answer {
		return gives(&gen.KvGetResult{Success: &gen.GetReply{Record: &gen.Record{}, Context: &gen.ReplyContext{Hlc: hlc}}})
	}
	refused := gen.KvError{Code: gen.OVERLOADED, Retryable: true, Context: &gen.ReplyContext{Hlc: 90}}
	server := newFakeServer(t, at(50), at(40), refuses(refused), at(10))
	client := newTestClient(t, Config{}, server)
	for i := 0; i < 3; i++ {
		client.Get(background, "k")
	}
	for i, want := range []int64{0, 50, 50, 90} {
		if r := server.seen()[i].context; r.Hlc != want {
			t.Fatalf("request %d has %d", i, r.Hlc)
		}
	}
}

func TestPoolIsBounded(t *testing.T) {
	release := make(chan bool)
	server := newFakeServer(t, func(c net.Conn, r request) bool {
		<-release
		return givesRecord("x")(c, r)
	})
	client := newTestClient(t, Config{PoolSize: 2}, server)
	var group sync.WaitGroup
	for i := 0; i < 6; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := client.Get(background, "k"); err != nil {
				t.Error(err)
			}
		}()
	}
	waitUntil(t, func() bool { return len(server.seen()) == 2 })
	ctx, cancel := context.WithTimeout(background, 30*time.Millisecond)
	defer cancel()
	var e *Error
	if _, err := client.Put(ctx, "k", nil); !errors.As(err, &e) || e.Code != CodeDeadline || e.Tries != 0 || e.Applied != AppliedNo {
		t.Fatal(err)
	}
	close(release)
	group.Wait()
	server.mu.Lock()
	defer server.mu.Unlock()
	if len(server.connections) != 2 {
		t.Fatal(len(server.connections), "connections")
	}
}

func TestCloseEndsCalls(t *testing.T) {
	server := newFakeServer(t, hangs)
	client := newTestClient(t, Config{}, server)
	result := make(chan error)
	go func() {
		_, err := client.Get(background, "k")
		result <- err
	}()
	waitUntil(t, func() bool { return len(server.seen()) == 1 })
	client.Close()
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := client.Get(background, "k"); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, config := range []Config{{}, {Addresses: []string{"localhost"}}, {Addresses: []string{"a:1"}, PoolSize: -1}} {
		if _, err := New(config); !errors.Is(err, ErrBadRequest) {
			t.Fatal(config, err)
		}
	}
}

func waitUntil(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to that")
		}
	}
}

// There is no time to wait for as long as the server asks.
func TestRetryAfterBeyondTheDeadline(t *testing.T) {
	busy := gen.KvError{Code: gen.OVERLOADED, Applied: gen.APPLIED_NO, Retryable: true, RetryAfterMs: 60_000}
	server := newFakeServer(t, refuses(busy))
	client := newTestClient(t, Config{}, server)
	began := time.Now()
	_, err := client.Get(background, "k")
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeDeadline || e.Tries != 1 || time.Since(began) > 4*time.Second {
		t.Fatal(err)
	}
}

// A write at LevelOne has no name. So it is repeated only if it was certainly not applied.
func TestLevelOneHasNoName(t *testing.T) {
	busy := refuses(gen.KvError{Code: gen.OVERLOADED, Applied: gen.APPLIED_NO, Retryable: true})
	server := newFakeServer(t, busy, applies(1), cuts)
	client := newTestClient(t, Config{WriteLevel: LevelOne}, server)
	if _, err := client.Put(background, "k", nil); err != nil {
		t.Fatal(err)
	}
	_, err := client.Put(background, "k", nil)
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeTransport || e.Applied != AppliedUnknown {
		t.Fatal(err)
	}
	for _, r := range server.seen() {
		if len(r.context.ClientID) > 0 || r.context.Sequence != 0 || r.context.FirstSentMs != 0 {
			t.Fatal(r.context)
		}
	}
}

// An earlier try may yet be applied.
func TestRefusalAfterALostAnswerIsUnknown(t *testing.T) {
	server := newFakeServer(t, cuts, refuses(gen.KvError{Code: gen.DISK_FULL, Applied: gen.APPLIED_NO}))
	_, err := newTestClient(t, Config{}, server).Put(background, "k", nil)
	var e *Error
	if !errors.Is(err, ErrDiskFull) || !errors.As(err, &e) || e.Applied != AppliedUnknown {
		t.Fatal(err)
	}
}

// Servers remember each lane, so those that wait for a connection have none.
func TestManyWritesHaveFewLanes(t *testing.T) {
	server := newFakeServer(t, applies(1))
	client := newTestClient(t, Config{PoolSize: 2}, server)
	var group sync.WaitGroup
	for i := 0; i < 200; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := client.Put(background, "k", nil); err != nil {
				t.Error(err)
			}
		}()
	}
	group.Wait()
	ids := map[string]bool{}
	for _, r := range server.seen() {
		ids[string(r.context.ClientID)] = true
	}
	if len(ids) > 50 {
		t.Fatal(len(ids), "lanes")
	}
}
