package pando

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"pando.dev/go/internal/gen"
)

func page(cursor string, keys ...string) answer {
	reply := &gen.ScanReply{Cursor: []byte(cursor)}
	for _, key := range keys {
		reply.Rows = append(reply.Rows, &gen.Row{Key: []byte(key), Value: []byte("v" + key)})
	}
	return gives(&gen.KvScanResult{Success: reply})
}

func scanRequest(t *testing.T, r request) *gen.ScanRequest {
	s := gen.NewScanRequest()
	if err := s.Read(background, r.body); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestScanner(t *testing.T) {
	server := newFakeServer(t, page("c1", "a", "b"), page("c2"), cuts, page("", "c"))
	client := newTestClient(t, Config{}, server)
	scanner := client.Scan(background, Prefix("p"), PageRows(2), FromCursor([]byte("c0")))
	var seen []string
	for scanner.Next() {
		seen = append(seen, fmt.Sprintf("%s=%s %q", scanner.Row().Key, scanner.Row().Value, scanner.Cursor()))
	}
	if scanner.Err() != nil || fmt.Sprint(seen) != `[a=va "c0" b=vb "c1" c=vc ""]` || scanner.Pages() != 3 {
		t.Fatal(seen, scanner.Err())
	}
	for i, want := range []string{"c0", "c1", "c2", "c2"} {
		r := scanRequest(t, server.seen()[i])
		if string(r.Cursor) != want || r.LimitRows != 2 || string(r.Prefix) != "p" {
			t.Fatal(i, r)
		}
	}
}

func TestScannerAsksForNoMoreThanItsLimit(t *testing.T) {
	server := newFakeServer(t, page("c1", "a", "b", "c"), page("c2", "d", "e"), page(""))
	client := newTestClient(t, Config{}, server)
	rows := 0
	scanner := client.Scan(background, Range{}, Limit(5), PageRows(3))
	scanner.All()(func(row Row, err error) bool {
		rows++
		return err == nil
	})
	if rows != 5 || string(scanner.Cursor()) != "c2" {
		t.Fatal(rows, scanner.Cursor())
	}
	seen := server.seen()
	if len(seen) != 2 || scanRequest(t, seen[0]).LimitRows != 3 || scanRequest(t, seen[1]).LimitRows != 2 {
		t.Fatal(seen)
	}
}

func TestScannerReturnsItsError(t *testing.T) {
	server := newFakeServer(t, page("c1", "a"), refuses(gen.KvError{Code: gen.SNAPSHOT_GONE}))
	client := newTestClient(t, Config{}, server)
	var last error
	pairs := 0
	scanner := client.Scan(background, Range{}, InSnapshot([]byte("s")))
	scanner.All()(func(row Row, err error) bool {
		pairs++
		last = err
		return true
	})
	if pairs != 2 || !errors.Is(last, ErrSnapshotGone) || scanner.Next() || string(scanner.Cursor()) != "c1" {
		t.Fatal(pairs, last)
	}
}

func TestMultiGetRepeatsWhatFailed(t *testing.T) {
	item := func(value string) *gen.MultiGetItem {
		return &gen.MultiGetItem{Record: &gen.Record{Found: true, Value: []byte(value)}}
	}
	failed := func(retryable bool) *gen.MultiGetItem {
		return &gen.MultiGetItem{Error: &gen.KvError{Code: gen.UNAVAILABLE, Retryable: retryable, RetryAfterMs: 1}}
	}
	reply := func(items ...*gen.MultiGetItem) answer {
		return gives(&gen.KvMultiGetResult{Success: &gen.MultiGetReply{Items: items}})
	}
	server := newFakeServer(t, reply(item("1"), failed(true), item("3")), reply(item("2")), reply(failed(false), item("2")))
	client := newTestClient(t, Config{}, server)
	records, err := client.MultiGet(background, []string{"a", "b", "c"})
	if err != nil || string(records[0].Value)+string(records[1].Value)+string(records[2].Value) != "123" {
		t.Fatal(records, err)
	}
	r := gen.NewMultiGetRequest()
	r.Read(background, server.seen()[1].body)
	if len(r.Keys) != 1 || string(r.Keys[0]) != "b" {
		t.Fatal(r)
	}
	if _, err = client.MultiGet(background, []string{"a", "b"}); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestBatchIsRepeatedForWritesThatFailed(t *testing.T) {
	passing := &gen.KvError{Code: gen.NOT_MASTER, Applied: gen.APPLIED_NO, Retryable: true, RetryAfterMs: 1}
	reply := func(results ...*gen.WriteResult_) answer {
		return gives(&gen.KvWriteBatchResult{Success: &gen.WriteBatchReply{Results: results}})
	}
	server := newFakeServer(t,
		reply(&gen.WriteResult_{Applied: true, Version: 1, Previous: &gen.Record{Found: true}}, &gen.WriteResult_{Error: passing},
			&gen.WriteResult_{Current: &gen.Record{Found: true, Version: 9}}),
		reply(&gen.WriteResult_{Applied: true, Version: 1, PreviousValueOmitted: true}, &gen.WriteResult_{Applied: true, Version: 2},
			&gen.WriteResult_{}))
	client := newTestClient(t, Config{}, server)
	batch := new(Batch).Put("a", nil, ReturnPrevious()).Increment("b", 1).Remove("c", IfVersion(8))
	result, err := client.WriteBatch(background, batch)
	if err != nil || result.Err() != nil {
		t.Fatal(result, err)
	}
	if r := result.Results; r[0].Previous == nil || r[1].Version != 2 || r[2].Current == nil || r[2].Applied {
		t.Fatal(r)
	}
	seen := server.seen()
	if !bytes.Equal(seen[0].context.ClientID, seen[1].context.ClientID) || seen[1].context.Sequence != 1 {
		t.Fatal("another name")
	}
}

func TestBatchWhoseWritesFailUntilTimeIsOver(t *testing.T) {
	passing := &gen.KvError{Code: gen.NOT_MASTER, Applied: gen.APPLIED_NO, Retryable: true, RetryAfterMs: 5}
	reply := gives(&gen.KvWriteBatchResult{Success: &gen.WriteBatchReply{
		Results: []*gen.WriteResult_{{Applied: true}, {Error: passing}}}})
	for _, last := range []answer{reply, hangs} {
		server := newFakeServer(t, reply, last)
		client := newTestClient(t, Config{Timeout: 60 * time.Millisecond}, server)
		result, err := client.WriteBatch(background, new(Batch).Put("a", nil).Put("b", nil))
		var e *Error
		if err != nil || !result.Results[0].Applied || !errors.As(result.Err(), &e) || e.Code != CodeNotMaster {
			t.Fatal(result, err)
		}
		if unknown := len(server.seen()) == 2; unknown != (e.Applied == AppliedUnknown) {
			t.Fatal(e.Applied, len(server.seen()))
		}
	}
}

func TestOptionsThatAWriteDoesNotHave(t *testing.T) {
	client := newTestClient(t, Config{Addresses: []string{"127.0.0.1:1"}})
	for _, batch := range []*Batch{
		new(Batch).Remove("k", TTL(time.Second)), new(Batch).Touch("k", ReturnPrevious()),
		new(Batch).Put("k", nil, WriteLevel(LevelAll)), new(Batch).Require("k", NoExpiry()),
	} {
		if _, err := client.WriteBatch(background, batch); !errors.Is(err, ErrBadRequest) {
			t.Fatal(err)
		}
	}
	if _, err := client.Increment(background, "k", 1, ReturnPrevious()); !errors.Is(err, ErrBadRequest) {
		t.Fatal(err)
	}
}

func TestWriteOptionsOnTheWire(t *testing.T) {
	server := newFakeServer(t, applies(1))
	client := newTestClient(t, Config{WriteLevel: LevelAll}, server)
	at := time.UnixMilli(5_000)
	client.Put(background, "k", []byte("v"), IfVersion(3), IfExists(), IfValue(nil), TTL(1500*time.Microsecond), ReturnPrevious())
	client.Put(background, "k", nil, IfAbsent(), ExpiresAt(at), WriteLevel(LevelOne))
	client.Put(background, "k", nil, NoExpiry())
	var puts []*gen.PutRequest
	for _, r := range server.seen() {
		p := gen.NewPutRequest()
		p.Read(background, r.body)
		puts = append(puts, p)
	}
	first := puts[0].Condition
	if *first.Version != 3 || !*first.Exists || first.Value == nil || len(first.Value) > 0 {
		t.Fatal(first)
	}
	if puts[0].TTLMode != gen.TTL_SET || puts[0].TTLMs != 2 || !puts[0].ReturnPrevious {
		t.Fatal(puts[0])
	}
	if *puts[1].Condition.Exists || puts[1].TTLMode != gen.TTL_SET_ABSOLUTE || puts[1].ExpiresAtMs != 5_000 {
		t.Fatal(puts[1])
	}
	if puts[2].TTLMode != gen.TTL_CLEAR || puts[2].Condition != nil {
		t.Fatal(puts[2])
	}
	levels := []int32{gen.LEVEL_ALL, gen.LEVEL_ONE, gen.LEVEL_ALL}
	for i, r := range server.seen() {
		if r.context.Level != levels[i] {
			t.Fatal(i, r.context)
		}
	}
}

func TestSessionCarriesItsToken(t *testing.T) {
	token := func(token string) *gen.ReplyContext { return &gen.ReplyContext{Session: []byte(token)} }
	get := func(context *gen.ReplyContext) answer {
		return gives(&gen.KvGetResult{Success: &gen.GetReply{Record: &gen.Record{}, Context: context}})
	}
	put := gives(&gen.KvPutResult{Success: &gen.WriteResult_{Applied: true, Context: token("t1")}})
	empty := gives(&gen.KvWriteBatchResult{Success: &gen.WriteBatchReply{}})
	failed := refuses(gen.KvError{Code: gen.BAD_REQUEST, Context: token("t3")})
	server := newFakeServer(t, get(nil), put, get(token("t2")), empty, failed, get(nil), get(nil))
	client := newTestClient(t, Config{}, server)
	session := client.Session()
	session.Get(background, "k")
	session.Put(background, "k", nil)
	session.Get(background, "k")
	session.WriteBatch(background, new(Batch))
	session.Get(background, "")
	session.Get(background, "k", MaxStaleness(time.Second)) // answered without a token: it has become too large
	session.Get(background, "k")
	for i, want := range []struct {
		token string
		level int32
	}{{"", gen.LEVEL_SESSION}, {"", gen.LEVEL_DEFAULT}, {"t1", gen.LEVEL_SESSION}, {"t2", gen.LEVEL_DEFAULT},
		{"t2", gen.LEVEL_SESSION},
		{"t3", gen.LEVEL_BOUNDED}, {"t3", gen.LEVEL_LINEARIZABLE}} {
		if r := server.seen()[i].context; string(r.Session) != want.token || r.Level != want.level {
			t.Fatal(i, r)
		}
	}
	if _, err := client.Get(background, "k"); err != nil || len(server.seen()[7].context.Session) > 0 {
		t.Fatal("the client itself has a session")
	}
}

func TestSessionDoesOneCallAfterTheOther(t *testing.T) {
	server := newFakeServer(t, hangs)
	client := newTestClient(t, Config{}, server)
	session := client.Session()
	ctx, cancel := context.WithCancel(background)
	var group sync.WaitGroup
	group.Add(1)
	go func() {
		defer group.Done()
		session.Get(ctx, "k")
	}()
	waitUntil(t, func() bool { return len(server.seen()) == 1 })
	short, stop := context.WithTimeout(background, 20*time.Millisecond)
	defer stop()
	if _, err := session.Get(short, "k"); !errors.Is(err, ErrDeadline) {
		t.Fatal(err)
	}
	if len(server.seen()) != 1 {
		t.Fatal("two calls at once")
	}
	cancel()
	group.Wait()
}

func TestSnapshotIsRenewedAndReleased(t *testing.T) {
	reply := &gen.SnapshotReply{Snapshot: []byte("s"), Version: 5, ExpiresAtMs: 100}
	renewed := gives(&gen.KvRenewSnapshotResult{Success: &gen.SnapshotReply{Snapshot: []byte("s"), ExpiresAtMs: 200}})
	server := newFakeServer(t, gives(&gen.KvOpenSnapshotResult{Success: reply}), renewed, cuts, renewed)
	client := newTestClient(t, Config{}, server)
	snapshot, err := client.OpenSnapshot(background, SnapshotTTL(60*time.Millisecond))
	if err != nil || snapshot.Version() != 5 || string(snapshot.Token()) != "s" {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return len(server.seen()) >= 5 })
	if snapshot.ExpiresAt().UnixMilli() != 200 {
		t.Fatal(snapshot.ExpiresAt())
	}
	server.mu.Lock()
	server.script = []answer{gives(&gen.KvReleaseSnapshotResult{Success: &gen.ReleaseSnapshotReply{Existed: true}})}
	server.mu.Unlock()
	if existed, err := snapshot.Release(background); err != nil || !existed {
		t.Fatal(existed, err)
	}
	seen := server.seen()
	if err := snapshot.Close(); err != nil || len(server.seen()) != len(seen) || seen[len(seen)-1].method != "releaseSnapshot" {
		t.Fatal(err)
	}
}

func TestSnapshotsReadThemselves(t *testing.T) {
	reply := &gen.SnapshotReply{Snapshot: []byte("s"), Version: 5}
	server := newFakeServer(t, gives(&gen.KvOpenSnapshotResult{Success: reply}), givesRecord("x"), page("", "a"))
	client := newTestClient(t, Config{ReadLevel: LevelBounded, MaxStaleness: time.Second}, server)
	snapshot, err := client.OpenSnapshot(background, NoRenewal())
	if err != nil {
		t.Fatal(err)
	}
	snapshot.Get(background, "k")
	snapshot.Scan(background, Range{}).Next()
	get := gen.NewGetRequest()
	get.Read(background, server.seen()[1].body)
	if string(get.Snapshot) != "s" || server.seen()[1].context.Level != gen.LEVEL_DEFAULT {
		t.Fatal(get, server.seen()[1].context)
	}
	if r := scanRequest(t, server.seen()[2]); string(r.Snapshot) != "s" {
		t.Fatal(r)
	}
}

func TestWatcher(t *testing.T) {
	changes := func(position string, keys ...string) answer {
		reply := &gen.WatchReply{Position: []byte(position)}
		for _, key := range keys {
			reply.Changes = append(reply.Changes, &gen.Change{Key: []byte(key), Version: 1})
		}
		return gives(&gen.KvWatchResult{Success: reply})
	}
	server := newFakeServer(t, changes("p0"), changes("p1", "a", "b"), changes("p2"), cuts, changes("p3", "c"), hangs)
	client := newTestClient(t, Config{}, server)
	ctx, cancel := context.WithCancel(background)
	watcher, err := client.Watch(ctx, "p")
	if err != nil || string(watcher.Position()) != "p0" {
		t.Fatal(err)
	}
	defer watcher.Close()
	var seen []string
	for i := 0; i < 3 && watcher.Next(); i++ {
		seen = append(seen, watcher.Change().Key+" "+string(watcher.Position()))
	}
	if fmt.Sprint(seen) != "[a p0 b p1 c p3]" {
		t.Fatal(seen, watcher.Err())
	}
	go func() {
		for len(server.seen()) < 6 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if watcher.Next() || !errors.Is(watcher.Err(), context.Canceled) {
		t.Fatal(watcher.Err())
	}
	for i, want := range []string{"", "p0", "p1", "p2", "p2", "p3"} {
		r := gen.NewWatchRequest()
		r.Read(background, server.seen()[i].body)
		if string(r.Position) != want || (r.WaitMs == 0) != (i == 0) {
			t.Fatal(i, r)
		}
	}
}

func TestWatcherEndsWithItsContext(t *testing.T) {
	reply := &gen.WatchReply{Position: []byte("p")}
	server := newFakeServer(t, func(c net.Conn, r request) bool {
		w := gen.NewWatchRequest()
		w.Read(background, r.body)
		time.Sleep(time.Duration(w.WaitMs) * time.Millisecond) // as a server does
		return send(c, r, &gen.KvWatchResult{Success: reply})
	})
	client := newTestClient(t, Config{}, server)
	ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
	defer cancel()
	watcher, err := client.Watch(ctx, "p", AfterVersion(7))
	if err != nil {
		t.Fatal(err)
	}
	if watcher.Next() || !errors.Is(watcher.Err(), context.DeadlineExceeded) || len(server.seen()) != 1 {
		t.Fatal(watcher.Err(), len(server.seen()))
	}
}

func TestDeleteRangeAddsUp(t *testing.T) {
	reply := func(removed int64, cursor string) answer {
		return gives(&gen.KvDeleteRangeResult{Success: &gen.DeleteRangeReply{Removed: removed, Cursor: []byte(cursor)}})
	}
	server := newFakeServer(t, reply(3, "c"), cuts, reply(4, ""))
	client := newTestClient(t, Config{}, server)
	removed, err := client.DeleteRange(background, Prefix("p"), MaxVersion(9), DeletePageRows(5))
	if err != nil || removed != 7 {
		t.Fatal(removed, err)
	}
	for i, r := range server.seen() {
		d := gen.NewDeleteRangeRequest()
		d.Read(background, r.body)
		if d.MaxVersion != 9 || d.LimitRows != 5 || len(r.context.ClientID) > 0 || (len(d.Cursor) > 0) != (i > 0) {
			t.Fatal(i, d)
		}
	}
}
